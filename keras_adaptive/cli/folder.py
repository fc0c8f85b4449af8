"""The folder of a run: one consistent state, that is changed as a whole.

    model.keras history.csv policy.json model.tflite report.* card.md pictures/*.png
    manifest.json        whose run this is (settings, splits), and the digest of each file above
    .keras_adaptive/     what is not finished; gone when nothing is
        training-*/      a training: its settings, its history, its backups
        new-*/           a new state that is being written
        next/            a new state that is whole

A new state is written into `new-*`, and renamed to `next` when it is whole: from then on it is
the state of the run. What remains, two renames for each file, is done within a tenth of a
millisecond, and after a kill by whichever command opens the folder next. A file that the
manifest does not list, or with another digest, is the user's and stays as it is.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import json
import os
import re
import shutil
import sys
import uuid
import warnings
from itertools import zip_longest

from keras_adaptive._checks import preprocessing
from keras_adaptive._files import held, read_json, reading, sha256, shown, write_whole

FORMAT, VERSION = "keras_adaptive.Run", 1
MANIFEST, WORK, OWNER = "manifest.json", ".keras_adaptive", "run.json"
TRAINED = ("model.keras", "history.csv")
WRITTEN = ("report.json", "report.md", "report.html", "card.md")  # by `report.write`
NAMES = (*TRAINED, "policy.json", "model.tflite", *WRITTEN)
PICTURE = re.compile(r"pictures/\w[\w-]*\.png", re.ASCII)
DIGEST = re.compile(r"[0-9a-f]{64}")
# keys of report.json
RESULTS = ("policy", "exits", "result", "budgets", "device", "measurements", "pictures")
ROOM = 32 * 2**20  # bytes that reports and pictures may take
LARGEST = 2**32  # bytes of what a model.keras unpacks to
LARGEST_HISTORY = 16 * 2**20


# ---- one command at a time


@contextlib.contextmanager
def locked(folder, only_read=False):
    """Holds a folder for this command alone; the lock ends with the process, however it ends.

    Args:
        folder: `Path` of a folder.
        only_read: Boolean: what only reads one file does so whoever holds the folder.

    Raises:
        ValueError: If another command holds it.
    """
    if only_read:
        yield
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"The folder must be one that can be written. Received: {folder}")
    if os.name == "nt":  # where a file in the folder is locked
        (folder / WORK).mkdir(exist_ok=True)
    message = "The folder must not be in use: another command is at work in it; wait for its end."
    with held(folder, folder / WORK / "lock", message):
        _finish(folder)
        yield


def _finish(folder):
    """Ends what a kill interrupted: a whole new state takes its place, half ones are removed."""
    work = folder / WORK
    _check_no_link(work)
    if not work.is_dir():
        return
    if (work / "next").is_dir():
        _take(folder)
    for path in work.iterdir():
        unfinished = path.name.startswith("training-") and not (path / OWNER).exists()
        if path.name.startswith("new-") or unfinished:
            shutil.rmtree(path, ignore_errors=True)  # which follows no links
    _remove_if_empty(work)


def _take(folder):
    """Puts the files of a whole new state in their places; done as often as you like."""
    state = folder / WORK / "next"
    kept = state / "old"
    for path in (state, state / "pictures", kept, kept / "pictures", folder / "pictures"):
        _check_no_link(path)
    plan = read_json(state / "changes.json", "A new state of a run")
    names = [*NAMES, MANIFEST]
    changes = [plan.get(key) if isinstance(plan, dict) else None for key in ("remove", "write")]
    for name in sum((c if isinstance(c, list) else [None] for c in changes), []):
        if not isinstance(name, str) or not (name in names or PICTURE.fullmatch(name)):
            raise ValueError(
                f"A new state of a run must hold files of a run. Received: {shown(name)} in {state}"
            )
    remove, write = changes
    if any(name.startswith("pictures/") for name in write):
        (folder / "pictures").mkdir(exist_ok=True)
    (kept / "pictures").mkdir(parents=True, exist_ok=True)
    # What tells of a policy comes last, in one go: a rename to where nothing is takes 10 us, one
    # that replaces a file may wait for the disk.
    moves = []
    for name in sorted({*remove, *write}, key=lambda name: (name == MANIFEST, name in NAMES)):
        new, place = f"{state}/{name}", f"{folder}/{name}"
        if name in write and not os.path.exists(new):  # moved before a kill
            continue
        if os.path.lexists(place):
            moves.append((place, f"{kept}/{name}"))
        if name in write:
            moves.append((new, place))
    for source, target in moves:
        os.replace(source, target)
    _remove_if_empty(folder / "pictures")
    if plan.get("trained"):
        for path in (folder / WORK).glob("training-*"):
            shutil.rmtree(path)
    done = state.with_name(f"new-{uuid.uuid4().hex[:12]}")
    os.rename(state, done)
    shutil.rmtree(done)


def _check_no_link(path):
    """Raises a ValueError if what is written in would be somewhere else."""
    if path.is_symlink():
        raise ValueError(f"{path.name} must be a folder, not a link. Received: {path}")


def _remove_if_empty(folder):
    with contextlib.suppress(OSError):
        folder.rmdir()


# ---- a run


class Run:
    """The run in a folder, which is held.

    Args:
        folder: `Path`.

    Attributes:
        folder: `Path`.
        manifest: Dictionary: `settings`, `splits`, `files`. `None`: there is no finished run.
    """

    def __init__(self, folder):
        self.folder = folder
        self.manifest = None
        if (folder / MANIFEST).exists():
            self.manifest = _read_manifest(folder / MANIFEST)
        elif (folder / "report.json").exists():
            self.manifest = self._before_manifests()

    def _before_manifests(self):
        """Returns the manifest of a run without one: what has the name of a result is one."""
        report = self.report()
        pictures = [picture["file"] for picture in report.get("pictures", {}).values()]
        names = [*NAMES, *filter(PICTURE.fullmatch, pictures)]
        files = {name: sha256(self.folder / name) for name in names if self._holds(name)}
        return {"settings": None, "splits": report["run"]["splits"], "files": files}

    def _holds(self, name):
        return (self.folder / name).is_file()

    def report(self):
        from keras_adaptive.report.form import read_report

        return read_report(self.folder / "report.json")

    def policy(self, exits=None, model=None):
        """Returns the policy, checked to be one of so many exits, or of a network."""
        from keras_adaptive.policy.exit_policy import ExitPolicy

        path = self.folder / "policy.json"
        if not path.exists():
            raise ValueError(
                f"The folder must hold policy.json: run `calibrate {self.folder}` or "
                f"`evaluate {self.folder}` first. Received: {self.folder}"
            )
        with reading(path, "policy.json must be a policy written by `calibrate`"):
            policy = ExitPolicy.load(path)
            if model is not None:
                model.exits_of(policy)
            elif exits is not None:
                policy.exits_of(exits)
        return policy

    def history(self):
        """Returns what training logged, a column for each name, or `None`."""
        import numpy as np

        path = self.folder / "history.csv"
        if not path.exists():
            return None
        with reading(path, "history.csv must hold a row per epoch, as `train` wrote it"):
            if path.stat().st_size > LARGEST_HISTORY:
                raise ValueError(f"more than {LARGEST_HISTORY:,} bytes")
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                table = np.genfromtxt(path, delimiter=",", names=True, encoding="utf-8")
            columns = {name: np.atleast_1d(table[name]) for name in table.dtype.names}
            if (
                "exit_0_accuracy" not in columns
                or not np.isfinite(columns["exit_0_accuracy"]).all()
            ):
                raise ValueError("no numbers named exit_0_accuracy")
            return columns

    def open(self):
        """Returns the report, the model and the data."""
        import keras

        from keras_adaptive.training.adaptive_model import AdaptiveModel

        report = self.report()
        if "source" not in report["run"]:
            raise ValueError(
                "report.json must say where the data is, as `run.source`. "
                f"Received: path={self.folder / 'report.json'}"
            )
        path = self.folder / "model.keras"
        with reading(path, "model.keras must be a network saved by `train`"):
            _check_archive(path)
            model = keras.models.load_model(path, compile=False)
            if not isinstance(model, AdaptiveModel):
                raise ValueError(f"a {type(model).__name__}, not an AdaptiveModel")
        splits = self._data(report)
        network = (*model.inputs[0].shape[1:], model.outputs[-1].shape[-1])
        data = (*splits.input_shape, len(splits.class_names))
        if len(network) != len(data) or any(
            a not in (None, b) for a, b in zip(network, data, strict=True)
        ):
            raise ValueError(
                "model.keras must be a network for the data of the run, with (height, width, "
                f"channels, classes) = {data}. Received: path={path}, a network for {network}"
            )
        names = report["run"].get("class_names", splits.class_names)
        if names != splits.class_names:
            pairs = zip_longest(splits.class_names, names, fillvalue="none")
            found, known = next(pair for pair in pairs if pair[0] != pair[1])
            raise ValueError(
                "The data must have the classes that the network was trained on, in their order. "
                f"Received: {shown(found)} where {shown(known)} was"
            )
        sizes = report["run"]["splits"].items()
        changed = [
            f"{n} had {size:,} images, now {splits.size(n):,}"
            for n, size in sizes
            if splits.size(n) != size
        ]
        if changed:
            say(
                f"the data has changed: {'; '.join(changed)}. Where its splits are cut off at "
                "random, images that the network has learned from may be among the others now: "
                "results on them are too good"
            )
        return report, model, splits

    def _data(self, report):
        """Returns the splits, from where they were, with pixels as the network was trained on."""
        source = dict(report["run"]["source"])
        name = "data" if source.get("data_dir") is None else "data_dir"
        place = (self.manifest["settings"] or {}).get(name)
        if _ends_in(place, source[name]) and (name == "data_dir" or not _is_known(source["data"])):
            source[name] = self._there(place, source[name])
        say(f"reading {source['data'] if source.get('data_dir') is None else source['data_dir']}")
        splits = load_data(source)
        if "preprocessing" not in report["run"]:
            return splits
        pixels = preprocessing(report["run"]["preprocessing"], splits.input_shape[-1])
        return dataclasses.replace(splits, **pixels)

    def _there(self, place, given):
        """Returns where the data is: in its place, or where it seems to be from here."""
        for path in (place, given):
            if os.path.exists(path):
                return path
        raise ValueError(
            f"The data must be where it was, {place}. Received: no such folder or file. If it is "
            f"elsewhere, {self.folder / 'report.json'} must say so, as `run.source`"
        )

    def is_mine(self, name):
        """Returns whether a file is not there, or as it was written here."""
        path = self.folder / name
        if not path.is_symlink() and not path.exists():
            return True
        known = self.manifest["files"].get(name) if self.manifest else None
        return known is not None and path.is_file() and known == sha256(path)

    def check_mine(self, name):
        """Raises a ValueError if a file that is to be written is the user's."""
        if not self.is_mine(name):
            raise ValueError(
                f"{name} must be the file that was written here, or not there: it has been "
                f"changed, and is kept. Rename it first. Received: {self.folder / name}"
            )

    @contextlib.contextmanager
    def change(self, **facts):
        """Gives the `Change` that becomes the run's state if nothing goes wrong."""
        new = Change(self, facts)
        try:
            yield new
            new.commit()
        finally:
            shutil.rmtree(new.folder, ignore_errors=True)
            _remove_if_empty(self.folder / WORK)


class Change:
    """A new state of a run, which is written beside the old one.

    Args:
        run: The `Run`.
        facts: Dictionary: `settings` and `splits`, where they change.

    Attributes:
        folder: `Path` that its files are written in, each under its name in the run.
        dropped: Set of names of files that are no longer part of the run.
        draws: Boolean, whether pictures can be drawn.
    """

    def __init__(self, run, facts):
        self.run, self.facts = run, facts
        self.folder = run.folder / WORK / f"new-{uuid.uuid4().hex[:12]}"
        self.dropped = set()
        self.draws = True
        (self.folder / "pictures").mkdir(parents=True)

    def path(self, name):
        return self.folder / name

    def forget(self, report):
        """Leaves out what was made with another network or another policy."""
        for part in RESULTS:
            report.pop(part, None)
        files = self.run.manifest["files"] if self.run.manifest else {}
        self.dropped = {name for name in files if name not in TRAINED}

    def follow(self, report, policy):
        """Leaves out what was made with another policy where policy.json was made by hand."""
        from keras_adaptive import report as reports

        told = [row["threshold"] for row in report.get("exits", ())]
        if self.run.is_mine("policy.json") or told == reports.thresholds(policy, len(told)):
            return
        self.forget(report)
        report["policy"] = reports.policy_facts(policy, "made by hand")

    def write_report(self, report, command=None, measured=True):
        """Writes the report, with facts about this machine and the command that was run."""
        from keras_adaptive import report as reports

        if measured:
            report["machine"] = reports.machine()
        if command and command not in report["commands"]:
            report["commands"].append(command)
        _check_no_link(self.run.folder / "pictures")
        files = [picture["file"] for picture in report.get("pictures", {}).values()]
        old = [f for f in files if PICTURE.fullmatch(f) and not self.path(f).exists()]
        old = [f for f in old if self.run._holds(f) and not (self.run.folder / f).is_symlink()]
        for name in old:  # the page holds them all
            shutil.copyfile(self.run.folder / name, self.path(name))
        reports.write(self.folder, report)
        for name in old:
            self.path(name).unlink()

    def commit(self):
        """Makes this the state of the run."""
        old = self.run.manifest or {"settings": None, "splits": {}, "files": {}}
        found = [path for path in self.folder.rglob("*") if path.is_file()]
        names = sorted(path.relative_to(self.folder).as_posix() for path in found)
        # an edited report.json was read, and what it said is in the new one
        kept = [n for n in names if n != "report.json" and not self.run.is_mine(n)]
        for name in set(kept) & {*TRAINED, "policy.json", "model.tflite"}:
            self.run.check_mine(name)
        for name in kept:
            self.path(name).unlink()
            say(f"{name} has been changed since it was written: kept as it is")
        write = [name for name in names if name not in kept]
        remove = [n for n in self.dropped - set(names) if self.run.is_mine(n)]
        if "model.tflite" in remove:
            say("model.tflite held the thresholds before these: removed; `export` writes it anew")
        files = {n: digest for n, digest in old["files"].items() if n not in self.dropped}
        files |= {name: sha256(self.path(name)) for name in write}
        manifest = {"format": FORMAT, "version": VERSION, **old, **self.facts, "files": files}
        self.path(MANIFEST).write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n")
        trained = "settings" in self.facts
        plan = {"remove": sorted(remove), "write": [*write, MANIFEST], "trained": trained}
        self.path("changes.json").write_text(json.dumps(plan) + "\n")
        os.rename(self.folder, self.run.folder / WORK / "next")
        _take(self.run.folder)
        self.run.manifest = manifest


def _read_manifest(path):
    manifest = read_json(path, "manifest.json")
    with reading(path, "manifest.json must be one that was written here"):
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise ValueError(f'no "format": "{FORMAT}"')
        if manifest.get("version") != VERSION:
            raise ValueError(f"version={shown(manifest.get('version'))}, not {VERSION}")
        files = manifest.get("files")
        for name, digest in files.items():
            if not (name in NAMES or PICTURE.fullmatch(name)) or not DIGEST.fullmatch(digest):
                raise ValueError(f"files.{name}={digest}")
        settings = manifest.get("settings")
        if settings is not None and not isinstance(settings, dict):
            raise ValueError(f"settings={settings}")
    return {key: manifest.get(key) for key in ("settings", "splits", "files")}


def _check_archive(path):
    """Raises a ValueError if a .keras file unpacks to more than a network would."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > LARGEST:
            raise ValueError(f"unpacks to more than {LARGEST:,} bytes")
        config = archive.getinfo("config.json")
        if config.file_size > 64 * 2**20:
            raise ValueError(f"a config.json of {config.file_size:,} bytes")


@contextlib.contextmanager
def opened(folder, only_read=False):
    """Holds the folder of a run, and gives its `Run`.

    Raises:
        ValueError: If it holds none, or is in use.
    """
    if not folder.is_dir():
        near = [path.name for path in _runs_beside(folder)]
        near = difflib.get_close_matches(folder.name, near, 1)
        hint = f". Did you mean {folder.parent / near[0]}?" if near else ""
        raise ValueError(_no_run(folder) + hint)
    with locked(folder, only_read):
        run = Run(folder)
        if run.manifest is None:
            begun = any((folder / WORK).glob(f"training-*/{OWNER}"))
            hint = ". A training in it is not finished: give its command again" if begun else ""
            raise ValueError(_no_run(folder) + hint)
        yield run


def _runs_beside(folder):
    with contextlib.suppress(OSError):
        return [p for p in folder.parent.iterdir() if (p / "report.json").exists()]
    return []


def _no_run(folder):
    return (
        "The folder must hold a run: model.keras and report.json, written by `train`. "
        f"Received: {folder}"
    )


# ---- a training


class Training:
    """The training in a folder that is held: a new one, or one that goes on.

    Args:
        folder: `Path`, which exists.
        settings: Dictionary, what makes two trainings the same.
        overwrite: Boolean, whether another run in the folder may be replaced by this one.

    Attributes:
        run: The `Run` of the folder.
        folder: `Path` of what is not finished.
        finished: Boolean, whether this very run is there.
        goes_on: Boolean, whether it was begun before.

    Raises:
        ValueError: If the folder holds anything else than this run, begun or finished.
    """

    def __init__(self, folder, settings, overwrite=False):
        self.settings = json.loads(json.dumps(settings))
        text = json.dumps(self.settings, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.folder = folder / WORK / f"training-{digest}"
        others = [path.name for path in folder.iterdir() if path.name != WORK]
        begun = sorted((folder / WORK).glob(f"training-*/{OWNER}"))
        known = MANIFEST in others or {"report.json", "model.keras"} <= set(others)
        if others and not known and not begun:
            raise ValueError(
                "`--out` must be a new folder, an empty one, or that of a run. "
                f"Received: {folder}, which holds {shown(', '.join(sorted(others)))}"
            )
        self.run = Run(folder)
        self.goes_on = self.folder / OWNER in begun
        there = self.run.manifest is not None  # if only its results: model.keras is large
        same = there and self.run.manifest["settings"] == self.settings
        self.finished = same and (folder / "model.keras").exists() and not overwrite
        if overwrite or self.finished:
            return
        if there and not same:
            self._refuse("finished", self.run.manifest["settings"])
        for path in begun:
            if path.parent != self.folder:
                self._refuse("unfinished", read_json(path, "The settings of a training"))

    def _refuse(self, state, settings):
        raise ValueError(
            f"`--out` must be the folder of this run or a new one: it holds the {state} run of "
            f"other settings, {_difference(settings, self.settings)}. Give another `--out`, or "
            f"--overwrite, which keeps that run until this one is whole. "
            f"Received: {self.run.folder}"
        )

    def begin(self):
        """Says whose training this is, before anything else is written."""
        for name in TRAINED:
            self.run.check_mine(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / OWNER, json.dumps(self.settings, indent=1) + "\n")

    def say_finished(self):
        say(
            f"{self.run.folder} holds this very run, finished. With --overwrite it is trained "
            "anew; `evaluate` and `export` go on from it"
        )

    def discard(self):
        """Removes what was trained."""
        (self.folder / OWNER).unlink(missing_ok=True)
        shutil.rmtree(self.folder)
        _remove_if_empty(self.run.folder / WORK)


@contextlib.contextmanager
def training(folder, settings, overwrite=False):
    """Holds the folder of a training, and gives its `Training`.

    A folder that is made for it goes again if nothing was written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`--out` must be a folder. Received: {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            yield Training(folder, settings, overwrite)
    finally:
        for path in made:
            _remove_if_empty(path)


def _difference(theirs, ours):
    if not isinstance(theirs, dict):
        return "which are not known: it was written by an earlier version"
    keys = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
    return "; ".join(f"{k}: {shown(theirs.get(k))}, not {shown(ours.get(k))}" for k in keys)


# ---- what commands share


def check_room(folder, size):
    """Raises an OSError if a disk cannot hold so many bytes more."""
    place = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < size:
        raise OSError(
            f"The disk of `{folder}` must have {size / 2**20:,.0f} MiB free. "
            f"Received: {free / 2**20:,.0f} MiB"
        )


def _ends_in(place, given):
    """Returns whether a place is what a relative path named; another was written by hand."""
    if not isinstance(place, str) or not os.path.isabs(place) or os.path.isabs(given):
        return False
    parts = [part for part in os.path.normpath(given).split(os.sep) if part not in ("..", ".")]
    return not parts or place.split(os.sep)[-len(parts) :] == parts


def _is_known(name):
    from keras_adaptive.data.load import is_known

    return is_known(name)


def load_data(source):
    """Returns the `data.Splits` that the options of `train` describe."""
    from keras_adaptive import data

    how = {key: source.get(key) for key in ("data_dir", "cache_dir", "train_limit")}
    size = source.get("image_size")
    return data.load(source["data"], **how, image_size=tuple(size) if size else None)


def draw(new, report, name, title, picture):
    """Draws a picture of the report, or leaves it out where matplotlib is missing.

    Args:
        new: The `Change` of the run.
        report: Dictionary, to which the picture is added.
        name: String, the name of the file.
        title: String.
        picture: Function that takes `keras_adaptive.plotting` and returns axes.
    """
    try:
        import matplotlib
    except ImportError:
        if new.draws:
            say("no pictures: they need matplotlib, pip install 'keras_adaptive[plot]'")
        new.draws = False
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    from keras_adaptive import plotting

    with matplotlib.rc_context({"text.parse_math": False}):  # a class may be named $1
        figure = np.ravel(picture(plotting))[0].figure
        figure.savefig(new.path(f"pictures/{name}.png"), dpi=120, bbox_inches="tight")
        plt.close(figure)
    report.setdefault("pictures", {})[name] = {"title": title, "file": f"pictures/{name}.png"}


def say(text):
    """Prints what is done next, at once even where the output is a file."""
    print(text, flush=True)


def on_terminal():
    return sys.stderr.isatty()


def progress(items, name):
    """Returns the items, with a progress bar on a terminal."""
    from tqdm import tqdm

    return tqdm(items, desc=name, disable=not on_terminal())
