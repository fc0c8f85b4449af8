"""`run`: classifies images with an exported file, as a device does."""

import sys

from anytime_tflite import AnytimeModel, pixels


def run(options):
    model = AnytimeModel(options.file, num_threads=options.threads)
    rule = _rule(model, options.file)
    for path in options.pictures:
        answer = model.classify(pixels.read(path, rule), options.deadline_ms)
        line = f"{path}: {answer.class_name or answer.label} "
        line += f"({answer.probabilities[answer.label]:.1%})"
        if sys.stdout.isatty():  # other programs get nothing that differs from time to time
            line += f", exit {answer.exit}, stopped by {answer.stopped_by}"
            line += f", {answer.elapsed_ms:.2f} ms"
        print(line, flush=True)


def _rule(model, file):
    """Returns how pictures become pixels: the file's own rule, or the usual one of its size."""
    shape = model.input_shape
    if len(model.info.get("inputs", [None])) > 1 or len(shape) != 3 or shape[2] not in (1, 3):
        raise ValueError(
            "The file must classify pictures: its one input must be (height, width, channels) "
            f"with 1 or 3 channels. Received: {file}, whose input is of shape {shape}"
        )
    rule = pixels.check_rule(model.info.get("pixels") or dict(zip(_SIDES, shape, strict=True)))
    if tuple(rule[side] for side in _SIDES) != tuple(shape):
        raise ValueError(
            f"The pixel rule of a file must be of its input's shape, {shape}. "
            f"Received: {file}, whose rule is {rule}"
        )
    return rule


_SIDES = ("height", "width", "channels")
