"""Usual mistakes on the command line, and what is answered.

    make bench-mistakes

Each command runs in a process of its own, in a folder with a small run and some photographs;
the CPU time is that of the whole process.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import _rows
from keras_adaptive.cli import checks
from keras_adaptive.cli import folder as runs
from keras_adaptive.cli.arguments import parse

ROOT = Path(__file__).parent.parent
LIMIT = 2.0  # seconds of CPU
MISTAKES = [
    ("a command misspelled", ["evalute", "run"]),
    ("an option misspelled", ["evaluate", "run", "--bugdet-share", "0.5"]),
    ("a preset misspelled", ["train", "--data", "photos", "--preset", "cifar_budget_5"]),
    ("a data set misspelled", ["train", "--data", "cifar-10"]),
    ("a share given as MACs", ["evaluate", "run", "--budget", "0.5"]),
    ("percent given as a share", ["calibrate", "run", "--accuracy", "95"]),
    ("a budget below the first exit", ["evaluate", "run", "--budget-share", "0.001"]),
    ("a training into a folder of other files", ["train", "--out", "photos"]),
    ("a training into the folder of another", ["train", "--out", "run", "--epochs", "3"]),
    ("the name of a run misspelled", ["export", "rnu"]),
    ("no image in a batch", ["train", "--batch-size", "0", "--out", "run"]),
    ("a file that is no exported one", ["run", "run/model.keras", "photos/cat/1.png"]),
]


def prepare(folder):
    """Makes what the commands meet: a run (one that is shipped, by its report) and photographs."""
    (folder / "photos" / "cat").mkdir(parents=True)
    (folder / "photos" / "cat" / "1.png").write_bytes(b"\x89PNG")
    (folder / "run").mkdir()
    shipped = ROOT / "keras_adaptive" / "models" / "weights" / "cifar10"
    for name in ("report.json", "policy.json"):
        shutil.copy(shipped / name, folder / "run")
    (folder / "run" / "model.keras").write_bytes(b"PK")
    with runs.opened(folder / "run") as run, run.change() as new:  # writes a manifest
        new.facts["settings"] = checks.settings(parse(["train"]))


def answer(folder, arguments):
    """Returns the exit code of a command, what it said without its usage, and its CPU time."""
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-m", "keras_adaptive", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    after = os.times()
    seconds = sum(after[i] - before[i] for i in (2, 3))
    lines = done.stderr.splitlines()
    said = [line for line in lines if not line.startswith((" ", "usage:"))]
    return done.returncode, "\n".join(said).replace(str(folder), "."), seconds


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def measure():
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        before = contents(folder)
        for what, arguments in MISTAKES:
            began = time.perf_counter()
            code, said, seconds = answer(folder, arguments)
            row = {"mistake": what, "command": " ".join(arguments), "answer": said, "code": code}
            row |= {"cpu_s": seconds, "elapsed_s": time.perf_counter() - began}
            rows.append(row | {"unchanged": contents(folder) == before})
    return {"rows": rows}


def page(results):
    rows = results["rows"]
    slow = [row["mistake"] for row in rows if row["cpu_s"] > LIMIT]
    summary = (
        f"{len(rows)} mistakes; {sum(row['code'] == 2 for row in rows)} end with exit code 2, "
        f"{sum(row['unchanged'] for row in rows)} leave every file as it was, "
        f"{len(rows) - len(slow)} are answered within {LIMIT:g} s of CPU"
    )
    blocks = []
    for row in rows:
        head = f"$ keras-adaptive {row['command']}"
        tail = f"(exit code {row['code']}, {row['cpu_s']:.2f} s of CPU)"
        blocks += ["", f"## {row['mistake'][0].upper()}{row['mistake'][1:]}", "", "```"]
        blocks += [head, row["answer"], tail, "```"]
    return ["# Usual mistakes on the command line", "", summary + ".", *blocks]


if __name__ == "__main__":
    _rows.run("mistakes", __doc__, measure, page)
