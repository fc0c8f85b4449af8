/** The file is missing, damaged, changed, of another kind, or of an unsupported version. */
export class FileError extends Error {
  override name = "FileError";
}
