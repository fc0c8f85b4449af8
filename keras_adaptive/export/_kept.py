"""Files for the host: exported once, kept for later processes, and opened."""

import contextlib
import hashlib
import json
import os
import tempfile
import threading
import types
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from anytime_tflite import BatchPredictor
from keras_adaptive import __version__
from keras_adaptive.export._inputs import inputs_of
from keras_adaptive.export.tflite import export_tflite
from keras_adaptive.training.adaptive_model import AdaptiveModel

LIMIT = 2 << 30  # bytes of all files that are kept
APART = ("thresholds", "log_odds", "worst_case", "unit", "network", "details")  # not in the form
OURS = ("keras", "keras_adaptive")  # functions of the user's own are of "builtins"


def folder():
    """Returns where files are kept: in the folder that `KERAS_ADAPTIVE_HOME` names."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "keras_adaptive")
    return Path(os.environ.get("KERAS_ADAPTIVE_HOME") or cache).expanduser() / "predictors"


def form(policy, exits):
    """Returns what a policy writes into a file, which serves all that differ in thresholds."""
    content = {key: value for key, value in policy.content().items() if key not in APART}
    return json.dumps([content, list(exits)], sort_keys=True)


def opened(model, policy, form, verbose):
    """Returns a function `(arrays, policy)` that gives the `BatchResult` of the network's inputs.

    The file is exported unless it is kept already. It is named after the network's
    configuration, its weights and the form of the policy. Networks with layers or functions of
    the user's own, whose code may change, are exported in every process.

    Args:
        model: An `AdaptiveModel`.
        policy: A policy without a limit.
        form: String, its form.
        verbose: 0: nothing is printed.
    """
    predictor = _opened(model, policy, form, verbose)
    names = [one["name"] for one in inputs_of(model.inputs)]

    def answers(arrays, policy):
        given = {name: arrays[names.index(name)] for name in predictor.inputs}
        found = predictor.predict(given, verbose=0, log_odds=policy.log_odds)
        if not np.isfinite(found.probabilities).all():
            raise ValueError(
                "The logits must be finite. Received: NaN or infinity; look at the weights"
            )
        return found

    return answers


def _opened(model, policy, form, verbose):
    # without what floats do not need: how pixels become floats, and names
    plain = AdaptiveModel(model.inputs, model.outputs, name="network")
    key, kept = _key(plain, form), None
    if key is not None:
        kept = folder() / f"{key}.tflite"
        with contextlib.suppress(OSError, ValueError):  # missing, or damaged
            found = BatchPredictor(kept)
            os.utime(kept)
            return found
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            kept = None
    where = "for this process" if kept is None else f"kept in {kept.parent}"
    with _shown(f"Exporting {model.name} for LiteRT, once, {where}", verbose):
        if kept is not None:
            found = BatchPredictor(_exported(plain, kept, policy))
            _trim(kept)
            return found
        with tempfile.TemporaryDirectory() as place:
            path = _exported(plain, Path(place, "model.tflite"), policy)
            return BatchPredictor(path.read_bytes())


def _exported(model, path, policy):
    export_tflite(model, path, policy, single_call=True)
    return path


def _key(model, form):
    """Returns what tells a file from others, or `None` where that cannot be known."""
    try:
        config = keras.saving.serialize_keras_object(model)
        text = json.dumps([config, form], sort_keys=True)
    except (NotImplementedError, TypeError, ValueError):
        return None
    modules = {*_modules(config), *_modules_of_functions(model)}
    if not all(module.partition(".")[0] in OURS for module in modules):
        return None
    digest = hashlib.sha256(f"{__version__} {tf.__version__} {text}".encode())
    for variable in model.variables:
        digest.update(keras.ops.convert_to_numpy(variable).tobytes())
    return digest.hexdigest()[:32]


def _modules(config):
    """Yields the modules of all that a configuration names; of code inside it `""`.

    What a script or a notebook defines itself, registered or not, has the module `None`: `""`.
    """
    if isinstance(config, dict):
        if config.get("class_name") in ("Lambda", "__lambda__"):
            yield ""
        if "class_name" in config and "module" in config:
            yield config["module"] or ""
        config = config.values()
    if not isinstance(config, str) and hasattr(config, "__iter__"):
        for part in config:
            yield from _modules(part)


def _modules_of_functions(model):
    """Yields the modules of the functions that layers hold.

    A configuration tells one that is named like Keras's own, `relu`, only as Keras's own.
    """
    for layer in model._flatten_layers(include_self=False):
        for value in vars(layer).values():
            if isinstance(value, types.FunctionType):
                yield value.__module__ or ""


def _trim(newest):
    """Removes the files that were not used for longest, until the others are within `LIMIT`."""
    with contextlib.suppress(OSError):
        files = [(p.stat(), p) for p in newest.parent.iterdir() if p != newest]
        room = LIMIT - newest.stat().st_size
        for stat, path in sorted(files, key=lambda file: file[0].st_mtime, reverse=True):
            room -= stat.st_size
            if room < 0:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _shown(text, verbose):
    """Says at once what takes long, and shows that time goes on."""
    ended = threading.Event()
    with tqdm(desc=text, bar_format="{desc}: {elapsed}", disable=verbose in (0, False)) as line:

        def show():
            while not ended.wait(1):
                line.refresh()

        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
