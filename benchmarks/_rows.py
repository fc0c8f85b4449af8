"""Rows of a benchmark: measured once, kept, and written as a page of results.

A row is a dictionary of measured values in a JSON file of its own, which appears when it is
complete, so that an interrupted benchmark resumes with the first row that is missing. Beside the
values it holds the `date`, the `machine` and the `settings` of the measurement. Files written
before rows had these are read as they are.
"""

import argparse
import base64
import datetime
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from keras_adaptive import report
from keras_adaptive._files import write_whole

RESULTS = Path(__file__).parent / "results"
_threads = {}


class Rows:
    """The rows of one benchmark, by name.

    Args:
        folder: Path of their files. Made with the first row.
        **settings: What the values of every row depend on: whatever JSON can hold, arrays, and
            objects of which their attributes say all.
    """

    def __init__(self, folder, **settings):
        self.folder = Path(folder)
        self.settings = settings

    def path(self, name):
        """Returns where a row is kept."""
        return self.folder / ("_".join(re.findall(r"[-.\w]+", str(name))) + ".json")

    def load(self, name, **settings):
        """Returns a row, `None` where there is none.

        Args:
            name: String.
            **settings: What this row's values depend on beside the settings of all.

        Raises:
            ValueError: If the row was measured with other settings.
        """
        path = self.path(name)
        if not path.exists():
            return None
        row = json.loads(path.read_text())
        row = {"rows": row} if isinstance(row, list) else row
        check_settings(row, {**self.settings, **settings}, path)
        return row

    def find(self, name, **settings):
        """Returns a row, `None` where there is none or one of other settings."""
        try:
            return self.load(name, **settings)
        except ValueError as error:
            print(f"Measured anew: {error}", flush=True)
            return None

    def measure(self, name, function, *arguments, **settings):
        """Returns a row; measures and keeps it if there is none with these settings.

        Args:
            name: String.
            function: Returns a dictionary of what is measured, or a list of such.
            *arguments: Passed to the function.
            **settings: As in `load`.
        """
        row = self.find(name, **settings)
        if row is None:
            print(self.path(name).stem, flush=True)
            row = self.save(name, function(*arguments), **settings)
        return row

    def save(self, name, values, **settings):
        """Keeps a row measured now, in place of the one there may be, and returns it.

        Args:
            name: String.
            values: Dictionary or list of dictionaries.
            **settings: As in `load`.
        """
        values = {"rows": values} if isinstance(values, list) else values
        row = _plain({**about({**self.settings, **settings}), **values})
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.path(name), json.dumps(row, indent=1, allow_nan=False) + "\n")
        return row

    def all(self):
        """Returns the rows there are, by the names of their files."""
        return {path.stem: self.load(path.stem) for path in sorted(self.folder.glob("*.json"))}


def about(settings):
    """Returns what a row says of its measurement."""
    facts = machine()
    return {"date": facts.pop("date"), "machine": facts, "settings": _plain(settings)}


def machine():
    """Returns date, processor, versions and, where they were set, threads."""
    return {**report.machine(), "date": datetime.date.today().isoformat(), **_threads}


def set_threads(count):
    """Limits TensorFlow to so many threads, which rows of this process then say."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(count)
    _threads["threads"] = count


def check_settings(row, settings, path):
    """Checks that a row was measured with these settings, as far as it says."""
    stored = row.get("settings", {})
    other = [key for key, v in _plain(settings).items() if key in stored and stored[key] != v]
    if other:
        raise ValueError(
            f"`{path}` must hold a row of the program's settings {', '.join(other)}. Received: "
            + ", ".join(f"{key}={stored[key]}, not {settings[key]}" for key in other)
        )


def child(program, *arguments):
    """Returns what a benchmark measures in a process of its own, in which nothing else is loaded.

    Args:
        program: String, its name; with `--child` and the arguments it prints a line of JSON.
        *arguments: Strings, numbers and paths.
    """
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{program}", "--child", *map(str, arguments)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def values(row, *without):
    """Returns a row as it is published: without settings, machine and packed arrays.

    Args:
        row: Dictionary.
        *without: Further keys, wherever they are.
    """
    if not isinstance(row, dict):
        return row
    left_out = {"settings", "machine", *without}
    return {k: values(v, *without) for k, v in row.items() if k not in left_out}


def _plain(value):
    """Returns a value as it comes back from JSON."""
    return json.loads(json.dumps(value, default=_plain_object))


def _plain_object(value):
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return {type(value).__name__: vars(value)}


# ---- results: one JSON file, and one page of it


def read(name):
    """Returns the published results of a benchmark."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def publish(name, results, lines, rows=(), folder=None):
    """Writes `<name>.json` and `<name>.md`, with date and machine.

    Args:
        name: String.
        results: Dictionary.
        lines: List of strings, the page, title first.
        rows: The rows that the results come from. Those that do not say where they were measured
            were where the published results were. None: all is measured now.
        folder: Path. By default that of all results.
    """
    folder, facts = folder or RESULTS, machine()
    if rows:
        machines = [_machine_of(row) for row in rows]
        if None in machines and (RESULTS / f"{name}.json").exists():
            facts = read(name)["machine"]
        facts = _together([found or facts for found in machines])
    facts["command"] = f"make bench-{name.replace('_', '-')}"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": facts, **results}, indent=2, allow_nan=False)
    write_whole(folder / f"{name}.json", text + "\n")
    head = [f"- {key}: {value}" for key, value in facts.items()]
    write_whole(folder / f"{name}.md", "\n".join([lines[0], "", *head, *lines[1:]]) + "\n")
    print("\n".join(lines))


def _machine_of(row):
    if "machine" not in row:
        return None
    return {**({"date": row["date"]} if "date" in row else {}), **row["machine"]}


def _together(machines):
    """Returns what several machines say, different values one after another."""
    found = {}
    for key in dict.fromkeys(key for facts in machines for key in facts):
        given = [facts[key] for facts in machines if key in facts]
        parts = dict.fromkeys(part for value in given for part in str(value).split("; "))
        several = sorted(parts) if key == "date" else list(parts)
        found[key] = given[0] if len(several) == 1 else "; ".join(several)
    return found


def run(name, description, measure, lines, **settings):
    """Runs a benchmark that is measured in one go, or writes its page again.

    Args:
        name: String.
        description: String, the docstring of the program.
        measure: Function without arguments: returns the results.
        lines: Function of the results: returns the page.
        **settings: What the results depend on, as of `Rows`.
    """
    if parser(description).parse_args().table:
        publish_again(name, lines, **settings)
        return
    results = _plain({"settings": settings, **measure()})
    publish(name, results, lines(results))


def publish_again(name, lines, **settings):
    """Writes the page of a benchmark again from its published results.

    Args:
        name: String.
        lines: As in `run`.
        **settings: As in `run`.
    """
    results = read(name)
    check_settings(results, settings, RESULTS / f"{name}.json")
    kept = {key: value for key, value in results.items() if key != "machine"}
    publish(name, kept, lines(results), [results])


def parser(description, rows=None):
    """Returns the parser of a benchmark's arguments.

    Args:
        description: String, the docstring of the program.
        rows: Names of rows, if they can be measured one by one.
    """
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    made.add_argument("--table", action="store_true", help="only write the page again")
    if rows is not None:
        made.add_argument("--row", choices=tuple(rows), nargs="*", help="rows to measure")
    return made


def page(*parts):
    """Returns the lines of a page.

    Args:
        *parts: Strings or lists of lines, with an empty line between two. Empty ones are left out.
    """
    lines = []
    for part in filter(len, parts):
        lines += ["", *([part] if isinstance(part, str) else part)]
    return lines[1:]


def table(columns, rows, cells=None):
    """Returns the lines of a Markdown table.

    Args:
        columns: Titles; or dictionary, keys of a row to titles; or a string, titles with ` | `
            between them.
        rows: Dictionaries, with the titles as keys if there are no others, whose numbers are
            written as their keys say; or lists of what is written as it is.
        cells: String, if the columns are one: what `str.format` makes a row of.
    """
    rows = list(rows)
    if cells is not None:
        columns, rows = columns.split(" | "), [cells.format(**row).split(" | ") for row in rows]
    if rows and isinstance(rows[0], dict):
        columns = columns if isinstance(columns, dict) else {title: title for title in columns}
    else:
        columns = {str(i): title for i, title in enumerate(columns)}
        rows = [{str(i): str(cell) for i, cell in enumerate(row)} for row in rows]
    return report.table(rows, columns)


# ---- which samples were right, in a row


def pack(array):
    """Returns an array's bytes as text."""
    return base64.b64encode(array.tobytes()).decode()


def unpack(text, dtype):
    """Returns the array that was packed, flat."""
    return np.frombuffer(base64.b64decode(text), dtype)


def outcome(right):
    """Returns what a row keeps of which samples each exit got right, `(exits, samples)`."""
    return {
        "accuracy": right.mean(axis=1).tolist(),
        "right": pack(np.packbits(right, axis=1)),
        "images": right.shape[1],
    }


def answers(row):
    """Returns which test images each exit got right, `(exits, images)`."""
    packed = unpack(row["right"], "uint8").reshape(len(row["accuracy"]), -1)
    return np.unpackbits(packed, axis=1, count=row["images"])


def difference(rows, others):
    """Returns the mean difference at each exit and its standard error, in points.

    Two things make it uncertain: the images (compared in pairs) and the seeds. The error
    of the images is that of the mean over seeds; that of the seeds is what two trainings
    differ by; the larger one counts.

    Args:
        rows: List of what `outcome` returned, one per seed.
        others: List of the same length.
    """
    gaps = np.stack(
        [answers(a) - answers(b).astype(float) for a, b in zip(rows, others, strict=True)]
    )
    mean = 100 * gaps.mean(axis=(0, 2))
    images = 100 * gaps.mean(axis=0).std(axis=1, ddof=1) / np.sqrt(gaps.shape[2])
    if len(rows) < 2:
        return mean, images
    seeds = 100 * gaps.mean(axis=2).std(axis=0, ddof=1) / np.sqrt(len(rows))
    return mean, np.maximum(images, seeds)
