"""The command line of the device: what a file says, and how fast it is here."""

import argparse
import json
import sys
from pathlib import Path

from anytime_tflite.backends import BACKENDS
from anytime_tflite.bench import bench, grow, lines
from anytime_tflite.file import read_info


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m anytime_tflite",
        description="Looks at files written by keras_adaptive.export_tflite.",
    )
    commands = parser.add_subparsers(required=True, metavar="info|bench")
    info = commands.add_parser("info", help="check a file and print what it says of itself")
    info.add_argument("file", type=Path)
    info.set_defaults(function=_info)
    timing = commands.add_parser("bench", help="time every stage and exit of a file")
    timing.add_argument("file", type=Path)
    timing.add_argument("--baseline", type=Path, help="another .tflite file, timed in turn")
    timing.add_argument("--runs", type=int, default=200)
    timing.add_argument("--threads", type=int, default=1)
    timing.add_argument("--backend", choices=tuple(BACKENDS), default="interpreter")
    timing.add_argument("--out", type=Path, help="write the result here, as JSON")
    timing.set_defaults(function=_bench)
    memory = commands.add_parser("memory")  # of one file, in a program of its own
    memory.add_argument("file", type=Path)
    memory.add_argument("threads", type=int)
    memory.set_defaults(function=lambda options: print(grow(options.file, options.threads)))
    options = parser.parse_args(arguments)
    try:
        options.function(options)
    except (ValueError, ImportError, RuntimeError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


def _info(options):
    print(json.dumps(read_info(options.file), indent=2))


def _bench(options):
    result = bench(
        options.file,
        options.baseline,
        runs=options.runs,
        num_threads=options.threads,
        backend=options.backend,
    )
    print("\n".join(lines(result)))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
