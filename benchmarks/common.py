"""What the benchmarks share: the trained network, its data, and how results are written."""

import json
from pathlib import Path

import h5py

import keras_adaptive as ka
from keras_adaptive import report

ROOT = Path(__file__).parent
MODELS = ROOT / "models"
RESULTS = ROOT / "results"
DATA = ROOT.parent.parent / "shared" / "data" / "cifar10_jpeg.tar.xz"


def cifar(cache_dir=ROOT.parent / "runs" / "cache", data_dir=DATA, **how):
    """Returns CIFAR-10 (JPEG) in three splits."""
    return ka.data.load("cifar10", data_dir=data_dir, cache_dir=cache_dir, **how)


def cifar_net():
    """Returns the trained `cifar_budgeted_5` that the benchmarks share."""
    weights = MODELS / "cifar10_budgeted_5.weights.h5"
    return ka.build_msdnet(preset="cifar_budgeted_5", weights=weights)


def save_half(model, path):
    """Writes the weights in float16; `load_weights` reads them into float32."""
    model.save_weights(path)
    compact(path, path)


def compact(source, target):
    """Copies a file of weights: in float16, without the optimizer's state and HDF5's gaps."""
    fresh = target.with_suffix(".tmp")
    with h5py.File(source) as old, h5py.File(fresh, "w", libver="latest") as new:
        _copy(old, new)
    fresh.replace(target)


def _copy(old, new):
    for key, value in old.attrs.items():
        new.attrs[key] = value
    for name, item in old.items():
        if name == "optimizer":
            continue
        if isinstance(item, h5py.Group):
            _copy(item, new.create_group(name))
            continue
        values = item[()]
        if values.dtype == "float32":
            values = values.astype("float16")
        # compressing small arrays would add more than it saves
        packed = {"compression": "gzip", "shuffle": True} if values.size > 4096 else {}
        new.create_dataset(name, data=values, **packed)


def table(heads, rows):
    """Returns the lines of a Markdown table of text."""
    columns = {str(i): head for i, head in enumerate(heads)}
    return report.table([{str(i): str(x) for i, x in enumerate(row)} for row in rows], columns)


def write(name, results, lines, command):
    """Writes results/<name>.json and .md, with machine, date and command."""
    facts = {**report.machine(), "command": command}
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"machine": facts, **results}, indent=2, allow_nan=False)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    head = [f"- {key}: {value}" for key, value in facts.items()]
    (RESULTS / f"{name}.md").write_text("\n".join([lines[0], "", *head, *lines[1:]]) + "\n")
    print("\n".join(lines))
