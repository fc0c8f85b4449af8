"""`run`: classifies images with an exported file, as a device does."""

import numpy as np

from anytime_tflite import AnytimeModel
from keras_adaptive._checks import needs_extra


def run(options):
    model = AnytimeModel(options.file, num_threads=options.threads)
    height, width, channels = model.input_shape
    for path in options.pictures:
        image = np.array(_picture(path, width, height, "L" if channels == 1 else "RGB"))
        answer = model.classify(image.reshape(model.input_shape), options.deadline_ms)
        print(
            f"{path}: {answer.class_name or answer.label} "
            f"({answer.probabilities[answer.label]:.1%}), exit {answer.exit}, "
            f"stopped by {answer.stopped_by}, {answer.elapsed_ms:.2f} ms"
        )


def _picture(path, width, height, mode):
    with needs_extra("data"):
        from PIL import Image
    try:
        return Image.open(path).convert(mode).resize((width, height))
    except OSError as error:
        raise ValueError(f"A picture must be an image file. Received: {path} ({error})") from error
