"""Makes a trained network that comes with the library out of its weights.

    python -m benchmarks.shipped cifar10_tiny runs/shipped/cifar10_tiny.weights.h5 \\
        --training "how it was trained"
    make bench-shipped

Chooses thresholds for half of the full cost, reports on the test split, exports, and puts
weights, policy, report and model card into keras_adaptive/models/weights. Without arguments it
exports what is there in every kind of numbers; what each file is worth is in results/shipped.md.
"""

import argparse
import hashlib
import json
import shlex
import shutil
from pathlib import Path

import numpy as np

import keras_adaptive as ka
from anytime_tflite import AnytimeModel
from benchmarks import _rows, common, networks
from keras_adaptive import report as reports
from keras_adaptive._files import write_whole
from keras_adaptive.cli import main as command_line
from keras_adaptive.cli.train import network_facts
from keras_adaptive.models.pretrained import ANSWERED
from keras_adaptive.training import preset

# name: builder and its arguments; those with exits added are open by name alone
NETWORKS = {
    "cifar10_resnet9": ("add_exits", networks.RESNET9_EXITS),
    "cifar10": ("build_msdnet", {"preset": "cifar_budgeted_5", "head_channels": 64}),
    "cifar10_tiny": ("build_resnet", networks.CIFAR10_TINY),
}
ROOT = common.ROOT.parent
WEIGHTS = ROOT / "keras_adaptive" / "models" / "weights"
DATA_DIR, CACHE_DIR = "../shared/data/cifar10_jpeg.tar.xz", "runs/cache"
KINDS = (None, "float16", "dynamic", "int8")
CALIBRATE = 2000  # held-out images for the files' integers and thresholds
FILES = _rows.Rows(common.RESULTS / "shipped", calibrate=CALIBRATE)
LIMITS = [
    "Trained on CIFAR-10 re-encoded as JPEG, ten classes at 32 x 32 pixels: accuracies compare "
    "only with others on the same files.",
    "For tutorials, tests and benchmarks of this library; not for decisions about people.",
]


def built(name, weights):
    """Returns a network of the table with weights of a file."""
    builder, arguments = NETWORKS[name]
    if builder == "add_exits":
        return networks.with_weights(networks.resnet9(**arguments), weights)
    return getattr(ka, builder)(**arguments, weights=weights)


def run(name, weights, training, command):
    """Evaluates and exports a network in a folder of its own; returns the folder."""
    builder, arguments = NETWORKS[name]
    splits = common.cifar(data_dir=ROOT / DATA_DIR, cache_dir=ROOT / CACHE_DIR)
    model = built(name, weights)
    folder = ROOT / "runs" / "shipped" / name
    folder.mkdir(parents=True, exist_ok=True)
    model.optimizer.build(model.trainable_variables)  # as if trained, or loading warns
    model.save(folder / "model.keras")
    source = {"data": "cifar10", "data_dir": DATA_DIR, "cache_dir": CACHE_DIR, "train_limit": None}
    facts = network_facts(model, splits, builder, arguments)
    report = {
        "run": {
            "data": "CIFAR-10 (JPEG)",
            "model": f"AdaptiveModel.from_preset({name!r})",
            **facts,
            "training": training,
            "source": source,
            "limits": LIMITS,
        },
        "commands": [command],
        "machine": reports.machine(),
    }
    reports.write(folder, report)
    place = str(folder.relative_to(ROOT))
    command_line(["evaluate", place, "--budget-share", "0.5"])
    command_line(["export", place])
    return folder


def keep(name, folder, weights):
    """Puts what belongs into the package where it belongs."""
    place = WEIGHTS / name
    place.mkdir(parents=True, exist_ok=True)
    report = json.loads((folder / "report.json").read_text())
    curve = report["pictures"]["curve"]
    shutil.copy(folder / curve["file"], place / "curve.png")
    report["pictures"] = {"curve": {**curve, "file": "curve.png"}}
    text = json.dumps(report, indent=2, allow_nan=False)
    write_whole(place / "report.json", text + "\n")
    write_whole(place / "card.md", reports.card(report))
    shutil.copy(folder / "policy.json", place)
    common.compact(weights, place / "model.weights.h5")
    model = built(name, weights)
    keep_answers(model, place)
    keep_config(model, place, report["run"])
    for path in sorted(place.iterdir()):
        print(f"{path.relative_to(ROOT)}  ({path.stat().st_size:,} bytes)")


def keep_config(model, place, facts):
    """Writes what `AdaptiveModel.from_preset` builds the network from."""
    model.policy = ka.ExitPolicy.load(place / "policy.json")
    model.class_names, model.preprocessing = facts["class_names"], facts["preprocessing"]
    preset.write_config(model, place)


def keep_answers(model, place):
    """Writes what the network answers on the two held-out splits."""
    splits = common.cifar(data_dir=ROOT / DATA_DIR, cache_dir=ROOT / CACHE_DIR)
    kept = {}
    for split in ANSWERED:
        images, labels = splits.arrays(split)
        logits, _ = model.predict_with_costs(images, batch_size=500, verbose=0)
        kept[f"{split}_logits"], kept[f"{split}_labels"] = np.float16(logits), np.uint8(labels)
    np.savez_compressed(place / "answers.npz", **kept)


def files(name):
    """Returns what a network is worth in every kind of numbers, on the test images."""
    model = ka.AdaptiveModel.from_preset(name)
    splits = common.cifar(data_dir=ROOT / DATA_DIR, cache_dir=ROOT / CACHE_DIR)
    standardize = ka.models.pretrained(name).standardize  # as it was trained
    pixels, labels = splits.images("test", splits.size("test"))
    images = standardize(pixels)
    pixels, answers = splits.images("calibrate", CALIBRATE)
    held_out = standardize(pixels), answers
    host = ka.AdaptivePredictor(model, model.policy, engine="keras").predict(images)
    logits = np.stack(model.predict(images, batch_size=500, verbose=0))
    costs = model.exit_costs()

    def row(kind, size, logits, answered, exits):
        return {
            "network": name,
            "file": kind,
            "bytes": size,
            "exits": (logits.argmax(-1) == labels).mean(-1).tolist(),
            "accuracy": float(np.mean(answered == labels)),
            "share": float(costs[exits].mean() / costs[-1]),
            "same_exit": int(np.sum(exits == host.exits)),
            "same_answer": int(np.sum(answered == host.labels)),
            "images": len(labels),
        }

    rows = [row("Keras", None, logits, host.labels, host.exits)]
    for kind in KINDS:
        path = ROOT / "runs" / "shipped" / name / f"{kind or 'float32'}.tflite"
        path.parent.mkdir(parents=True, exist_ok=True)
        ka.export_tflite(model, path, model.policy, quantize=kind, calibration_data=held_out)
        device = AnytimeModel(path, num_threads=1)
        answers = [device.classify(image) for image in images]
        exits, answered = (np.array([getattr(a, k) for a in answers]) for k in ("exit", "label"))
        found = common.stage_logits(device, images)
        rows.append(row(path.stem, path.stat().st_size, found, answered, exits))
    return rows


def publish():
    """Measures the files of all networks, where that has not been done, and writes the page."""
    kept = []
    for name in NETWORKS:
        digest = hashlib.sha256((WEIGHTS / name / "model.weights.h5").read_bytes()).hexdigest()
        kept.append(FILES.measure(name, files, name, weights=digest[:16]))
    rows = [row for found in kept for row in found["rows"]]
    _rows.publish("shipped", {"rows": rows}, page(rows), kept)


def page(rows):
    lines = [
        [
            row["network"],
            row["file"],
            "-" if row["bytes"] is None else f"{row['bytes']:,}",
            *(f"{100 * exit_:.2f}" for exit_ in row["exits"]),
            *[""] * (max(len(r["exits"]) for r in rows) - len(row["exits"])),
            f"{100 * row['accuracy']:.2f}",
            f"{100 * row['share']:.1f} %",
            f"{row['same_exit']:,}",
            f"{row['same_answer']:,}",
        ]
        for row in rows
    ]
    exits = [f"exit {k}" for k in range(max(len(row["exits"]) for row in rows))]
    return _rows.page(
        "# The networks that come with the library, in files",
        f"Accuracy of every exit and of the policy in per cent, on {rows[0]['images']:,} test\n"
        "images of CIFAR-10 (JPEG), each file on the device's runtime, one thread; the MACs that\n"
        "the policy takes; and of the images those that leave at the same exit, and get the same\n"
        "answer, as with Keras. The thresholds of files of integers are chosen again for what\n"
        f"they compute, on {CALIBRATE:,} held-out images.",
        _rows.table(
            [
                *("network", "file", "bytes", *exits, "policy", "MACs"),
                *("same exit", "same answer"),
            ],
            lines,
        ),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=NETWORKS, nargs="?")
    help_ = "written by benchmarks.common.save_half"
    parser.add_argument("weights", type=Path, nargs="?", help=help_)
    parser.add_argument("--training", help="for the report: epochs, recipe, seed")
    parser.add_argument("--only-run", action="store_true", help="leave the package as it is")
    options = parser.parse_args()
    if options.name is None:
        publish()
        return
    if options.weights is None or options.training is None:
        parser.error("a network needs its weights and --training")
    words = ["python", "-m", "benchmarks.shipped", options.name, str(options.weights)]
    command = shlex.join([*words, "--training", options.training])
    folder = run(options.name, options.weights, options.training, command)
    if not options.only_run:
        keep(options.name, folder, options.weights)


if __name__ == "__main__":
    main()
