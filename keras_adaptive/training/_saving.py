"""Files that Keras writes, replaced only by whole ones."""

import os
from pathlib import Path

from keras_adaptive._files import whole_file


def save_whole(save, filepath, overwrite, ending):
    """Lets Keras write a file beside the one that it replaces when it is complete.

    Args:
        save: Function `(filepath, overwrite)` of Keras.
        filepath, overwrite: As for Keras.
        ending: String, how the names of single files end; `None`: Keras writes several.
    """
    path = Path(os.path.realpath(filepath))  # what a link names, not the link
    is_file = ending is not None and str(filepath).endswith(ending) and "://" not in str(filepath)
    if not is_file or path.is_dir() or not path.parent.is_dir():
        save(filepath, overwrite)
    elif overwrite or not path.exists() or _may_be_replaced(filepath):
        with whole_file(path, ending) as part:
            save(part, True)


def _may_be_replaced(filepath):
    """Returns the answer to the question that Keras asks of a file that is there."""
    answer = ""
    while answer not in ("y", "n"):
        answer = input(f"[WARNING] {filepath} already exists - overwrite? [y/n]").strip().lower()
    return answer == "y"
