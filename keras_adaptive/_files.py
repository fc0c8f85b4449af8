"""Files are written whole or not at all."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np


def write_whole(path, content):
    """Writes bytes or text to a file that appears only when it is complete.

    Args:
        path: Where to. Its folder must exist.
        content: `bytes` or `str`.

    Raises:
        ValueError: If the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"The folder of `path` must exist. Received: path={path}")
    content = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_json(path, what):
    """Returns the content of a JSON file.

    Args:
        path: Where from.
        what: String, what the file is, to begin an error with.

    Raises:
        ValueError: If it is no JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{what} must hold JSON. Received: path={path} ({error})") from error


def to_json(number):
    """JSON has no infinity; the names below are read by every language's parser."""
    if np.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return float(number)
