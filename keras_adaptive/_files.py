"""Files that are written whole or not at all, and JSON."""

import json
import os
import uuid
from pathlib import Path

import numpy as np


def write_whole(path, content):
    """Writes bytes or text to a file that appears only when it is complete.

    Args:
        path: Path of the file. Its folder must exist.
        content: `bytes`, or `str`, which is written as UTF-8.

    Raises:
        ValueError: If the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"The folder of `path` must exist. Received: path={path}")
    content = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.parent / f".{path.name[:200]}.{uuid.uuid4().hex}"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path, what):
    """Returns the content of a JSON file.

    Args:
        path: Path of the file.
        what: String, what the file is, to begin an error with.

    Raises:
        ValueError: If it is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{what} must hold JSON. Received: path={path} ({error})") from error


def to_json(number):
    """Returns a number as JSON can hold it: infinities by names that `float` reads."""
    if np.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return float(number)
