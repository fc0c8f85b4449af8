"""The arguments of every command, and what `--help` says."""

import argparse
import importlib
from pathlib import Path

from keras_adaptive import __version__

EPILOG = """\
examples:
  python -m keras_adaptive demo
  python -m keras_adaptive train --data cifar10 --preset cifar_budgeted_5 --epochs 10 --out run
  python -m keras_adaptive evaluate run --budget 0.5
  python -m keras_adaptive export run --quantize int8
  python -m keras_adaptive run run/model.tflite picture.png --deadline-ms 5

exit codes: 0 done, 2 wrong input, 1 failed on the way, 130 interrupted
"""
EXAMPLES = {
    "demo": """\
examples:
  python -m keras_adaptive demo
  python -m keras_adaptive demo --data photos/ --image-size 64 --out photos_run
""",
    "train": """\
examples:
  python -m keras_adaptive train --out run
  python -m keras_adaptive train --data cifar10 --preset cifar_budgeted_5 --epochs 10
  python -m keras_adaptive train --data photos.tar.xz --image-size 64 --regime mixed
  python -m keras_adaptive train --data cifar100 --preset cifar_budgeted_7 --recipe cifar

A training that was killed goes on from its last whole epoch when the same command is given.
""",
    "calibrate": """\
examples:
  python -m keras_adaptive calibrate run --budget 0.4
  python -m keras_adaptive calibrate run --accuracy 0.8 --worst-case 0.7
  python -m keras_adaptive calibrate run --risk 0.01 --delta 0.05
""",
    "evaluate": """\
examples:
  python -m keras_adaptive evaluate run
  python -m keras_adaptive evaluate run --budget 0.5
  python -m keras_adaptive evaluate run --risk 0.01

Without --budget, --accuracy or --risk the policy that `calibrate` chose is evaluated; if there
is none, thresholds are chosen for half of the full network's cost.
""",
    "export": """\
examples:
  python -m keras_adaptive export run
  python -m keras_adaptive export run --quantize int8
  python -m keras_adaptive export run --single-call --runtime tflite-2.14
""",
    "run": """\
examples:
  python -m keras_adaptive run run/model.tflite cat.png dog.png
  python -m keras_adaptive run run/model.tflite cat.png --deadline-ms 5
""",
    "report": """\
examples:
  python -m keras_adaptive report run
""",
    "card": """\
examples:
  python -m keras_adaptive card run > MODEL_CARD.md
""",
}
DEMO = "demo: trains, calibrates, evaluates, exports and runs a small network in about a minute"
# command: module of the function, what it does
COMMANDS = {
    "demo": ("demo", "train, evaluate, export and run on the device, in one go"),
    "train": ("train", "fit an MSDNet and keep it in a folder"),
    "calibrate": ("evaluate", "choose thresholds for a budget, an accuracy or a promise"),
    "evaluate": ("evaluate", "report on the test images, choosing thresholds first if asked to"),
    "export": ("export", "write model.tflite and check it on the test images"),
    "run": ("run", "classify pictures with an exported file, as a device does"),
    "report": ("document", "write report.md and report.html again from report.json"),
    "card": ("document", "print the model card"),
}
METHODS = ("optimal", "geometric", "percentile")
REGIMES = ("joint", "disjoint", "mixed", "imta")


def parse(arguments):
    """Returns the options of a command; `function` among them runs it."""
    return _parser().parse_args(arguments)


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, where there are some, and leaves examples as they are."""

    def _get_help_string(self, action):
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m keras_adaptive",
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
            "--threads", type=int, default=1, help="of the device's interpreter"
        )
    subs["run"].add_argument("file", type=Path, help="a .tflite file written by export")
    subs["run"].add_argument("pictures", type=Path, nargs="+", help="image files")
    subs["run"].add_argument("--deadline-ms", type=float, help="answer within so many milliseconds")
    return parser


def _late(module, name):
    """Returns the function of a command, imported when it is called: --help is quick."""

    def run(options):
        if name == "demo":  # importing TensorFlow takes seconds
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
    data.add_argument("--data-dir", type=Path, help="such a folder or tar file, for a name")
    data.add_argument("--cache-dir", type=Path, help="where prepared data is kept")
    data.add_argument("--image-size", type=_size, help="in pixels: 64, or 64x48 (height, width)")
    data.add_argument("--train-limit", type=int, help="use only so many training images")
    training = sub.add_argument_group("training")
    training.add_argument("--preset", help="network, for example cifar_budgeted_5")
    training.add_argument(
        "--regime", choices=REGIMES, default="joint", help="in which order the parts learn"
    )
    training.add_argument(
        "--recipe",
        choices=("cifar", "imagenet"),
        help="a published one; without: 30 epochs, batches of 64, rate 0.1 along a cosine",
    )
    training.add_argument("--epochs", type=int, help="instead of the recipe's")
    training.add_argument("--batch-size", type=int, help="instead of the recipe's")
    training.add_argument("--learning-rate", type=float, help="instead of the recipe's")
    training.add_argument(
        "--schedule",
        choices=("cosine", "steps", "one_cycle"),
        help="instead of the recipe's: to zero along a cosine; a tenth after 50 %% and after "
        "75 %%; or up first, then down",
    )
    training.add_argument("--seed", type=int, default=0)


def _add_target(sub):
    group = sub.add_argument_group("when to stop")
    target = group.add_mutually_exclusive_group()
    target.add_argument(
        "--budget",
        type=float,
        help="mean cost, as a share of the full network's; 0.5 if no other is given",
    )
    target.add_argument("--accuracy", type=float, help="share of right answers, at least cost")
    target.add_argument(
        "--risk", type=float, help="promise that the risk (--metric) is at most this"
    )
    group.add_argument(
        "--metric",
        choices=("accuracy_drop", "disagreement", "error"),
        default="accuracy_drop",
        help="of --risk",
    )
    group.add_argument(
        "--delta", type=float, default=0.05, help="of --risk: probability that it is broken"
    )
    group.add_argument(
        "--worst-case", type=float, help="most that one image may cost, as a share likewise"
    )
    group.add_argument("--method", choices=METHODS, default="optimal", help="of calibration")


def _add_export(sub):
    sub.add_argument(
        "--quantize",
        choices=("float16", "dynamic", "int8"),
        help="smaller weights; ranges and thresholds come from the calibrate split",
    )
    sub.add_argument(
        "--single-call", action="store_true", help="add a signature that leaves by itself"
    )
    sub.add_argument(
        "--runtime",
        choices=("litert", "tflite-2.14"),
        default="litert",
        help="oldest runtime that must read the file",
    )


def _size(text):
    try:
        numbers = [int(n) for n in text.lower().split("x")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"must be 64, or 64x48. Received: {text}")
    return tuple(numbers * 2)[:2]
