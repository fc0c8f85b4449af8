"""Makes a trained network that comes with the library out of its weights.

    python -m benchmarks.shipped cifar10_tiny runs/shipped/cifar10_tiny.weights.h5 \\
        --training "how it was trained"

Chooses thresholds for half of the full cost, reports on the test split, exports, and puts
weights, policy, report and model card into keras_adaptive/models/weights.
"""

import argparse
import json
import shlex
import shutil
from pathlib import Path

import numpy as np

import keras_adaptive as ka
from benchmarks import common, networks
from keras_adaptive import report as reports
from keras_adaptive._files import write_whole
from keras_adaptive.cli import main as command_line
from keras_adaptive.cli.train import network_facts
from keras_adaptive.models.pretrained import ANSWERED
from keras_adaptive.training import preset

# name: builder and its arguments
NETWORKS = {
    "cifar10": ("build_msdnet", {"preset": "cifar_budgeted_5", "head_channels": 64}),
    "cifar10_tiny": ("build_resnet", networks.CIFAR10_TINY),
}
ROOT = common.ROOT.parent
WEIGHTS = ROOT / "keras_adaptive" / "models" / "weights"
DATA_DIR, CACHE_DIR = "../shared/data/cifar10_jpeg.tar.xz", "runs/cache"
LIMITS = [
    "Trained on CIFAR-10 re-encoded as JPEG, ten classes at 32 x 32 pixels: accuracies compare "
    "only with others on the same files.",
    "For tutorials, tests and benchmarks of this library; not for decisions about people.",
]


def run(name, weights, training, command):
    """Evaluates and exports a network in a folder of its own; returns the folder."""
    builder, arguments = NETWORKS[name]
    splits = common.cifar(data_dir=ROOT / DATA_DIR, cache_dir=ROOT / CACHE_DIR)
    model = getattr(ka, builder)(**arguments, weights=weights)
    folder = ROOT / "runs" / "shipped" / name
    folder.mkdir(parents=True, exist_ok=True)
    model.optimizer.build(model.trainable_variables)  # as if trained, or loading warns
    model.save(folder / "model.keras")
    source = {"data": "cifar10", "data_dir": DATA_DIR, "cache_dir": CACHE_DIR, "train_limit": None}
    facts = network_facts(model, splits, builder, arguments)
    report = {
        "run": {
            "data": "CIFAR-10 (JPEG)",
            "model": f"{builder}(weights={name!r})",
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
    builder, arguments = NETWORKS[name]
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
    model = getattr(ka, builder)(**arguments, weights=weights)
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=NETWORKS)
    parser.add_argument("weights", type=Path, help="written by benchmarks.common.save_half")
    parser.add_argument("--training", required=True, help="for the report: epochs, recipe, seed")
    parser.add_argument("--only-run", action="store_true", help="leave the package as it is")
    options = parser.parse_args()
    words = ["python", "-m", "benchmarks.shipped", options.name, str(options.weights)]
    command = shlex.join([*words, "--training", options.training])
    folder = run(options.name, options.weights, options.training, command)
    if not options.only_run:
        keep(options.name, folder, options.weights)


if __name__ == "__main__":
    main()
