"""Commands killed at many moments: is anything lost, mixed up, unusable, or another result?

    make bench-chaos

Each try is one command in a process of its own, killed by SIGKILL: half of them 0 to 30 ms after
the n-th change of a file in the folder of the run, half at a random moment after work has begun.
What is then in the folder is looked at by the means of the next command, and a training is ended
by giving its command again. The network is tiny and computes without graphs, as in the tests; the
code that writes files is that of users. A try is a row, kept in `runs/chaos`.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks import _rows

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "runs" / "chaos"
WAIT = 0.03  # seconds after a change, at most
TRAIN = ["--epochs", "4", "--train-limit", "96", "--regime", "mixed", "--seed", "3"]
# command: its arguments behind the folder's, and how many tries of each kind
COMMANDS = {
    "train": (TRAIN, 36),
    "overwrite": ([*TRAIN, "--overwrite"], 12),
    "evaluate": (["--budget-share", "0.9"], 36),
    "export": (["--quantize", "float16"], 24),
    "sweep": ([], 12),
    "score": (["--shard-size", "25", "--workers", "1"], 50),
}
SCORED = 1000  # pictures of `score`, in shards of 25
KINDS = ("aimed", "random")
BEGUN = {"train": "train: msdnet", "overwrite": "train: msdnet"}  # what is said when work begins
FAULTS = ("lost", "mixed", "unusable", "different")
FIGURES = ("killed", "between", *FAULTS)


# ---- the command that is killed


def work(command, folder, *arguments):
    import tensorflow as tf

    from keras_adaptive.cli import main
    from keras_adaptive.cli import train as program
    from keras_adaptive.training import resuming

    tf.config.run_functions_eagerly(True)
    program.DIGITS_NETWORK.update(blocks=2, step_mode="even")
    resuming.SECONDS = 0  # more to be killed at
    if command == "sweep":
        sweep(folder)
    elif command == "score":
        model = ROOT / "tflite" / "testdata" / "files" / "float32.tflite"
        how = ["--model", str(model), "--output", folder, *arguments]
        main(["score", str(FOLDER / "pictures"), *how])
    elif command in ("train", "overwrite"):
        main(["train", "--out", folder, *arguments])
    else:
        main([command, folder, *arguments])


def write_pictures(folder):
    """Writes pictures, and two files that are none."""
    from PIL import Image

    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(SCORED):
        pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
    for name in ("a.png", "z.png"):
        (folder / name).write_bytes(b"no picture")


def sweep(folder):
    """Trains the policies of a chain of two tiny members for three cost weights."""
    import keras

    import keras_adaptive as ka

    keras.utils.set_random_seed(0)
    tiny = {"blocks": 1, "channels": 2, "growth_rate": 1, "head_channels": 2}
    members = [ka.build_msdnet((8, 8, 1), 10, **tiny) for _ in range(2)]
    model = ka.build_cascade(members, stopping=ka.layers.StoppingPolicy(units=2))
    data = ka.data.load("digits", train_limit=96).arrays("train")
    print("sweep: begins", flush=True)
    ka.sweep(model, data, data, cost_weights=(1e-4, 1e-3, 1e-2), folder=folder, epochs=2, seed=0)


# ---- one try


class Started:
    """A command in a process of its own, copied from one that has imported the library."""

    def __init__(self, arguments):
        out, into = os.pipe()
        sys.stdout.flush()
        self.pid, self.returncode = os.fork(), None
        if self.pid == 0:
            os.close(out)
            os.dup2(into, 1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
            code = 1
            try:
                os.chdir(ROOT)
                work(*map(str, arguments))
                code = 0
            except SystemExit as end:
                code = end.code or 0
            finally:
                sys.stdout.flush()
                os._exit(code if isinstance(code, int) else 1)
        os.close(into)
        self.stdout = os.fdopen(out)

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def end(self):
        """Waits for the end; what is said is read and forgotten."""
        self.stdout.read()
        self.stdout.close()
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


def start(command, folder):
    name = "train" if command == "overwrite" else command
    return Started([name, folder, *COMMANDS[command][0]])


def seen(folder):
    """Returns what can change of every file in a folder."""
    found = {}
    for place, _, names in os.walk(folder):  # what goes meanwhile is passed over
        for name in names:
            with contextlib.suppress(OSError):
                stat = os.stat(os.path.join(place, name))
                found[place, name] = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
    return found


def changes(before, after):
    return sum(before.get(k) != after.get(k) for k in {*before, *after})


def unbroken(command, folder):
    """Runs a command to its end: how often files change, and how long it works."""
    process, count, before = start(command, folder), 0, seen(folder)
    begun = wait_for_work(command, process)
    while process.poll() is None:
        after = seen(folder)
        count, before = count + changes(before, after), after
        time.sleep(0.001)
    if process.end():
        raise RuntimeError(
            f"{command} must end by itself. Received: exit code {process.returncode}"
        )
    return {"changes": count + changes(before, seen(folder)), "seconds": time.time() - begun}


def wait_for_work(command, process):
    for line in process.stdout:
        if line.startswith(BEGUN.get(command, f"{command}: ")) and "loading" not in line:
            break
    return time.time()


def kill(command, kind, folder, whole, rng):
    """Starts a command and kills it; returns whether it was alive."""
    process, before = start(command, folder), seen(folder)
    wait_for_work(command, process)
    if kind == "random":
        time.sleep(rng.uniform(0, whole["seconds"]))
    else:
        left = rng.integers(1, whole["changes"] + 1)
        while left > 0 and process.poll() is None:
            after = seen(folder)
            left, before = left - changes(before, after), after
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, WAIT))
    alive = process.poll() is None
    if alive:
        os.kill(process.pid, signal.SIGKILL)
    process.end()
    return alive


def attempt(command, kind, number):
    """Returns what one kill did."""
    rng = np.random.default_rng([list(COMMANDS).index(command), KINDS.index(kind), number])
    base, whole = prepared(command)
    folder = FOLDER / "try"
    shutil.rmtree(folder, ignore_errors=True)
    if base is not None:
        shutil.copytree(base, folder)
        (folder / "notes.txt").write_text("mine")
    else:
        folder.mkdir(parents=True)
    row = {"command": command, "kind": kind, **dict.fromkeys(FAULTS, 0)}
    row["killed"] = int(kill(command, kind, folder, whole, rng))
    alone = {"sweep": look_at_sweep, "score": look_at_sweep, "train": look_at_training}
    look = alone.get(command, look_at_run)
    try:
        found = look(command, folder)
    except Exception as error:  # whatever it is, the folder cannot be used
        found = {"unusable": 1, "why": repr(error)[:300]}
    shutil.rmtree(folder)
    return {**row, **found}


def look_at_run(command, folder):
    """Looks at a folder that had a run before the command."""
    from keras_adaptive.cli import folder as runs

    between = not fits(folder)
    with runs.opened(folder):  # what every command does first
        pass
    after = state(folder)
    found = {"lost": int(not (folder / "notes.txt").exists()), "mixed": int(not fits(folder))}
    base, _ = prepared(command)
    old, new = state(base), state(FOLDER / f"{command}_whole")
    found["lost"] |= int(not (old.items() <= after.items() or new.keys() <= after.keys()))
    found["between"] = int(between)
    if command == "overwrite":
        found |= resumed(command, folder)
    return found


def look_at_training(command, folder):
    return {"mixed": 0, **resumed(command, folder)}


def look_at_sweep(command, folder):
    return resumed(command, folder)


def resumed(command, folder):
    """Gives the command again, and compares what it ends with to what it ends with unbroken."""
    code = start(command, folder).end()
    if code:
        return {"unusable": 1, "why": f"exit code {code}"}
    different = outcome(folder) != outcome(FOLDER / f"{command}_whole")
    has_run = command not in ("sweep", "score")
    return {"different": int(different), "mixed": int(has_run and not fits(folder))}


def state(folder):
    """Returns the files of a run, by digest."""
    from keras_adaptive._files import sha256

    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): sha256(path)
        for path in files
        if ".keras_adaptive" not in path.parts
    }


def fits(folder):
    """Returns whether the files of a run are of one state, and tell of one policy."""
    from anytime_tflite import read_info
    from keras_adaptive import ExitPolicy, report
    from keras_adaptive._files import sha256

    manifest = json.loads((folder / "manifest.json").read_text())
    if any(sha256(folder / name) != digest for name, digest in manifest["files"].items()):
        return False
    told = report.read_report(folder / "report.json")
    fitting = (folder / "card.md").read_text() == report.card(told)
    fitting &= (folder / "report.md").read_text() == report.markdown(told)
    if (folder / "policy.json").exists():
        policy = ExitPolicy.load(folder / "policy.json").thresholds
        if "exits" in told:
            rows = [float(row["threshold"]) for row in told["exits"]]
            fitting &= np.array_equal(rows, policy)
        if (folder / "model.tflite").exists():
            info = read_info(folder / "model.tflite")
            fitting &= np.allclose([float(t) for t in info["thresholds"]], policy)
    return bool(fitting) and ("device" in told) == (folder / "model.tflite").exists()


def outcome(folder):
    """Returns what must be equal to the bit: weights, history, rows of a sweep, answers."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                found[path.name] = archive.read("model.weights.h5")
        elif path.name == "history.csv" or path.name.endswith(".policy.json"):
            found[path.name] = path.read_text()
        elif path.suffix == ".parquet" or path.name in ("errors.jsonl", "summary.json"):
            found[path.name] = path.read_bytes()
    return found


def prepared(command):
    """Returns the folder that a command meets, and how long it works; makes both once."""
    base = None
    if command in ("evaluate", "export", "overwrite"):
        base = FOLDER / "base"
        if not base.exists():
            part = FOLDER / "base_part"
            shutil.rmtree(part, ignore_errors=True)
            for name, *arguments in (
                ("train", "--epochs", "2", "--train-limit", "96"),
                ("evaluate", "--budget-share", "0.8"),
                ("export",),
            ):
                if Started([name, part, *arguments]).end():
                    raise RuntimeError(f"{name} must end by itself")
            part.rename(base)
    if command == "score" and not (FOLDER / "pictures" / "z.png").exists():
        write_pictures(FOLDER / "pictures")
    facts = FOLDER / f"{command}_whole.json"
    if not facts.exists():
        whole = FOLDER / f"{command}_whole"
        shutil.rmtree(whole, ignore_errors=True)
        if base is None:
            whole.mkdir(parents=True)
        else:
            shutil.copytree(base, whole)
        facts.write_text(json.dumps(unbroken(command, whole)))
    return base, json.loads(facts.read_text())


# ---- all tries


def tries():
    for command, (_, count) in COMMANDS.items():
        for kind in KINDS:
            for number in range(count):
                yield command, kind, number


def page(rows):
    table = []
    for command in COMMANDS:
        for kind in KINDS:
            these = [r for r in rows if (r["command"], r["kind"]) == (command, kind)]
            if these:
                sums = {key: sum(r.get(key, 0) for r in these) for key in FIGURES}
                table.append({"command": command, "moment": kind, "tries": len(these), **sums})
    return _rows.page(
        "# Commands killed at any moment",
        f"{len(rows)} tries. `killed`: before the command had ended. `between`: among the renames "
        "with which a new state takes its place, which the next command ends. `lost`: a file that "
        "was there is neither as it was nor as the command leaves it. `mixed`: files of two "
        "states, or of two policies. `unusable`: the next command fails. `different`: the same "
        "command, given again, ends with other weights, history or answers than unbroken.",
        _rows.table(list(table[0]), table) if table else "",
    )


def main():
    parser = _rows.parser(__doc__)
    parser.add_argument("--tries", type=int, help="only so many more of each kind")
    parser.add_argument("--command", choices=COMMANDS, nargs="*", default=tuple(COMMANDS))
    options = parser.parse_args()
    os.environ["MPLBACKEND"] = "Agg"
    import tensorflow  # noqa: F401  # imported only: a process in which it works must not fork

    import keras_adaptive.cli  # noqa: F401  # what every command begins with, once for all

    rows = _rows.Rows(FOLDER / "rows", train=TRAIN)
    done = Counter()
    for command, kind, number in tries():
        name = f"{command}_{kind}_{number:03d}"
        if options.table or command not in options.command or rows.load(name) is not None:
            continue
        done[command, kind] += 1
        if options.tries is None or done[command, kind] <= options.tries:
            rows.measure(name, attempt, command, kind, number)
    found = list(rows.all().values())
    results = {"rows": [_rows.values(row, "date") for row in found]}
    _rows.publish("chaos", results, page(found), found)


if __name__ == "__main__":
    main()
