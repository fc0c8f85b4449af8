"""The exported files in Chromium and in Node against Python: answers, and time per stage.

    make bench-web

The network that comes with the library, on CIFAR-10 test images, one thread. Python, Node and
Chromium take turns. Files are kept in runs/web.
"""

import json
import subprocess
import time

import numpy as np

import keras_adaptive as ka
from anytime_tflite import AnytimeModel, pixels
from benchmarks import _rows, common

FOLDER = common.RUNS / "web"
WEB = common.ROOT.parent / "tflite" / "web"
IMAGES = 200
CALIBRATE = 500
ROUNDS = 6
TURNS = 2  # of all images in a round
# file: how weights are stored, whether it has a single call, and answers that must agree
FILES = {
    "float32": (None, True, None),
    "float16": ("float16", False, None),
    "dynamic": ("dynamic", True, None),
    "int8": ("int8", True, None),
    "patience": (None, False, 2),
}
WHERE = ("chromium", "node")


def prepare():
    """Writes the files and the images; returns the images."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    known, data = ka.models.pretrained("cifar10"), common.cifar()
    images, _ = data.images("test", IMAGES)
    missing = [name for name in FILES if not (FOLDER / f"{name}.tflite").exists()]
    if missing:
        model = ka.build_msdnet(weights="cifar10")
        x, y = data.images("calibrate", CALIBRATE)
        x = known.standardize(x)
    for name in missing:
        quantize, single, patience = FILES[name]
        ka.export_tflite(
            model,
            FOLDER / f"{name}.tflite",
            ka.PatiencePolicy(patience) if patience else known.policy,
            quantize=quantize,
            calibration_data=(x, y) if quantize else None,
            single_call=single,
            class_names=known.class_names,
            preprocessing={"mean": known.mean, "std": known.std},
            pixels=pixels.rule(32, 32, 3),
        )
    (FOLDER / "images.bin").write_bytes(images.tobytes())
    about = {"images": IMAGES, "shape": images.shape[1:], "turns": TURNS}
    (FOLDER / "about.json").write_text(json.dumps(about))
    cases = [{"file": f"{name}.tflite", "single": single} for name, (_, single, _) in FILES.items()]
    (FOLDER / "cases.json").write_text(json.dumps(cases))
    return images


def in_python(images):
    """Returns what `compare.mjs` prints, of Python."""
    return [_of_file(name, single, images) for name, (_, single, _) in FILES.items()]


def _of_file(name, single, images):
    with AnytimeModel(FOLDER / f"{name}.tflite", num_threads=1) as device:
        answers = []
        for image in images:
            found = device.classify(image)
            exit = device.predict(image).exit if single else found.exit
            answers.append([found.exit, found.label, found.stopped_by, exit])
        logits, times = [], [[] for _ in device.exits]
        backend = device._backend
        for turn in range(TURNS):
            for image in images:
                backend.start(device._prepare(image))
                for i, taken in enumerate(times):
                    before = time.perf_counter()
                    found = backend.run(i)
                    taken.append(1000 * (time.perf_counter() - before))
                    if turn == 0:
                        logits += found.tolist()
    tenths = [float(np.quantile(taken, 0.1)) for taken in times]
    return {"file": f"{name}.tflite", "answers": answers, "logits": logits, "stage_ms": tenths}


def in_javascript(where):
    program = ["node", str(WEB / "bench" / "compare.mjs"), where, str(FOLDER)]
    done = subprocess.run(program, cwd=WEB, check=True, stdout=subprocess.PIPE)  # noqa: S603
    return json.loads(done.stdout)


def measure():
    images = prepare()
    rounds = []
    for number in range(ROUNDS):
        found = {"python": in_python(images), **{where: in_javascript(where) for where in WHERE}}
        rounds.append(found)
        print(f"round {number + 1} of {ROUNDS}", flush=True)
    return {"rows": [row for where in WHERE for row in compared(where, rounds)]}


def compared(where, rounds):
    """Returns a row per file: how many images are answered alike, and the least times."""
    for index, name in enumerate(FILES):
        ours, theirs = (rounds[0][place][index] for place in (where, "python"))
        least = {
            place: np.min([found[place][index]["stage_ms"] for found in rounds], axis=0)
            for place in (where, "python")
        }
        same = [
            [a == b for a, b in zip(mine, other, strict=True)]
            for mine, other in zip(ours["answers"], theirs["answers"], strict=True)
        ]
        exits, labels, reasons, single = np.sum(same, axis=0).tolist()
        yield {
            "where": where,
            "file": name,
            "images": len(same),
            "exits": exits,
            "labels": labels,
            "reasons": reasons,
            "single_call": single if FILES[name][1] else None,
            "difference": float(np.abs(np.subtract(ours["logits"], theirs["logits"])).max()),
            "stage_ms": least[where].tolist(),
            "python_ms": least["python"].tolist(),
        }


def page(results):
    rows = [
        {
            **row,
            "single": "none" if row["single_call"] is None else row["single_call"],
            "stages": ", ".join(f"{ms:.2f}" for ms in row["stage_ms"]),
            "sum": sum(row["stage_ms"]),
            "of_python": sum(row["stage_ms"]) / sum(row["python_ms"]),
        }
        for row in results["rows"]
    ]
    heads = "where | file | exits | labels | reasons | single call | largest difference of a logit"
    cells = "{where} | {file} | {exits} | {labels} | {reasons} | {single} | {difference:.1e}"
    times = "where | file | ms per stage | all stages | of Python's"
    time_cells = "{where} | {file} | {stages} | {sum:.2f} | {of_python:.2f}"
    return _rows.page(
        "# Exported files in Chromium and in Node",
        f"The network that comes with the library, on {IMAGES} test images of CIFAR-10: how many\n"
        "are answered as by Python's `AnytimeModel`.",
        _rows.table(heads, rows, cells),
        f"Time per stage, one thread: of {ROUNDS} rounds, in which Python, Chromium and Node take\n"
        "turns, the least 10 % quantile. Node 20 has no relaxed SIMD, and takes a slower build of\n"
        "LiteRT.js. float32, float16 and patience hold the same network: that their times differ,\n"
        "in both, has no known cause.",
        _rows.table(times, rows, time_cells),
    )


if __name__ == "__main__":
    _rows.run("web", __doc__, measure, page, images=IMAGES, calibrate=CALIBRATE, rounds=ROUNDS)
