"""Files that are written whole or not at all, and JSON."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import unicodedata
import uuid
from pathlib import Path

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

SYSTEM_FOLDERS = ("@eaDir", "__MACOSX")  # of network drives, and of archives
LARGEST = 64 * 2**20  # bytes of a JSON file that is read
DEEPEST = 100  # lists and objects within each other
DIGITS = 40  # of an integer


def as_path(path, argument="path"):
    """Returns a `Path`; what is neither a text nor a path is refused."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"`{argument}` must be a string or a path. Received: {argument}={path!r}")
    return Path(path)


def path_to_write(path):
    """Returns the path of a file that can be written, to be asked before work starts.

    Raises:
        TypeError, ValueError: If it is none: also that of a folder, or in one that does not exist.
    """
    path = as_path(path)
    if path.is_dir():
        raise ValueError(f"`path` must be a file. Received: path={path}, which is a folder")
    if not path.parent.is_dir():
        raise ValueError(f"The folder of `path` must exist. Received: path={path}")
    return path


def write_whole(path, content):
    """Writes bytes or text to a file that appears only when it is complete.

    Args:
        path: Path of the file. Its folder must exist.
        content: `bytes`, or `str`, which is written as UTF-8.

    Raises:
        TypeError, ValueError: As `path_to_write`.
    """
    path = path_to_write(path)
    content = content.encode("utf-8") if isinstance(content, str) else content
    with whole_file(path) as part, open(part, "xb") as file:
        file.write(content)


@contextlib.contextmanager
def whole_file(path, ending=""):
    """Gives a path to write a file at, which takes its place at `path` only when it is complete.

    Args:
        path: Path of the file. Its folder must exist.
        ending: String, how the name to write at must end.
    """
    part = path.parent / f".{path.name[:200]}.{uuid.uuid4().hex}{ending}"
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def check_new_folder(path, argument, must):
    """Checks that a folder is not there yet, or is empty, and can be made.

    Args:
        path: Path.
        argument: String, what an error calls the folder.
        must: String, what must hold, to begin the error with.

    Raises:
        ValueError: If something else is there.
    """
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise ValueError(f"{must}. Received: {argument}={path}")
    if not path.parent.is_dir():
        raise ValueError(f"The folder of `{argument}` must exist. Received: {argument}={path}")


@contextlib.contextmanager
def whole_folder(path):
    """Gives a folder to write in, which takes its place at `path` only when it is complete.

    Args:
        path: Path that `check_new_folder` lets through.
    """
    part = path.parent / f".{path.name[:200]}.{uuid.uuid4().hex}"
    try:
        part.mkdir()
        yield part
        part.replace(path)  # also over an empty folder
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def held(folder, file, message):
    """Holds a folder for this caller alone; the lock ends with the process, however it ends.

    Args:
        folder: Path of a folder, which is locked itself.
        file: Path of a file in it, which is locked where folders cannot be (Windows). Its own
            folder must exist.
        message: String, the error where somebody else holds the folder.

    Raises:
        ValueError: If somebody else holds it.
    """
    handle = os.open(folder, os.O_RDONLY) if fcntl else os.open(file, os.O_RDWR | os.O_CREAT)
    try:
        if not _lock(handle):
            raise ValueError(f"{message} Received: {folder}")
        yield
    finally:
        os.close(handle)


def _lock(handle):
    """Returns whether a lock was free; where the file system has none, nobody holds one."""
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
    return True


def read_json(path, what, largest=LARGEST):
    """Returns the content of a JSON file, of which little is believed beforehand.

    Size, nesting and digits are bounded before anything is parsed; NaN and infinities, which
    JSON does not have, are refused.

    Args:
        path: Path of the file.
        what: String, what the file is, to begin an error with.
        largest: Integer, the most bytes that it may have.

    Raises:
        ValueError: If it is not JSON, or larger or deeper than what is written here ever is.
    """
    with reading(path, f"{what} must hold JSON"):
        content = _read_at_most(path, largest)
        _check_depth(content)
        return json.loads(content.decode("utf-8"), parse_int=_integer, parse_constant=_no_constant)


@contextlib.contextmanager
def reading(path, must):
    """Lets whatever goes wrong with a file from outside be a ValueError that names it, in brief.

    Args:
        path: Path of the file.
        must: String, what must hold, to begin the error with.
    """
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"{must}. Received: path={path}, which does not exist") from None
    except Exception as error:
        named = isinstance(error, ValueError) and str(path) in str(error)
        if named and len(str(error)) < 1000:
            raise
        reason = shown(str(error) or type(error).__name__)
        raise ValueError(f"{must}. Received: path={path} ({reason})") from error


def shown(value, most=200):
    """Returns a value as one line of an error shows it: not too long, nothing unprintable."""
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text[: 2 * most].split())
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def in_one_spelling(name):
    """Returns a name as most systems spell it: macOS writes an umlaut as two characters."""
    return unicodedata.normalize("NFC", name)


def is_hidden(name):
    """Returns whether a file, or a folder that it is in, is hidden or the system's."""
    return any(part.startswith((".", *SYSTEM_FOLDERS)) for part in name.split("/"))


def is_utf8(text):
    """Returns whether UTF-8 can hold a text: what other encodings name a file by, it cannot."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def sha256(path):
    """Returns the SHA-256 digest of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_json(number):
    """Returns a number as JSON can hold it: infinities by names that `float` reads."""
    if np.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return float(number)


def as_json(value, name):
    """Returns a value as JSON holds it, Python's numbers and lists in place of NumPy's.

    Args:
        value: Object.
        name: String, what an error calls it.

    Raises:
        ValueError: If JSON has no such value.
    """
    try:
        text = json.dumps(value, allow_nan=False, default=_of_numpy)
        _check_depth(text.encode())  # as when it is read
        return json.loads(text, parse_int=_integer)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"`{name}` must hold what JSON can: texts, finite numbers, lists and dictionaries. "
            f"Received: {name}={shown(value)} ({shown(str(error))})"
        ) from error


def _of_numpy(value):
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__}")


def _read_at_most(path, largest):
    with open(path, "rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"more than {largest:,} bytes")
    return content


def _check_depth(content):
    """Raises a ValueError where brackets are within more brackets than JSON here ever has."""
    depth = 0
    for found in re.finditer(rb'"(?:[^"\\]|\\.?)*+(?:"|\Z)|[\[\]{}]', content, re.DOTALL):
        bracket = content[found.start()]
        if bracket in b"[{":
            depth += 1
            if depth > DEEPEST:
                raise ValueError(f"lists or objects nested more than {DEEPEST} deep")
        elif bracket in b"]}":
            depth -= 1


def _integer(digits):
    if len(digits) > DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _no_constant(name):
    raise ValueError(f"{name}, which is no JSON")
