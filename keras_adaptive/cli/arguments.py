"""The arguments of every command, and the texts of `--help`."""

import argparse
import difflib
import importlib
import math
import os
import re
from pathlib import Path

from keras_adaptive import __version__

PROGRAM = "keras-adaptive"  # also as `python -m keras_adaptive`

EPILOG = """\
examples:
  keras-adaptive demo
  keras-adaptive train --data cifar10 --preset cifar_budgeted_5 --epochs 10 --out run
  keras-adaptive evaluate run --budget-share 0.5
  keras-adaptive export run --quantize int8
  keras-adaptive run run/model.tflite picture.png --deadline-ms 5
  keras-adaptive compare run other_run

Every command takes --json: one JSON document on stdout, all else on stderr.
exit codes: 0 done, 1 failed, 2 wrong input, 130 interrupted
"""
EXAMPLES = {
    "demo": """\
examples:
  keras-adaptive demo
  keras-adaptive demo --data photos/ --out photos_run
""",
    "train": """\
examples:
  keras-adaptive train --out run
  keras-adaptive train --data photos/ --batch-size 16 --out run
  keras-adaptive train --data cifar10 --preset cifar_budgeted_5 --epochs 10
  keras-adaptive train --data photos.tar.xz --image-size 64 --regime mixed
  keras-adaptive train --data cifar100 --preset cifar_budgeted_7 --recipe cifar

An interrupted training goes on when the same command is given again. A folder that holds another
run, or anything else, is left as it is.
""",
    "calibrate": """\
examples:
  keras-adaptive calibrate run --budget-share 0.4
  keras-adaptive calibrate run --budget 12e6
  keras-adaptive calibrate run --accuracy 0.8 --worst-case-share 0.7
  keras-adaptive calibrate run --risk 0.01 --delta 0.05
""",
    "evaluate": """\
examples:
  keras-adaptive evaluate run
  keras-adaptive evaluate run --budget-share 0.5
  keras-adaptive evaluate run --risk 0.01

Without a budget, an accuracy, a risk or a worst case, the policy that `calibrate` chose is
evaluated. If there is none, thresholds are chosen for a budget of half the full network's cost.
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
  keras-adaptive run run/model.tflite photos/ --deadline-ms 5
  keras-adaptive run run/model.tflite cat.png --json
""",
    "score": """\
examples:
  keras-adaptive score photos/ --model run/model.tflite --output answers
  keras-adaptive score 'photos/**/*.jpg' --model run/model.tflite --output answers
  keras-adaptive score 'data/*.parquet' --model run/model.tflite --output answers \\
      --runner DirectRunner --direct_running_mode multi_processing --direct_num_workers 8

An interrupted run goes on when the same command is given again; what is written is not done again.
Every other option is Beam's: then Beam computes, on machines that all see the files.
""",
    "report": """\
examples:
  keras-adaptive report run
  keras-adaptive report run --measurement pixel.json galaxy.json

A measurement is what the button "Measure" of the Android app shares, or what
`anytime-tflite bench run/model.tflite --out pi.json` writes on a device with Python.
""",
    "card": """\
examples:
  keras-adaptive card run > MODEL_CARD.md
""",
    "compare": """\
examples:
  keras-adaptive compare run other_run
""",
    "doctor": """\
examples:
  keras-adaptive doctor
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
    "score": ("score", "compute the answers to any number of samples, on Apache Beam if asked to"),
    "report": ("document", "write report.md, report.html and card.md again from report.json"),
    "card": ("document", "print the model card"),
    "compare": ("compare", "show the results of several runs side by side"),
    "doctor": ("doctor", "show what is installed here, and which engine computes"),
}
# as in calibration and training, whose imports --help does not wait for
METHODS = ("optimal", "geometric", "percentile", "pcee")
METRICS = ("accuracy_drop", "disagreement", "error")
REGIMES = ("joint", "disjoint", "mixed", "imta")  # those that train an MSDNet
PRESETS = (
    "cifar_anytime",
    *(f"cifar_budgeted_{blocks}" for blocks in range(4, 9)),
    "imagenet_anytime",
    *(f"imagenet_step{step}" for step in (4, 6, 7)),
    *(f"imta_imagenet_{step}" for step in (4, 6, 7)),
)
LARGEST_SIDE = 10_000  # pixels
MOST = 10**9  # of what is counted
MACS = 1e30  # more than any network has, and what a report holds
SEEDS = 2**32 - 1000  # what numpy takes, with room for the phases of a training


def parse(arguments):
    """Returns the parsed options; their `function` runs the command."""
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if hasattr(options, "beam"):
        flags = list(options.parser._option_string_actions)
        options.beam, unknown = unknown, [u for u in unknown if _near(u, flags, 0.9)]
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    for given in arguments if hasattr(options, "out") or hasattr(options, "run") else ():
        if given.encode("utf-8", "replace").decode() != given:
            options.parser.error(
                "arguments must be in UTF-8, as the report of a run holds them: rename the file. "
                f"Received: {ascii(given)}"
            )
    if hasattr(options, "risk"):
        _check_target(options)
    for name in ("budget", "worst_case"):
        value, flag = getattr(options, name, None), f"--{name.replace('_', '-')}"
        if value is not None and value <= 1:
            options.parser.error(
                f"argument {flag}: `{flag}` must be a number of MACs, above 1. Received: {flag} "
                f"{value:g}. For a share of the full network's cost: {flag}-share {value:g}"
            )
    return options


def _check_target(options):
    """Ends with an error where options do not go together, of which one would be ignored."""

    def refuse(name, must):
        given = getattr(options, name)
        options.parser.error(
            f"argument --{name}: `--{name}` must {must}. Received: --{name} {given}"
        )

    for name in ("metric", "delta") if options.risk is None else ():
        if getattr(options, name) != options.parser.get_default(name):
            refuse(name, "be given with --risk, of whose guarantee it is")
    if options.risk is not None and options.method != "optimal":
        refuse("method", "be optimal with --risk")
    if options.method == "pcee" and options.accuracy is None:
        refuse("method", "be given with --accuracy where it is pcee")


class _Parser(argparse.ArgumentParser):
    """Says what may have been meant where a name is not known."""

    def error(self, message):
        given, known = None, []
        if choice := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            given, known = choice[1], [name.strip("' ") for name in choice[2].split(",")]
        elif option := re.search(r"unrecognized arguments: .*?(--[-\w]+)", message):
            given, known = option[1], list(self._option_string_actions)
        super().error(_short(message) + _meant(given, known))


def _near(given, known, cutoff=0.6):
    return difflib.get_close_matches(given, known, 1, cutoff)


def _meant(given, known):
    near = _near(given, known) if given else []
    return f". Did you mean {near[0]}?" if near else ""


def _short(text):
    return text if len(text) <= 1000 else f"{text[:1000]}..."


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows default values, and keeps the line breaks of the examples."""

    def _get_help_string(self, action):
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)


def _parser():
    parser = _Parser(
        prog=PROGRAM,
        description="Networks that spend only as much computation as each input needs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    _add_completion(parser)
    commands = parser.add_subparsers(required=True, metavar="command")
    subs = {}
    for name, (module, text) in COMMANDS.items():
        subs[name] = commands.add_parser(
            name, help=text, description=text, epilog=EXAMPLES[name], formatter_class=_Help
        )
        subs[name].set_defaults(function=_late(module, name), parser=subs[name])
        subs[name].add_argument(
            "--json", action="store_true", help="print the result as JSON; all else goes to stderr"
        )
    for name, out in (("demo", "demo_run"), ("train", "run")):
        _add_training(subs[name], out)
    for name in ("calibrate", "evaluate", "export", "report", "card"):
        subs[name].add_argument("run", type=_path, help="folder of the run")
    for name in ("demo", "calibrate", "evaluate"):
        _add_target(subs[name])
    for name in ("demo", "export"):
        _add_export(subs[name])
    for name in ("demo", "export", "run"):
        subs[name].add_argument(
            "--threads",
            type=_integer(1, 1024),
            default=1,
            help="number of threads of the TFLite interpreter",
        )
    subs["report"].add_argument(
        "--measurement",
        type=_path,
        nargs="+",
        action="extend",
        metavar="JSON",
        help="what was measured of model.tflite on devices, in place of what was given before",
    )
    subs["run"].add_argument("file", type=_path, help="a .tflite file written by export")
    subs["run"].add_argument("pictures", type=_path, nargs="+", help="image files, or folders")
    subs["compare"].add_argument("runs", type=_path, nargs="+", help="folders of runs")
    subs["run"].add_argument(
        "--deadline-ms",
        type=_number("of milliseconds, of at least 0", 0),
        help="stop after this many milliseconds",
    )
    _add_score(subs["score"])
    return parser


def _add_completion(parser):
    """Adds the option that prints what a shell completes commands, options and paths by."""
    try:
        import shtab
    except ImportError:
        parser.add_argument("--print-completion", action=_NoCompletion, help=_COMPLETION)
    else:
        shtab.add_argument_to(parser, "--print-completion", help=_COMPLETION)


_COMPLETION = "print the completion script of a shell: bash, zsh or tcsh"


class _NoCompletion(argparse.Action):
    """Says what to install."""

    def __call__(self, parser, namespace, values, option_string=None):
        parser.error("--print-completion needs shtab: pip install 'keras_adaptive[completion]'")


def _late(module, name):
    """Returns a command's function, which is imported when it is called and all is checked."""

    def run(options):
        if name == "demo":  # before TensorFlow is imported, which takes seconds
            print(DEMO, flush=True)
        check = getattr(importlib.import_module("keras_adaptive.cli.checks"), name, None)
        if check is not None:
            if check(options) == "done":
                return None
            print(f"{name}: loading TensorFlow", flush=True)
        return getattr(importlib.import_module(f"keras_adaptive.cli.{module}"), name)(options)

    return run


def _add_training(sub, out):
    sub.add_argument("--out", type=_path, default=Path(out), help="folder of the run")
    sub.add_argument(
        "--overwrite",
        action="store_true",
        help="train anew where there is a run; it stays until the new one is whole",
    )
    data = sub.add_argument_group("data")
    data.add_argument(
        "--data",
        type=_place,
        default="digits",
        help="digits, a tensorflow_datasets name (cifar10), or images: a folder or tar file of "
        "<class>/*, or of train/<class>/* and test/<class>/*, or a CSV file of paths and labels",
    )
    data.add_argument(
        "--data-dir", type=_path, help="folder or tar file with the images of a named data set"
    )
    data.add_argument("--cache-dir", type=_path, help="folder for downloaded and prepared data")
    data.add_argument(
        "--image-size",
        type=_size,
        help="in pixels: 64, or 64x48 (height, width); without one: the images' own, or 64 if they "
        "differ. They are scaled to cover it, and cut in the middle",
    )
    data.add_argument("--train-limit", type=_integer(1), help="use only this many training images")
    training = sub.add_argument_group("training")
    training.add_argument(
        "--preset",
        type=_preset,
        help=f"network, one of {', '.join(PRESETS)}; without one: a small network for digits or "
        "fewer than 5,000 training images, otherwise that of cifar_budgeted_5",
    )
    training.add_argument(
        "--regime", choices=REGIMES, default="joint", help="how the exits are trained"
    )
    training.add_argument(
        "--recipe",
        choices=("cifar", "imagenet", "one_cycle"),
        help="a recipe by name; without one: 30 epochs, batch size 64, learning rate 0.1, cosine",
    )
    training.add_argument("--epochs", type=_integer(1), help="instead of the recipe's")
    training.add_argument("--batch-size", type=_integer(1), help="instead of the recipe's")
    training.add_argument(
        "--learning-rate", type=_number("above 0", 0, open=True), help="instead of the recipe's"
    )
    training.add_argument(
        "--schedule",
        choices=("cosine", "steps", "one_cycle"),
        help="instead of the recipe's; steps: divided by ten after 50 %% and 75 %% of the epochs",
    )
    training.add_argument("--seed", type=_integer(0, SEEDS), default=0)


def _add_target(sub):
    group = sub.add_argument_group("when to stop")
    target = group.add_mutually_exclusive_group()
    target.add_argument(
        "--budget",
        type=_number("above 0 and below 1e30", 0, open=True, most=MACS),
        help="mean MACs per image",
    )
    target.add_argument(
        "--budget-share",
        type=_share("budget-share"),
        help="mean cost per image, as a share of the full network's; 0.5 if no target is given",
    )
    target.add_argument(
        "--accuracy", type=_share("accuracy"), help="accuracy to reach at the lowest cost"
    )
    target.add_argument(
        "--risk",
        type=_share("risk", open=True),
        help="guarantee that the risk (--metric) is at most this",
    )
    group.add_argument(
        "--metric",
        choices=METRICS,
        default="accuracy_drop",
        help="the risk that --risk bounds",
    )
    group.add_argument(
        "--delta",
        type=_share("delta", open=True),
        default=0.05,
        help="probability that the guarantee is violated",
    )
    worst = group.add_mutually_exclusive_group()
    worst.add_argument(
        "--worst-case",
        type=_number("above 0 and below 1e30", 0, open=True, most=MACS),
        help="most MACs that any one image may cost",
    )
    worst.add_argument(
        "--worst-case-share",
        type=_share("worst-case-share"),
        help="the same, as a share of the full network's cost",
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


def _add_score(sub):
    sub.set_defaults(beam=[])
    sub.add_argument(
        "pattern",
        type=_place,
        nargs="+",
        help="files: pictures, or TFRecord or Parquet files with many; a folder; or a pattern of "
        "names with * ? [...] and ** for any folders",
    )
    sub.add_argument("--model", type=_path, required=True, help="a .tflite file written by export")
    sub.add_argument(
        "--output",
        type=_path,
        required=True,
        help="folder of the answers, a new one or of this run",
    )
    sub.add_argument(
        "--shard-size",
        type=_integer(1),
        default=10_000,
        help="samples whose answers are one file, and the most that an interruption loses",
    )
    sub.add_argument(
        "--workers",
        type=_integer(1, 1024),
        help="threads that compute; without: one per core, and one in each thread of a runner",
    )
    for name in ("image", "label", "key"):
        sub.add_argument(
            f"--{name}-column",
            metavar="NAME",
            help="feature of TFRecord or column of Parquet, where it has no usual name",
        )


def _place(text):
    """Returns a path or a name, of which no shell may have replaced the home folder's sign."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty. Received: ''")
    return os.path.expanduser(text)


def _path(text):
    return Path(_place(text))


def _size(text):
    try:
        numbers = [int(n) for n in text.lower().split("x")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers) < 1 or max(numbers) > LARGEST_SIDE:
        raise argparse.ArgumentTypeError(
            f"must be 64, or 64x48, at most {LARGEST_SIDE}. Received: {text}"
        )
    return tuple(numbers * 2)[:2]


def _preset(text):
    if text not in PRESETS:
        raise argparse.ArgumentTypeError(
            f"`preset` must be one of {PRESETS}. Received: {text}{_meant(text, PRESETS)}"
        )
    return text


def _integer(least, most=MOST):
    """Returns the type of an option that is an integer within bounds."""

    def read(text):
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or not least <= number <= most:
            raise argparse.ArgumentTypeError(
                f"must be an integer of at least {least} and at most {most}. Received: {text}"
            )
        return number

    return read


def _number(must, least, *, open=False, most=math.inf, hint=lambda number: ""):
    """Returns the type of an option that is a finite number within bounds, of which it says more.

    Args:
        must: String, what the number must be.
        least: Number.
        open: Boolean, whether it must be above `least` and below `most`.
        most: Number.
        hint: Function of a number out of bounds: what may have been meant.
    """

    def read(text):
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        within = least < number < most if open else least <= number <= most
        if not within or not math.isfinite(number):
            raise argparse.ArgumentTypeError(
                f"must be a finite number {must}. Received: {text}{hint(number)}"
            )
        return number

    return read


def _share(name, open=False):
    """Returns the type of an option that is a share: above 0, and at most or below 1."""

    def hint(number):
        return f". For {number:g} %: --{name} {number / 100:g}" if 1 < number < 100 else ""

    bounds = "between 0 and 1" if open else "above 0 and at most 1"
    most = 1 if open else math.nextafter(1, 2)
    return _number(f"{bounds} (`--{name}` is a share)", 0, open=True, most=most, hint=hint)
