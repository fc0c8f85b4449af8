"""Which files of a folder are images, of which class and which split: by their names alone."""

import csv
import functools
import io
import os
import posixpath
from pathlib import Path
from typing import NamedTuple

from keras_adaptive._files import in_one_spelling, is_hidden, shown

SPLIT_FOLDERS = {  # in small letters
    "train": "train",
    "training": "train",
    "calibrate": "calibrate",
    "validation": "calibrate",
    "valid": "calibrate",
    "val": "calibrate",
    "test": "test",
    "testing": "test",
}
# columns of a CSV file
PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path")
LABELS = ("label", "class", "class_name", "category", "target")
SPLITS = ("split", "subset", "set")

CSV_BYTES = 2**28


class Entry(NamedTuple):
    """An image file.

    Attributes:
        name: String, its path inside the folder.
        label: String, the name of its class.
        split: "train", "calibrate" or "test"; `None`: the folder is not divided.
    """

    name: str
    label: str
    split: str | None = None


class Stray(NamedTuple):
    """A file that is left out: its path inside the folder, and why."""

    name: str
    reason: str


def files_in(folder):
    """Returns the names of all files that are not hidden, sorted, and the links that lead out.

    Links to folders are not followed, and files outside the folder are not read, nor those of a
    run that was written there.
    """
    root = folder.resolve()
    names, strays = [], []

    def leave_out(error):
        place = os.path.relpath(error.filename, root)
        strays.append(Stray(place, f"a folder that cannot be read: {error.strerror}"))

    for where, folders, files in os.walk(root, onerror=leave_out):
        if {"model.keras", "report.json"} <= {*files}:
            folders[:] = []
            continue
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in (*folders, *files):
            path = Path(where, name)
            inside = path.relative_to(root).as_posix()
            if name in folders:
                if path.is_symlink():
                    strays.append(Stray(inside, "a link to a folder"))
            elif is_hidden(inside):
                continue
            elif path.is_symlink() and not _leads_into(root, path):
                strays.append(Stray(inside, "a link that leads out of the folder"))
            elif path.is_file():
                names.append(inside)
            else:
                strays.append(Stray(inside, "no file"))
    return sorted(names, key=_parts), strays


def _leads_into(root, link):
    try:
        return link.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a circle of links
        return False


def _parts(name):
    return name.split("/")


def arranged(names):
    """Returns the images of folders named by class, or by split and class, and the other files.

    Args:
        names: List of strings, paths inside a folder, with slashes.

    Returns:
        List of `Entry` and list of `Stray`. Folders above those of splits and classes do not
        matter. There is no entry if nothing is arranged so.
    """
    found = {}
    for name in names:
        *folders, _ = _parts(name)
        for place, folder in enumerate(folders[:-1]):
            if folder.lower() in SPLIT_FOLDERS:
                label = in_one_spelling(folders[place + 1])
                found[name] = Entry(name, label, SPLIT_FOLDERS[folder.lower()])
                break
    found = dict(zip(found, _with_test(found.values()), strict=True))
    if {"train", "test"} & {entry.split for entry in found.values()}:
        reason = "neither in train/<class>/ nor in test/<class>/"
    else:
        above = _common_folders(names)
        inside = {name: _parts(name)[above:] for name in names}
        found = {n: Entry(n, in_one_spelling(p[0])) for n, p in inside.items() if len(p) > 1}
        reason = "not in the folder of a class"
    strays = [Stray(name, reason) for name in names if name not in found]
    return list(found.values()), strays


def _with_test(entries):
    """Returns the images; those held out from training are the test split if there is no other."""
    entries = list(entries)
    if {entry.split for entry in entries} == {"train", "calibrate"}:
        splits = {"calibrate": "test"}
        return [entry._replace(split=splits.get(entry.split, entry.split)) for entry in entries]
    return entries


def _common_folders(names):
    """Returns how many folders, one in the other, stand above those of the classes."""
    above = 0
    while True:
        folders = [_parts(name)[above:-1] for name in names]
        first = {path[0] for path in folders if path}
        if len(first) != 1 or not any(len(path) > 1 for path in folders):
            return above
        above += 1


def listed(path, folder):
    """Returns the images that a CSV file names.

    Args:
        path: Path of the file. It has columns for the path inside the folder, the label and, if
            it is to, the split; the first line may name them.
        folder: Path of the folder.

    Raises:
        ValueError: If it cannot be read, names a file outside the folder, or one file with two
            labels.
    """
    folder = folder.resolve()

    @functools.cache
    def spellings():
        return {in_one_spelling(name): name for name in files_in(folder)[0]}

    rows = _rows(path)
    columns = _columns(rows[0][1], folder, path, spellings) if rows else None
    if columns is None:
        raise ValueError(
            "A CSV file must have columns for paths and labels, named path and label in its "
            f"first line. Received: {path}"
        )
    *places, named = columns
    found = {}
    for line, cells in rows[named:]:
        values = [cells[i].strip() if i is not None and i < len(cells) else "" for i in places]
        entry = _entry(*values, folder, f"{path}, line {line}", spellings)
        before = found.setdefault(entry.name, entry)
        if before != entry:
            raise ValueError(
                "A CSV file must give an image one label and one split. "
                f"Received: {path}, line {line}: {shown(entry.name)}"
            )
    entries = sorted(_with_test(found.values()), key=lambda entry: _parts(entry.name))
    undivided = sum(entry.split is None for entry in entries)
    if 0 < undivided < len(entries):
        raise ValueError(
            f"A CSV file must name the split of all images or of none. Received: {path}, which "
            f"does not for {undivided} of {len(entries)}"
        )
    return entries


def _rows(path):
    """Returns the lines of a CSV file that are not empty: their numbers and cells."""
    with open(path, "rb") as file:
        content = file.read(CSV_BYTES + 1)
    if len(content) > CSV_BYTES:
        raise ValueError(f"A CSV file must have at most {CSV_BYTES} bytes. Received: {path}")
    try:
        text = content.decode("utf-8-sig")
        first = text.partition("\n")[0]
        delimiter = max(",;\t", key=first.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        return [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"A CSV file must be text in UTF-8 with columns. Received: {path} ({error})"
        ) from error


def _columns(cells, folder, path, spellings):
    """Returns the columns of path, label and split, and how many lines name them."""
    names = [cell.strip().lower() for cell in cells]
    found = [
        next((names.index(name) for name in known if name in names), None)
        for known in (PATHS, LABELS, SPLITS)
    ]
    if None not in found[:2]:
        return *found, 1
    first = _existing(cells[0].strip(), folder, path, spellings)
    if len(cells) in (2, 3) and os.path.isfile(first):
        return 0, 1, 2 if len(cells) == 3 else None, 0
    return None


def _entry(name, label, split, folder, where, spellings):
    if not name or not label:
        raise ValueError(f"A line of a CSV file must have a path and a label. Received: {where}")
    if split and split.lower() not in SPLIT_FOLDERS:
        raise ValueError(
            "The split in a CSV file must be train, calibrate or test. "
            f"Received: {where}: {shown(split)}"
        )
    path = _existing(name, folder, where, spellings)
    inside = path.relative_to(folder).as_posix()
    return Entry(inside, in_one_spelling(label), SPLIT_FOLDERS[split.lower()] if split else None)


def _existing(name, folder, where, spellings):
    """Returns the path of a file, which another system may spell in another way."""
    path = _inside(name, folder, where)
    if os.path.isfile(path):
        return path
    found = spellings().get(in_one_spelling(posixpath.normpath(name.replace("\\", "/"))))
    return path if found is None else _inside(found, folder, where)


def _inside(name, folder, where):
    """Returns the path of a file that is named relative to a folder, and is in it."""
    try:
        path = Path(folder, name).resolve()
        inside = path.is_relative_to(folder)
    except (ValueError, OSError, RuntimeError) as error:  # NUL characters, links in a circle
        raise ValueError(f"A CSV file must hold paths. Received: {where} ({error})") from error
    if not inside:
        raise ValueError(
            f"A CSV file must name files in its own folder. Received: {where}: {shown(name)}"
        )
    return path
