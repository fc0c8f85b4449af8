/** Reads flatbuffer tables. Every offset is checked, and the work that reading costs is bounded. */

/** The structure of the file is damaged. */
export class Damaged extends Error {}

/** Tables and, per 64, numbers that the check reads; more was not written by the exporter. */
export const WORK = 200_000;
const NAME = 1000; // letters of a signature's name, or of its inputs and outputs
const MORE = "it has more parts than the exporter ever writes";

/** Kinds of numbers, named as in Python's `struct`. */
export type Kind = "b" | "B" | "H" | "i" | "I" | "Q";
const BYTES: Record<Kind, number> = { b: 1, B: 1, H: 2, i: 4, I: 4, Q: 8 };

/** The bytes of a file, and how much work reading it may still cost. */
export class Source {
  readonly view: DataView;
  left = WORK;

  constructor(readonly content: Uint8Array) {
    this.view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  }

  spend(work: number): void {
    this.left -= work;
    if (this.left < 0) throw new Damaged(MORE);
  }

  read(kind: Kind, position: number): number {
    if (position < 0 || position + BYTES[kind] > this.content.length) {
      throw new Damaged("an offset points behind the file");
    }
    switch (kind) {
      case "b":
        return this.view.getInt8(position);
      case "B":
        return this.view.getUint8(position);
      case "H":
        return this.view.getUint16(position, true);
      case "i":
        return this.view.getInt32(position, true);
      case "I":
        return this.view.getUint32(position, true);
      case "Q":
        return Number(this.view.getBigUint64(position, true));
    }
  }

  follow(position: number): number {
    return position + this.read("I", position);
  }
}

/** A flatbuffer table: a record whose fields may be absent. */
export class Table {
  readonly #fields: number;
  readonly #size: number;

  constructor(readonly source: Source, readonly position: number) {
    source.spend(1);
    this.#fields = position - source.read("i", position);
    if (this.#fields < 0) throw new Damaged("an offset points before the file");
    this.#size = source.read("H", this.#fields);
    if (this.#size < 4 || this.#fields + this.#size > source.content.length) {
      throw new Damaged("a table is cut");
    }
  }

  /** Where a field is, or 0. */
  #at(field: number): number {
    if (6 + 2 * field > this.#size) return 0;
    const offset = this.source.read("H", this.#fields + 4 + 2 * field);
    return offset && this.position + offset;
  }

  number(field: number, kind: Kind = "i", otherwise = 0): number {
    const at = this.#at(field);
    return at ? this.source.read(kind, at) : otherwise;
  }

  table(field: number): Table | null {
    const at = this.#at(field);
    return at ? new Table(this.source, this.source.follow(at)) : null;
  }

  /** Start and length of a vector of numbers of `size` bytes, or `[0, 0]`. */
  vector(field: number, size = 1): [number, number] {
    const at = this.#at(field);
    if (!at) return [0, 0];
    const start = this.source.follow(at);
    const length = this.source.read("I", start);
    if (start + 4 + size * length > this.source.content.length) {
      throw new Damaged("a list is longer than the file");
    }
    return [start + 4, length];
  }

  /** The bytes of a string. */
  bytes(field: number): Uint8Array {
    const [start, length] = this.vector(field);
    if (length > NAME) throw new Damaged("a name is too long");
    return this.source.content.subarray(start, start + length);
  }

  text(field: number): string {
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(this.bytes(field));
    } catch (error) {
      if (error instanceof Damaged) throw error;
      throw new Damaged("a name is no text");
    }
  }

  /** A vector of int32, float32 (`f`) or int64 (`q`) numbers. */
  numbers(field: number, code: "i" | "f" | "q" = "i"): number[] {
    const size = code === "q" ? 8 : 4;
    const [start, length] = this.vector(field, size);
    this.source.spend(Math.floor(length / 64));
    const { view } = this.source;
    return Array.from({ length }, (_, i) => {
      const at = start + size * i;
      if (code === "i") return view.getInt32(at, true);
      return code === "f" ? view.getFloat32(at, true) : Number(view.getBigInt64(at, true));
    });
  }

  /** A vector of at most so many tables. */
  tables(field: number, most = WORK): Table[] {
    const [start, length] = this.vector(field, 4);
    if (length > Math.min(most, this.source.left)) throw new Damaged(MORE);
    return Array.from(
      { length },
      (_, i) => new Table(this.source, this.source.follow(start + 4 * i)),
    );
  }

  /** Throws if one of some vectors, which the exporter leaves out, has a length. */
  refuse(fields: number[], what: string): void {
    if (fields.some((field) => this.vector(field)[1])) {
      throw new Damaged(`${what} is not written by the exporter`);
    }
  }
}

/** The table of the whole model. */
export function root(content: Uint8Array): Table {
  const source = new Source(content);
  return new Table(source, source.follow(0));
}

export function within(numbers: readonly number[], length: number, what: string, least = 0): void {
  if (numbers.some((number) => !(least <= number && number < length))) {
    throw new Damaged(`${what} is missing`);
  }
}

export const METADATA = 100; // entries

/** Start and length of the metadata of a name, or `null`. */
export function metadata(content: Uint8Array, name: string): [number, number] | null {
  const model = root(content);
  const wanted = new TextEncoder().encode(name);
  for (const entry of model.tables(6, METADATA)) {
    if (entry.vector(0)[1] !== wanted.length) continue;
    const found = entry.bytes(0);
    if (!wanted.every((byte, i) => found[i] === byte)) continue;
    const buffers = model.tables(4);
    const number = entry.number(1, "I");
    within([number], buffers.length, "metadata");
    return buffers[number].vector(0);
  }
  return null;
}
