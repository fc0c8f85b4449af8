"""`run`: classifies images with an exported file, as a device does."""

import os
import sys
from pathlib import Path

from anytime_tflite import AnytimeModel, pixels
from keras_adaptive._files import is_hidden
from keras_adaptive.cli import folder as runs

SHOWN = ("label", "class_name", "exit", "stopped_by", "elapsed_ms", "cost")


def run(options):
    folder = options.file.parent
    if not options.file.exists() and (folder / runs.MANIFEST).exists():
        raise ValueError(
            f"`path` must be a file. Received: path={options.file}, which the run has not written "
            f"yet: keras-adaptive export {folder} does"
        )
    model = AnytimeModel(options.file, num_threads=options.threads)
    shapes = [shape for shape, _ in model.inputs.values()]
    rule = pixels.rule_of(model.info, shapes, options.file)
    answers = []
    for path, image in _pictures(options.pictures, rule):
        answer = model.classify(image, options.deadline_ms)
        probability = float(answer.probabilities[answer.label])
        line = f"{path}: {answer.class_name or answer.label} ({probability:.1%})"
        if sys.stdout.isatty():  # other programs get nothing that differs from time to time
            line += f", exit {answer.exit}, stopped by {answer.stopped_by}"
            line += f", {answer.elapsed_ms:.2f} ms"
        print(line, flush=True)
        facts = {key: getattr(answer, key) for key in SHOWN}
        answers.append({"picture": str(path), "probability": probability, **facts})
    return {"file": str(options.file), "answers": answers}


def _pictures(paths, rule):
    """Yields every picture with its path; of a folder all those in it that can be read."""
    for path in paths:
        if not path.is_dir():
            yield path, pixels.read(path, rule)
            continue
        found = 0
        for each in _files_in(path):
            if each.suffix.lower() not in pixels.SUFFIXES or not each.is_file():
                continue
            try:
                image = pixels.read(each, rule)
            except ValueError as error:
                print(f"left out: {error}", file=sys.stderr)
                continue
            found += 1
            yield each, image
        if not found:
            raise ValueError(f"The folder must hold pictures that can be read. Received: {path}")


def _files_in(folder):
    """Returns the files in a folder and those in it, in order; hidden ones are left out."""

    def leave_out(error):
        print(f"left out: {error}", file=sys.stderr)

    walked = os.walk(folder, onerror=leave_out)
    found = [Path(where, name) for where, _, names in walked for name in names]
    return sorted(p for p in found if not is_hidden(p.relative_to(folder).as_posix()))
