"""Writes files of the shipped CIFAR-10 network, and what Python answers, for the tests on a JVM.

The form is that of tflite/testdata/files/answers.json. Without images, in ../shared/data beside
the project, only the files are written.

    python tflite/android/vectors.py FOLDER
"""

import base64
import json
import sys
import tarfile
from collections import defaultdict
from pathlib import Path

import numpy as np

import keras_adaptive as ka
from anytime_tflite import AnytimeModel, pixels

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "cifar10_jpeg.tar.xz"
PER_CLASS = 20


def pack(array):
    """Returns an array as JSON holds it."""
    array = np.ascontiguousarray(array)
    text = base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "base64": text}


def pictures():
    """Returns the first test images of every class as uint8 pixels."""
    rule, found = pixels.rule(32, 32, 3), defaultdict(list)
    with tarfile.open(DATA) as archive:
        for member in archive:
            of_class = found[Path(member.name).parent]
            test = "/test/" in member.name and member.isfile()
            if test and len(of_class) < PER_CLASS:
                of_class.append(pixels.read(archive.extractfile(member).read(), rule))
    return np.stack([image for of_class in found.values() for image in of_class])


def export(path, **how):
    """Writes the shipped network into one file."""
    shipped = ka.models.pretrained("cifar10")
    model = ka.build_msdnet(weights="cifar10")
    ka.export_tflite(
        model,
        path,
        shipped.policy,
        class_names=shipped.class_names,
        preprocessing={"mean": list(shipped.mean), "std": list(shipped.std)},
        pixels={"height": 32, "width": 32, "channels": 3},
        **how,
    )


def answers(path, images):
    """Returns what Python answers for images, in the form of the shared vectors."""
    with AnytimeModel(path, num_threads=1) as device:
        (name,) = device.inputs
        found = [device.classify(image) for image in images]
        return {
            "file": path.name,
            "inputs": {name: pack(images)},
            "expected": [
                {
                    "exit": answer.exit,
                    "label": answer.label,
                    "stopped_by": answer.stopped_by,
                    "probabilities": answer.probabilities.tolist(),
                }
                for answer in found
            ],
        }


def main(folder):
    """Writes all files."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "float32_single.tflite", folder / "dynamic.tflite"]
    export(paths[0], single_call=True)
    export(paths[1], quantize="dynamic")
    if not DATA.is_file():
        print(f"no images are compared: {DATA.name} is absent")
        return
    found = pictures()
    cases = [answers(path, found) for path in paths]
    (folder / "answers.json").write_text(json.dumps({"cases": cases}))


if __name__ == "__main__":
    main(sys.argv[1])
