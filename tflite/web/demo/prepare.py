"""Writes what the demo page shows into demo/assets: networks, test images, curves.

    python tflite/web/demo/prepare.py

The networks that come with the library, exported from their weights, and that of `make demo` if it
has run. Test images are there if the data is: ../shared/data, or what the data set's cache holds.
"""

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np

import keras_adaptive as ka
from anytime_tflite import AnytimeModel, pixels
from anytime_tflite.rule import LOG_ODDS

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
ASSETS = HERE / "assets"
OWN = ROOT / "demo_run"
DATA = ROOT.parent / "shared" / "data" / "cifar10_jpeg.tar.xz"
IMAGES = 120  # in the strip
MEASURED = 500  # for the curve of the user's own network
COLUMNS = 20  # of images in one picture
SHIFTS = np.arange(-60, 61) / 10  # of all thresholds, in log-odds


# name: title, what it is, and its type of numbers
SHIPPED = {
    "cifar10": ("CIFAR-10", "an MSDNet with five exits", "float16"),
    "cifar10_tiny": ("CIFAR-10, tiny", "a ResNet with three exits", "dynamic"),
}


def shipped(name, folder):
    """Writes a network that comes with the library; returns what the page says of it."""
    title, kind, quantize = SHIPPED[name]
    known = ka.models.pretrained(name)
    path = folder / "network.tflite"
    model = getattr(ka, known.builder)(weights=name)
    ka.export_tflite(
        model,
        path,
        known.policy,
        quantize=quantize,
        class_names=known.class_names,
        preprocessing={"mean": known.mean, "std": known.std},
        pixels=pixels.rule(32, 32, 3),
    )
    logits, labels = known.answers("test")
    source = {"data": "cifar10", "data_dir": DATA, "cache_dir": ROOT / "runs" / "cache"}
    images = test_images(folder, source) if DATA.exists() else None
    megabytes = path.stat().st_size / 1e6
    return {
        "name": title,
        "from": f"A network that comes with the library: {kind}, {megabytes:.1f} MB.",
        "images": images,
        **curve(path, logits, labels),
    }


def own(folder):
    """Copies the network of `make demo`; returns what the page says of it."""
    path = folder / "network.tflite"
    shutil.copy(OWN / "model.tflite", path)
    run = json.loads((OWN / "report.json").read_text(encoding="utf-8"))["run"]
    source = {key: value for key, value in run["source"].items() if value is not None}
    images = test_images(folder, source)
    pictures, labels = ka.data.load(source.pop("data"), **source).images("test", MEASURED)
    with AnytimeModel(path, num_threads=1) as device:
        logits = np.stack([stage_logits(device, picture) for picture in pictures], axis=1)
    return {
        "name": "Your own",
        "from": f"The network of make demo, trained on {run['data']}.",
        "images": images,
        **curve(path, logits, labels),
    }


def stage_logits(device, picture):
    """Returns the logits of every stage; adding a constant to all of them changes nothing."""
    return [
        np.log(np.maximum(answer.probabilities.astype("float64"), 1e-30)) * temperature
        for answer, temperature in zip(
            device.stream(picture), np.take(device.info["temperatures"], device.exits), strict=True
        )
    ]


def test_images(folder, source):
    """Writes some test images as one picture; returns where, and what they show."""
    from PIL import Image

    print("reading the test images: minutes the first time", file=sys.stderr)
    splits = ka.data.load(**{"name" if k == "data" else k: v for k, v in source.items()})
    images, labels = splits.images("test", IMAGES)
    count, height, width, channels = images.shape
    rows = -(-count // COLUMNS)
    sheet = np.zeros((rows * COLUMNS, height, width, channels), "uint8")
    sheet[:count] = images
    sheet = sheet.reshape(rows, COLUMNS, height, width, channels).swapaxes(1, 2)
    sheet = sheet.reshape(rows * height, COLUMNS * width, channels)
    Image.fromarray(sheet if channels == 3 else sheet[..., 0]).save(
        folder / "images.png", optimize=True
    )
    return {"file": "images.png", "height": height, "width": width, "labels": labels.tolist()}


def curve(path, logits, labels):
    """Returns accuracy and cost on test images, for thresholds shifted by various amounts."""
    with AnytimeModel(path, num_threads=1) as device:
        info, exits = device.info, device.exits
    if info["confidence"] not in LOG_ODDS or np.isposinf(info["log_odds"][:-1]).all():
        return {"curve": None, "tested": 0}
    used = logits if len(logits) == len(exits) else logits[exits]
    temperatures = np.take(info["temperatures"], exits)
    odds = ka.policy.log_odds(used, info["confidence"], temperatures)
    limits, points = np.take(info["log_odds"], exits)[:, None], []
    for shift in SHIFTS:
        leaves = odds >= limits + shift
        leaves[-1] = True
        exit_of = leaves.argmax(axis=0)
        right = used.argmax(axis=2)[exit_of, np.arange(len(labels))] == labels
        macs = np.take(info["macs"], exit_of).mean()
        points.append([round(float(shift), 1), round(macs), round(float(right.mean()), 4)])
    return {"curve": points, "tested": len(labels)}


def main():
    makers = {name: partial(shipped, name) for name in SHIPPED} | {"own": own}
    if not (OWN / "model.tflite").exists():
        del makers["own"]
        shutil.rmtree(ASSETS / "own", ignore_errors=True)
    for name, make in makers.items():
        folder = ASSETS / name
        done = folder / "about.json"
        if name in SHIPPED and done.exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        print(f"writing {folder.relative_to(ROOT)}", file=sys.stderr)
        done.write_text(json.dumps(make(folder)), encoding="utf-8")
    (ASSETS / "index.json").write_text(json.dumps(list(makers)), encoding="utf-8")


if __name__ == "__main__":
    main()
