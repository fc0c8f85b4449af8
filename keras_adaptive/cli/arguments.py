"""The arguments of every command, and the texts of `--help`."""

import argparse
import importlib
from pathlib import Path

from keras_adaptive import __version__

PROGRAM = "keras-adaptive"  # also as `python -m keras_adaptive`

EPILOG = """\
examples:
  keras-adaptive demo
  keras-adaptive train --data cifar10 --preset cifar_budgeted_5 --epochs 10 --out run
  keras-adaptive evaluate run --budget 0.5
  keras-adaptive export run --quantize int8
  keras-adaptive run run/model.tflite picture.png --deadline-ms 5

exit codes: 0 done, 1 failed, 2 wrong input, 130 interrupted
"""
EXAMPLES = {
    "demo": """\
examples:
  keras-adaptive demo
  keras-adaptive demo --data photos/ --image-size 64 --out photos_run
""",
    "train": """\
examples:
  keras-adaptive train --out run
  keras-adaptive train --data cifar10 --preset cifar_budgeted_5 --epochs 10
  keras-adaptive train --data photos.tar.xz --image-size 64 --regime mixed
  keras-adaptive train --data cifar100 --preset cifar_budgeted_7 --recipe cifar

An interrupted training resumes from its last complete epoch when the same command is given again.
""",
    "calibrate": """\
examples:
  keras-adaptive calibrate run --budget 0.4
  keras-adaptive calibrate run --accuracy 0.8 --worst-case 0.7
  keras-adaptive calibrate run --risk 0.01 --delta 0.05
""",
    "evaluate": """\
examples:
  keras-adaptive evaluate run
  keras-adaptive evaluate run --budget 0.5
  keras-adaptive evaluate run --risk 0.01

Without --budget, --accuracy or --risk, the policy that `calibrate` chose is evaluated. If there
is none, thresholds are chosen for a budget of half the full network's cost.
""",
    "export": """\
examples:
  keras-adaptive export run
  keras-adaptive export run --quantize int8
  keras-adaptive export run --single-call --runtime tflite-2.14
""",
    "run": """\
examples:
  keras-adaptive run run/model.tflite cat.png dog.png
  keras-adaptive run run/model.tflite cat.png --deadline-ms 5
""",
    "report": """\
examples:
  keras-adaptive report run
""",
    "card": """\
examples:
  keras-adaptive card run > MODEL_CARD.md
""",
}
DEMO = "demo: trains, calibrates, evaluates, exports and runs a small network in about a minute"
# command: module of the function, what it does
COMMANDS = {
    "demo": ("demo", "train, calibrate, evaluate, export and run a small network"),
    "train": ("train", "train an MSDNet and save it in a folder"),
    "calibrate": ("evaluate", "choose thresholds for a budget, an accuracy or a guarantee"),
    "evaluate": (
        "evaluate",
        "report results on the test images, with new thresholds if asked to",
    ),
    "export": ("export", "write model.tflite and compare it with Keras on the test images"),
    "run": ("run", "classify images with an exported file, as a device does"),
    "report": ("document", "write report.md, report.html and card.md again from report.json"),
    "card": ("document", "print the model card"),
}
# as in calibration and training, whose imports --help does not wait for
METHODS = ("optimal", "geometric", "percentile")
METRICS = ("accuracy_drop", "disagreement", "error")
REGIMES = ("joint", "disjoint", "mixed", "imta")  # those that train an MSDNet


def parse(arguments):
    """Returns the parsed options; their `function` runs the command."""
    return _parser().parse_args(arguments)


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows default values, and keeps the line breaks of the examples."""

    def _get_help_string(self, action):
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)


def _parser():
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Networks that spend only as much computation as each input needs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")
    subs = {}
    for name, (module, text) in COMMANDS.items():
        subs[name] = commands.add_parser(
            name, help=text, description=text, epilog=EXAMPLES[name], formatter_class=_Help
        )
        subs[name].set_defaults(function=_late(module, name))
    for name, out in (("demo", "demo_run"), ("train", "run")):
        _add_training(subs[name], out)
    for name in ("calibrate", "evaluate", "export", "report", "card"):
        subs[name].add_argument("run", type=Path, help="folder of the run")
    for name in ("demo", "calibrate", "evaluate"):
        _add_target(subs[name])
    for name in ("demo", "export"):
        _add_export(subs[name])
    for name in ("demo", "export", "run"):
        subs[name].add_argument(
            "--threads", type=int, default=1, help="number of threads of the TFLite interpreter"
        )
    subs["run"].add_argument("file", type=Path, help="a .tflite file written by export")
    subs["run"].add_argument("pictures", type=Path, nargs="+", help="image files")
    subs["run"].add_argument("--deadline-ms", type=float, help="stop after this many milliseconds")
    return parser


def _late(module, name):
    """Returns a command's function, which is imported when it is called."""

    def run(options):
        if name == "demo":  # before TensorFlow is imported, which takes seconds
            print(DEMO, flush=True)
        getattr(importlib.import_module(f"keras_adaptive.cli.{module}"), name)(options)

    return run


def _add_training(sub, out):
    sub.add_argument("--out", type=Path, default=Path(out), help="folder of the run")
    data = sub.add_argument_group("data")
    data.add_argument(
        "--data",
        default="digits",
        help="digits, a tensorflow_datasets name (cifar10), or a folder or tar file with "
        "train/<class>/* and test/<class>/*",
    )
    data.add_argument(
        "--data-dir", type=Path, help="folder or tar file with the images of a named data set"
    )
    data.add_argument("--cache-dir", type=Path, help="folder for downloaded and prepared data")
    data.add_argument("--image-size", type=_size, help="in pixels: 64, or 64x48 (height, width)")
    data.add_argument("--train-limit", type=int, help="use only this many training images")
    training = sub.add_argument_group("training")
    training.add_argument("--preset", help="network, for example cifar_budgeted_5")
    training.add_argument(
        "--regime", choices=REGIMES, default="joint", help="how the exits are trained"
    )
    training.add_argument(
        "--recipe",
        choices=("cifar", "imagenet"),
        help="a published recipe; without one: 30 epochs, batch size 64, learning rate 0.1, cosine",
    )
    training.add_argument("--epochs", type=int, help="instead of the recipe's")
    training.add_argument("--batch-size", type=int, help="instead of the recipe's")
    training.add_argument("--learning-rate", type=float, help="instead of the recipe's")
    training.add_argument(
        "--schedule",
        choices=("cosine", "steps", "one_cycle"),
        help="instead of the recipe's; steps: divided by ten after 50 %% and 75 %% of the epochs",
    )
    training.add_argument("--seed", type=int, default=0)


def _add_target(sub):
    group = sub.add_argument_group("when to stop")
    target = group.add_mutually_exclusive_group()
    target.add_argument(
        "--budget",
        type=float,
        help="mean cost per image, as a share of the full network's; 0.5 if no target is given",
    )
    target.add_argument("--accuracy", type=float, help="accuracy to reach at the lowest cost")
    target.add_argument(
        "--risk", type=float, help="guarantee that the risk (--metric) is at most this"
    )
    group.add_argument(
        "--metric",
        choices=METRICS,
        default="accuracy_drop",
        help="the risk that --risk bounds",
    )
    group.add_argument(
        "--delta", type=float, default=0.05, help="probability that the guarantee is violated"
    )
    group.add_argument(
        "--worst-case", type=float, help="most that any one image may cost, as a share likewise"
    )
    group.add_argument(
        "--method", choices=METHODS, default="optimal", help="of choosing thresholds"
    )


def _add_export(sub):
    sub.add_argument(
        "--quantize",
        choices=("float16", "dynamic", "int8"),
        help="quantize the weights; ranges and thresholds are fitted on the calibrate split",
    )
    sub.add_argument(
        "--single-call",
        action="store_true",
        help="add a signature that stops early within one call",
    )
    sub.add_argument(
        "--runtime",
        choices=("litert", "tflite-2.14"),
        default="litert",
        help="oldest runtime that the file must run on",
    )


def _size(text):
    try:
        numbers = [int(n) for n in text.lower().split("x")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"must be 64, or 64x48. Received: {text}")
    return tuple(numbers * 2)[:2]
