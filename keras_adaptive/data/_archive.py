"""Tar files of images, unpacked once; nothing of them is written outside their folder."""

import contextlib
import hashlib
import json
import lzma
import os
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath

from anytime_tflite import pixels
from keras_adaptive._files import is_hidden, shown

# bounds of what an archive may unpack to: images hardly shrink when they are packed
RATIO = 100
ALWAYS = 2**30  # bytes

SOURCE = ".source.json"  # in an unpacked folder: of which archive it is a copy


def names_in(archive):
    """Returns the names of the files of a tar file that are not hidden, sorted.

    Raises:
        ValueError: If it is no tar file, or if a member is a link or a device, leads out of the
            folder, or is too large. The error names the member.
    """
    most = RATIO * archive.stat().st_size + ALWAYS
    names = []
    with _opened(archive) as opened:
        for member in opened:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise _refused(archive, member, "leads out of the folder")
            if is_hidden(str(path)):
                continue
            if not (member.isfile() or member.isdir()):
                raise _refused(archive, member, "is a link or a device")
            most -= member.size
            if member.size > pixels.BYTES or most < 0:
                raise _refused(archive, member, f"is too large, with {member.size} bytes")
            if member.isfile():
                names.append(str(path))
    return sorted(names, key=lambda name: name.split("/"))


def unpacked(archive, cache_dir, names):
    """Returns the folder that a tar file is unpacked to.

    It is unpacked when it has changed; its old copy goes.

    Args:
        archive: Path.
        cache_dir: Path, or `None`: that of tensorflow_datasets.
        names: List of strings, as `names_in` gives it: the files that are unpacked.
    """
    usual = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    root = Path(cache_dir or usual).expanduser() / "image_folders"
    place = str(archive.resolve())
    stat = archive.stat()
    source = {"archive": place, "bytes": stat.st_size, "modified": stat.st_mtime_ns}
    folder = root / hashlib.sha256(os.fsencode(place)).hexdigest()[:16]
    if _source_of(folder) == source:
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as part:  # a folder is there whole, or not at all
        images = Path(part) / "images"
        images.mkdir()
        wanted = set(names)
        with _opened(archive) as opened:
            members = (m for m in opened if str(PurePosixPath(m.name)) in wanted and m.isfile())
            opened.extractall(images, members=members, filter="data")
        (images / SOURCE).write_text(json.dumps(source), encoding="utf-8")
        with contextlib.suppress(FileNotFoundError):
            folder.rename(Path(part) / "old")
        try:
            images.rename(folder)
        except OSError:  # another program has just done the same
            if _source_of(folder) != source:
                raise
    return folder


def _source_of(folder):
    try:
        return json.loads((folder / SOURCE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def _opened(archive):
    try:
        with tarfile.open(archive) as opened:
            yield opened
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, OSError) as error:
        raise ValueError(
            "`data_dir` must be a folder or a tar file that is whole, or a CSV file. "
            f"Received: data_dir={archive} ({shown(str(error))})"
        ) from error


def _refused(archive, member, why):
    return ValueError(
        "`data_dir` must be a folder or a tar file of files that stay in their folder. "
        f"Received: data_dir={archive}, of which {shown(member.name)} {why}"
    )
