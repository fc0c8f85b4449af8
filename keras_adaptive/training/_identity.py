"""What makes two runs the same: their arguments by value, as JSON holds them."""

import dataclasses
import functools
import hashlib
import json
import re
import types
from pathlib import PurePath

import keras
import numpy as np

from keras_adaptive.training.adaptive_model import KEPT

LARGE = 2**30  # bytes of an array; of a larger one rows at equal distances are read
DEPTH = 12  # of objects inside objects


def described(value):
    """Returns what says which value this is, as JSON holds it.

    Arrays and code are told by their digests, a network by its layers and its weights.
    Of data sets that are read in passes, sizes and types are compared, and the arrays in
    memory that they are made from.

    Example:

    >>> described({"rate": np.float32(0.5), "sizes": (1, 2)})
    {'rate': 0.5, 'sizes': [1, 2]}
    """
    return json.loads(json.dumps(_described(value, 0)))


def differences(stored, wanted, path=""):
    """Returns what differs between two descriptions, each as `path=wanted, not stored`.

    Example:

    >>> differences({"epochs": 3, "seed": 1}, {"epochs": 4, "seed": 1})
    ['epochs=4, not 3']
    """
    if isinstance(stored, dict) and isinstance(wanted, dict):
        keys = dict.fromkeys([*wanted, *stored])
        pairs = [(str(key), stored.get(key), wanted.get(key)) for key in keys]
    elif isinstance(stored, list) and isinstance(wanted, list) and len(stored) == len(wanted):
        pairs = [(str(i), *pair) for i, pair in enumerate(zip(stored, wanted, strict=True))]
    else:
        return [] if stored == wanted else [f"{path}={_short(wanted)}, not {_short(stored)}"]
    found = [differences(a, b, f"{path}.{key}" if path else key) for key, a, b in pairs]
    return [difference for each in found for difference in each]


def check_same(stored, wanted, begin):
    """Raises a ValueError that begins as is said and names what differs."""
    found = differences(stored, wanted)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise ValueError(f"{begin} {'; '.join(found[:3])}{more}")


def network(model):
    """Returns a network's layers and how they are joined, without names given automatically.

    Args:
        model: A Keras model; its weights don't count.
    """
    config = _config(model)
    return _renamed(config, _automatic_names(config))


def without_names(description, model):
    """Returns a description in whose texts automatic names of a network's layers are not told."""
    names = _automatic_names(_config(model))
    text = json.dumps(description)
    for name in sorted(names, key=len, reverse=True):
        text = re.sub(rf"\b{re.escape(name)}\b", names[name], text)
    return json.loads(text)


def _config(model):
    try:
        config = dict(model.get_config())
        for name in ("name", *KEPT):
            config.pop(name, None)
        config = {"class_name": type(model).__name__, "config": config}
        return json.loads(json.dumps(config, default=str))
    except Exception:  # the user's own layers may not be made for saving
        layers = list(model._flatten_layers())
        return [[type(x).__name__, *(list(w.shape) for w in x.weights)] for x in layers]


def digest(array):
    """Returns what tells an array from others of other content."""
    array = np.asarray(array)
    if array.nbytes > LARGE:
        array = array[:: -(-array.nbytes // LARGE)]
    if array.dtype.hasobject or array.dtype.kind in "SU":
        content = repr(array.tolist()).encode()
    else:
        content = np.ascontiguousarray(array).reshape(-1).view("uint8").data
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def _described(value, depth):
    inside = functools.partial(_described, depth=depth + 1)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (float, np.generic)) and np.ndim(value) == 0:
        value = value.item() if isinstance(value, np.generic) else value
        is_number = isinstance(value, (bool, int)) or (
            isinstance(value, float) and np.isfinite(value)
        )
        return value if is_number else repr(value)
    if isinstance(value, PurePath):
        return str(value)
    if depth > DEPTH:
        return _name(type(value))
    if isinstance(value, dict):
        return {str(key): inside(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [inside(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(inside(each)) for each in value)
    if isinstance(value, keras.Model):
        return {"network": network(value), "weights": [digest(w) for w in value.get_weights()]}
    if isinstance(value, type):
        return _name(value)
    return _of_object(value, inside)


def _of_object(value, inside):
    """Returns the description of what is not plain."""
    if hasattr(value, "element_spec"):  # a tf.data.Dataset
        return {
            "dataset": str(value.element_spec),
            "batches": int(value.cardinality()),
            "made from": _sources(value),
        }
    if hasattr(value, "batches") and hasattr(value, "class_names"):  # data.Splits
        names = ("class_names", "mean", "std", "flips", "input_shape")
        sizes = [value.size(split) for split in ("train", "calibrate", "test")]
        facts = {name: inside(getattr(value, name)) for name in names if hasattr(value, name)}
        return {**facts, "sizes": sizes, "made from": _sources(value.train)}
    if isinstance(value, keras.utils.PyDataset):
        shapes = [
            [list(np.shape(x)), str(getattr(x, "dtype", ""))] for x in keras.tree.flatten(value[0])
        ]
        return {"dataset": _name(type(value)), "batches": value.num_batches, "shapes": shapes}
    if hasattr(value, "__array__"):
        value = np.asarray(value)
        return {"array": [str(value.dtype), *value.shape], "digest": digest(value)}
    if isinstance(value, functools.partial):
        return {"partial": inside([value.func, value.args, value.keywords])}
    if isinstance(value, types.MethodType):
        return {"method": inside([value.__func__, value.__self__])}
    if isinstance(value, types.FunctionType):
        if value.__module__.partition(".")[0] in ("keras", "keras_adaptive"):
            return _name(value)
        # what a function holds of lists and objects changes while it works
        cells = [c.cell_contents for c in value.__closure__ or () if _is_fixed(c)]
        with_it = [value.__defaults__, value.__kwdefaults__, cells]
        return {"function": _name(value), "code": _code(value.__code__), "with": inside(with_it)}
    if hasattr(value, "get_config"):
        config = {"class_name": type(value).__name__, "config": dict(value.get_config())}
        config = _renamed(config, _automatic_names(config))["config"]
        # some losses of Keras, Huber for one, leave these out of their config
        config |= getattr(value, "_fn_kwargs", None) or {}
        return {_name(type(value)): inside(config)}
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {_name(type(value)): inside(fields)}
    if isinstance(value, bytes):
        return {"bytes": hashlib.blake2b(value, digest_size=12).hexdigest()}
    if hasattr(value, "__next__"):  # a generator is read once, by training
        return _name(type(value))
    attributes = getattr(value, "__dict__", {})
    return {_name(value if callable(value) else type(value)): inside(attributes)}


def _name(thing):
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return kind.__qualname__  # the module of a program that is run is another when imported


def _code(code):
    """Returns the digest of what a function does, wherever it stands."""
    parts = [code.co_code.hex(), code.co_names, code.co_varnames]
    for constant in code.co_consts:
        parts.append(_code(constant) if isinstance(constant, types.CodeType) else repr(constant))
    return hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()


def _is_fixed(cell):
    try:
        hash(cell.cell_contents)
    except (TypeError, ValueError):  # a list, for example, or nothing yet
        return False
    fixed = (bool, int, float, str, bytes, tuple, type(None), types.FunctionType)
    return isinstance(cell.cell_contents, fixed) or dataclasses.is_dataclass(cell.cell_contents)


def _sources(dataset):
    """Returns digests of the arrays in memory that a `tf.data.Dataset` is made from."""
    tensors = [*getattr(dataset, "_tensors", ())]
    mapped = getattr(getattr(dataset, "_map_func", None), "function", None)
    tensors += getattr(mapped, "captured_inputs", ())
    found = [digest(t.numpy()) for t in tensors if _is_plain(t)]
    for before in getattr(dataset, "_inputs", list)():
        found += _sources(before)
    return found


def _is_plain(tensor):
    return hasattr(tensor, "numpy") and tensor.dtype.name not in ("resource", "variant")


def _snake(name):
    """Returns the name that Keras makes of a class."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _automatic_names(config):
    """Returns the automatic names in a config, each with one that is the same in every run."""
    names, counts = {}, {}

    def visit(part):
        if isinstance(part, dict):
            inner = part.get("config")
            name = inner.get("name") if isinstance(inner, dict) else None
            stem = _snake(str(part.get("class_name", "")))
            is_automatic = isinstance(name, str) and re.fullmatch(rf"{stem}(_\d+)*", name)
            if is_automatic and name not in names:
                counts[stem] = counts.get(stem, 0) + 1
                names[name] = f"{stem}#{counts[stem]}"
            part = list(part.values())
        if isinstance(part, (list, tuple)):
            for each in part:
                visit(each)

    visit(config)
    return names


NAMED = ("name", "keras_history", "input_layers", "output_layers")


def _renamed(part, names, named=False):
    """Returns a config with other names where names of layers stand."""
    if isinstance(part, str):
        return names.get(part, part) if named else part
    if isinstance(part, list):
        return [_renamed(each, names, named) for each in part]
    if isinstance(part, dict):
        kept = {key: each for key, each in part.items() if key != "compile_config"}
        return {key: _renamed(each, names, key in NAMED) for key, each in kept.items()}
    return part


def _short(value):
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
