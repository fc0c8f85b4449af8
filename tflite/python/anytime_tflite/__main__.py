"""The command `anytime-tflite`: checks a file, prints its metadata, times it on this device."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from anytime_tflite import __version__
from anytime_tflite.backends import BACKENDS
from anytime_tflite.bench import bench, grow, lines
from anytime_tflite.file import read_info


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command `anytime-tflite`, which is also `python -m anytime_tflite`.

    Args:
        arguments: List of strings. `None`: those of the program.
    """
    module = Path(sys.argv[0]).name == "__main__.py"
    parser = argparse.ArgumentParser(
        prog="python -m anytime_tflite" if module else "anytime-tflite",
        description="Checks and times files written by keras_adaptive.export_tflite.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="info|bench")
    info = commands.add_parser("info", help="check a file and print its metadata")
    info.add_argument("file", type=Path)
    info.set_defaults(function=_info)
    timing = commands.add_parser("bench", help="time every stage and exit of a file")
    timing.add_argument("file", type=Path)
    timing.add_argument("--baseline", type=Path, help="another .tflite file, timed in turn")
    timing.add_argument("--runs", type=int, default=200, help="how often (default: 200)")
    timing.add_argument("--threads", type=int, default=1, help="of the interpreter (default: 1)")
    timing.add_argument(
        "--backend", choices=tuple(BACKENDS), default="interpreter", help="what runs the file"
    )
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


def _info(options: argparse.Namespace) -> None:
    print(json.dumps(read_info(options.file), indent=2))


def _bench(options: argparse.Namespace) -> None:
    out = options.out
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise ValueError(f"`--out` must be a file in a folder that exists. Received: {out}")
    result = bench(
        options.file,
        options.baseline,
        runs=options.runs,
        num_threads=options.threads,
        backend=options.backend,
    )
    print("\n".join(lines(result)))
    if out is not None:
        part = out.with_name(f".{out.name}.{os.getpid()}")
        try:
            part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            part.replace(out)  # whole, or what was there before
        finally:
            part.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
