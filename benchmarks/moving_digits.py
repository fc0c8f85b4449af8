"""A clip cascade on generated videos: that the mechanics work, not how accurate they are.

    make bench-moving-digits

A handwritten digit of 8 x 8 pixels drifts through 24 frames of 16 x 28 pixels full of noise,
and is hidden in a fifth of them. Clips are cut as in the paper, 10 places in time times 3 in
space.
"""

import keras
import numpy as np

import keras_adaptive as ka
from benchmarks import _rows
from keras_adaptive.models import build_clip_cascade, build_x3d
from keras_adaptive.models.clip_cascade import cut_clips

FRAMES, HEIGHT, WIDTH = 24, 16, 28
CLIP, SIZE = 4, 16
TEMPORAL, SPATIAL = 10, 3
NOISE, SHOWN = 0.2, 0.8
EPOCHS = 10
SHARES = (0.1, 0.2, 0.4, 1.0)


def videos(images, rng, shown=SHOWN):
    """One video per image: `(images, frames, height, width, 1)`."""
    result = rng.normal(0, NOISE, (len(images), FRAMES, HEIGHT, WIDTH, 1)).astype("float32")
    for video, image in zip(result, images, strict=True):
        start, end = (rng.uniform(0, (HEIGHT - 8, WIDTH - 8)) for _ in range(2))
        for t in range(FRAMES):
            top, left = np.rint(start + (end - start) * t / (FRAMES - 1)).astype(int)
            if rng.random() < shown:
                video[t, top : top + 8, left : left + 8] += image
    return result


def clips(videos):
    return np.stack([cut_clips(v, CLIP, SIZE, temporal=TEMPORAL, spatial=SPATIAL) for v in videos])


def measure():
    digits = ka.data.load("digits")
    rng = np.random.default_rng(0)
    data = {}
    for split in ("train", "calibrate", "test"):
        x, y = digits.arrays(split)
        data[split] = clips(videos((x - x.min()) / np.ptp(x), rng)), y
    keras.utils.set_random_seed(0)
    model = build_x3d((CLIP, SIZE, SIZE, 1), 10, width=12, blocks=(1, 2), top=64)
    x, y = data["train"]
    some = rng.permuted(np.tile(np.arange(x.shape[1]), (len(x), 1)), axis=1)[:, :4]
    chosen = np.take_along_axis(x, some[:, :, None, None, None, None], axis=1)
    model.compile(keras.optimizers.Adam(3e-3))
    model.fit(
        chosen.reshape(-1, *x.shape[2:]),
        np.repeat(y, some.shape[1]),
        epochs=EPOCHS,
        batch_size=64,
        verbose=2,
    )
    cascade = build_clip_cascade(model, clips=x.shape[1])
    held_out, test = (
        (np.stack(cascade.predict(x, batch_size=60, verbose=0)), y)
        for x, y in (data["calibrate"], data["test"])
    )
    costs = cascade.exit_costs()
    rows = []
    for share in SHARES:
        policy = ka.calibrate(*held_out, costs, budget=share * costs[-1])
        report = ka.evaluate(policy, *test, costs)
        rows.append(
            {
                "budget_share": share,
                "accuracy": report.accuracy,
                "mean_macs": report.mean_cost,
                "mean_clips": report.mean_cost / costs[0],
                "worst_macs": report.worst_cost,
            }
        )
    alone = [{"clips": k, "accuracy": float(report.exit_accuracies[k - 1])} for k in (1, 3, 10, 30)]
    return {"fixed": alone, "adaptive": rows}


def page(results):
    fixed = {"clips": "clips", "accuracy": "accuracy"}
    adaptive = {
        "budget_share": "budget",
        "accuracy": "accuracy",
        "mean_clips": "mean clips",
        "mean_macs": "mean MACs",
        "worst_macs": "worst MACs",
    }
    return _rows.page(
        "# Clips of a video as stages of evidence, on generated moving digits",
        "This shows that the mechanics work; generated digits say nothing about accuracy on "
        "real videos. A small X3D looks at clip after clip, 10 places in time times 3 in space, "
        "and stops when the mean of its logits is confident. Thresholds are chosen on the "
        "calibrate split, results come from the test split.",
        "## All videos looked at equally long",
        _rows.table(fixed, results["fixed"]),
        "## Stopping when confident",
        _rows.table(adaptive, results["adaptive"]),
    )


if __name__ == "__main__":
    _rows.run("moving_digits", __doc__, measure, page, epochs=EPOCHS)
