"""Makes the trained network that comes with the library out of its weights.

    python -m benchmarks.shipped runs/shipped/cifar10.weights.h5 --training "how it was trained"

Chooses thresholds for half of the full cost, reports on the test split, exports, and puts
weights, policy, report and model card into keras_adaptive/models/weights/cifar10.
"""

import argparse
import json
import shlex
import shutil
from pathlib import Path

import numpy as np

import keras_adaptive as ka
from benchmarks import common
from keras_adaptive import report as reports
from keras_adaptive._files import write_whole
from keras_adaptive.cli import main as command_line
from keras_adaptive.cli.train import network_facts
from keras_adaptive.models.pretrained import ANSWERED
from keras_adaptive.training import preset

NAME, BUILDER = "cifar10", "build_msdnet"
ARGUMENTS = {"preset": "cifar_budgeted_5", "head_channels": 64}
ROOT = common.ROOT.parent
FOLDER = ROOT / "keras_adaptive" / "models" / "weights" / NAME
DATA_DIR, CACHE_DIR = "../shared/data/cifar10_jpeg.tar.xz", "runs/cache"
LIMITS = [
    "Trained on CIFAR-10 re-encoded as JPEG, ten classes at 32 x 32 pixels: accuracies compare "
    "only with others on the same files.",
    "For tutorials, tests and benchmarks of this library; not for decisions about people.",
]


def run(weights, training, command):
    """Evaluates and exports the network in a folder of its own; returns the folder."""
    splits = common.cifar(data_dir=ROOT / DATA_DIR, cache_dir=ROOT / CACHE_DIR)
    model = getattr(ka, BUILDER)(**ARGUMENTS, weights=weights)
    folder = ROOT / "runs" / "shipped" / NAME
    folder.mkdir(parents=True, exist_ok=True)
    model.optimizer.build(model.trainable_variables)  # as if trained, or loading warns
    model.save(folder / "model.keras")
    source = {"data": NAME, "data_dir": DATA_DIR, "cache_dir": CACHE_DIR, "train_limit": None}
    facts = network_facts(model, splits, BUILDER, ARGUMENTS)
    report = {
        "run": {
            "data": "CIFAR-10 (JPEG)",
            "model": f"{BUILDER}(weights={NAME!r})",
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


def keep(folder, weights):
    """Puts what belongs into the package where it belongs."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    report = json.loads((folder / "report.json").read_text())
    curve = report["pictures"]["curve"]
    shutil.copy(folder / curve["file"], FOLDER / "curve.png")
    report["pictures"] = {"curve": {**curve, "file": "curve.png"}}
    text = json.dumps(report, indent=2, allow_nan=False)
    write_whole(FOLDER / "report.json", text + "\n")
    write_whole(FOLDER / "card.md", reports.card(report))
    shutil.copy(folder / "policy.json", FOLDER)
    common.compact(weights, FOLDER / "model.weights.h5")
    model = getattr(ka, BUILDER)(**ARGUMENTS, weights=weights)
    keep_answers(model)
    keep_config(model, report["run"])
    for path in sorted(FOLDER.iterdir()):
        print(f"{path.relative_to(ROOT)}  ({path.stat().st_size:,} bytes)")


def keep_config(model, facts):
    """Writes what `AdaptiveModel.from_preset` builds the network from."""
    model.policy = ka.ExitPolicy.load(FOLDER / "policy.json")
    model.class_names, model.preprocessing = facts["class_names"], facts["preprocessing"]
    preset.write_config(model, FOLDER)


def keep_answers(model):
    """Writes what the network answers on the two held-out splits."""
    splits = common.cifar(data_dir=ROOT / DATA_DIR, cache_dir=ROOT / CACHE_DIR)
    kept = {}
    for split in ANSWERED:
        images, labels = splits.arrays(split)
        logits, _ = model.predict_with_costs(images, batch_size=500, verbose=0)
        kept[f"{split}_logits"], kept[f"{split}_labels"] = np.float16(logits), np.uint8(labels)
    np.savez_compressed(FOLDER / "answers.npz", **kept)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, help="written by benchmarks.common.save_half")
    parser.add_argument("--training", required=True, help="for the report: epochs, recipe, seed")
    parser.add_argument("--only-run", action="store_true", help="leave the package as it is")
    options = parser.parse_args()
    words = ["python", "-m", "benchmarks.shipped", str(options.weights)]
    command = shlex.join([*words, "--training", options.training])
    folder = run(options.weights, options.training, command)
    if not options.only_run:
        keep(folder, options.weights)


if __name__ == "__main__":
    main()
