"""Resuming: a folder that says whose run it is, and keeps the state after an epoch.

`run.json` holds the arguments of the run by value, from the first moment. A state is one file,
`phase_<number>_epoch_<number>.state`: the digest of the rest, a line of facts, and the bytes of
all weights and of the optimizer. Files are written whole or not at all, the last two of a phase
stay, and one that is damaged is passed over with a warning. Where several processes train together,
the first writes, and all go on from what it wrote.
"""

import contextlib
import hashlib
import json
import re
import signal
import threading
import time
import warnings
from pathlib import Path

import keras
import numpy as np

from keras_adaptive._files import as_path, held, write_whole
from keras_adaptive.training._identity import check_same

RUN = "run.json"
STATE = re.compile(r"phase_(\d+)_epoch_(\d+)\.state")
BEGUN = re.compile(r"\..+\.(json|state)\.[0-9a-f]{32}")  # being written when a run was killed
SECONDS = 30  # between two states of a phase


def is_first_process():
    """Returns whether this is the first, or only, process of a training."""
    if keras.backend.backend() != "jax":
        return True
    import jax

    return jax.process_index() == 0


def wait_for_all_processes():
    """Waits until every process of a training is here."""
    if keras.backend.backend() != "jax":
        return
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("keras_adaptive")


def claim(folder, name, settings, facts, argument):
    """Says in a folder whose it is, and checks whose it was.

    Args:
        folder: Path. Made if it is not there.
        name: String, the name of the file that says it.
        settings: What makes two runs the same, as `_identity.described` gives it.
        facts: Dictionary, what a run that begins now has drawn or chosen: its `seed`, for
            example. One that goes on keeps its own.
        argument: String, what an error calls the folder.

    Returns:
        Dictionary with the `settings` and the facts of the run; `None` if the file is damaged.

    Raises:
        TypeError, ValueError: If it is no folder, is of another run, or holds something else.
    """
    folder = as_folder(folder, argument)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`{argument}` must be a folder. Received: {argument}={folder}")
    names = {path.name for path in folder.glob("*")} if folder.exists() else set()
    names.discard("lock")
    for begun in filter(BEGUN.fullmatch, [*names]):
        (folder / begun).unlink(missing_ok=True)
        names.remove(begun)
    must = f"`{argument}` must be a new folder, or that of an earlier call with the same arguments."
    if name not in names:
        if names:
            raise ValueError(
                f"{must} Received: {argument}={folder}, which holds "
                f"{', '.join(sorted(names)[:3])} and no {name}"
            )
        folder.mkdir(parents=True, exist_ok=True)
        return write_claim(folder / name, settings, facts)
    try:
        stored = json.loads((folder / name).read_text(encoding="utf-8"))
        stored = {**facts, "settings": stored["settings"], **stored}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    check_same(stored["settings"], settings, f"{must} Received: {argument}={folder}, of others:")
    return stored


def as_folder(folder, argument):
    """Returns the path of a folder; an empty text, which would be this one, is refused."""
    if isinstance(folder, str) and not folder.strip():
        raise ValueError(f"`{argument}` must be a folder. Received: {argument}={folder!r}")
    return as_path(folder, argument)


def alone(folder, argument):
    """Holds a folder of a run for this call alone, which a context manager's block lasts.

    Raises:
        ValueError: If another call is at work in it.
    """
    folder = Path(folder)
    if not is_first_process():
        return contextlib.nullcontext()
    must = f"`{argument}` must not be in use: another call is at work in it; wait for its end."
    return held(folder, folder / "lock", must)


def write_claim(path, settings, facts):
    """Writes the file that says whose a folder is, and returns what it holds."""
    content = {**facts, "settings": settings}
    write_whole(path, json.dumps(content, indent=1) + "\n")
    return content


class Backup:
    """The folder of one run.

    Args:
        folder: Path. Made if it is not there.
        settings: What makes two runs the same, as `_identity.described` gives it.
        facts: Dictionary, what the run has drawn or chosen if it begins now.

    Attributes:
        facts: Dictionary, what the run has drawn or chosen.

    Raises:
        TypeError, ValueError: If it is no folder, or holds another run, or something else.
    """

    def __init__(self, folder, settings, facts):
        folder = as_folder(folder, "backup_dir")
        self.folder, self.run, self.facts = Path(folder), digest_of(settings), dict(facts)
        if not is_first_process():
            wait_for_all_processes()
        stored = claim(folder, RUN, settings, facts, "backup_dir")
        if stored is None:
            self._recover(settings)
        else:
            self.run = digest_of(stored["settings"])
            self.facts = {name: stored[name] for name in facts}
        if is_first_process():
            wait_for_all_processes()

    def _recover(self, settings):
        """Writes a damaged `run.json` anew, if no state in the folder is of another run."""
        states = [read[0] for read in map(_read, self._states()) if read is not None]
        if any(each["run"] != self.run for each in states):
            raise ValueError(
                "`backup_dir` must be a new folder, or that of an earlier call with the same "
                f"arguments. Received: backup_dir={self.folder}, with the states of another run"
            )
        if states:
            self.facts = states[0]["facts"]
        warnings.warn(f"{self.folder / RUN} was damaged and is written anew.", stacklevel=4)
        write_claim(self.folder / RUN, settings, self.facts)

    def _states(self, phase=None):
        """Returns the files of states, the last one first."""
        found = []
        for path in self.folder.glob("*.state"):
            match = STATE.fullmatch(path.name)
            if match and phase in (None, int(match[1])):
                found.append((int(match[1]), int(match[2]), path))
        return [path for *_, path in sorted(found, reverse=True)]

    def restore(self, phase, model):
        """Restores the last good state of a phase.

        Args:
            phase: Integer, the number of the phase.
            model: Its model, compiled; its optimizer is built.

        Returns:
            Tuple: the number of complete epochs, and whether the phase is done.
        """
        paths = self._states(phase)
        for path in paths:
            read = _read(path)
            if read is not None and read[0]["run"] == self.run and _assign(model, *read):
                return read[0]["epoch"], read[0]["done"]
            warnings.warn(
                f"{path} is damaged; training goes on from an earlier state.", stacklevel=4
            )
        return 0, False

    def write(self, phase, epoch, arrays, done=False):
        """Keeps a state, and the one before it; at the end of a phase those of earlier ones go.

        Args:
            phase, epoch: Integers, the number of the phase and of its complete epochs.
            arrays: As `state_of` gives them.
            done: Boolean, whether the phase has ended.
        """
        if not is_first_process():
            return
        parts = [np.ascontiguousarray(array).tobytes() for array in arrays]
        facts = {"run": self.run, "facts": self.facts, "epoch": epoch, "done": done}
        facts["bytes"] = [len(part) for part in parts]
        content = b"".join([json.dumps(facts).encode(), b"\n", *parts])
        digest = hashlib.sha256(content).hexdigest().encode() + b"\n"
        name = f"phase_{phase}_epoch_{epoch:05d}.state"
        write_whole(self.folder / name, digest + content)
        kept = 1 if done else 2
        before = [path for earlier in range(phase) for path in self._states(earlier)[1:]]
        for path in [*self._states(phase)[kept:], *before]:
            path.unlink(missing_ok=True)


class Keep(keras.callbacks.Callback):
    """Keeps the state after the first epoch, then at an epoch's end if 30 seconds have passed.

    It stands behind the user's callbacks, whose changes at the end of an epoch belong to it.

    Args:
        backup: A `Backup`.
        phase: Integer.
        epoch: Integer, the number of epochs that are complete.
    """

    def __init__(self, backup, phase, epoch):
        super().__init__()
        self.backup, self.phase, self.epoch = backup, phase, epoch
        self.written = time.monotonic() if epoch else None
        self.state = None  # the last one, if it is not in the folder

    def on_train_begin(self, logs=None):
        if not self.epoch:
            self.state = state_of(self.model)

    def on_epoch_end(self, epoch, logs=None):
        state = state_of(self.model)
        self.epoch, self.state = epoch + 1, state
        if self.written is None or time.monotonic() - self.written >= SECONDS:
            self.write()

    def write(self):
        """Writes the state after the last complete epoch, if it is not in the folder."""
        if self.state is not None:
            self.backup.write(self.phase, self.epoch, self.state)
            self.written, self.state = time.monotonic(), None


def state_of(model, optimizer=True):
    """Returns copies of all weights of a model and of the variables of its optimizer."""
    variables = [*model.weights, *(model.optimizer.variables if optimizer else ())]
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


@contextlib.contextmanager
def ended_by_sigterm():
    """Lets SIGTERM end Python as Ctrl-C does, so that what is done is kept."""

    def end(number, frame):
        raise SystemExit(128 + number)

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def digest_of(settings):
    """Returns what tells the settings of a run in a few letters."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _read(path):
    """Returns the facts and the bytes of a state, `None` if the file is damaged."""
    content = path.read_bytes()
    digest, _, rest = content.partition(b"\n")
    if hashlib.sha256(rest).hexdigest().encode() != digest:
        return None
    line, _, data = rest.partition(b"\n")
    return json.loads(line), data


def _assign(model, facts, data):
    """Gives a model and its optimizer what a state holds; returns whether it fits."""
    variables = list(model.weights)
    if len(facts["bytes"]) != len(variables):  # the optimizer is not kept of an earlier phase
        variables += model.optimizer.variables
    now = [keras.ops.convert_to_numpy(v) for v in variables]
    if facts["bytes"] != [array.nbytes for array in now]:
        return False
    start = 0
    for variable, array in zip(variables, now, strict=True):
        part = data[start : start + array.nbytes]
        variable.assign(np.frombuffer(part, array.dtype).reshape(array.shape))
        start += array.nbytes
    return True
