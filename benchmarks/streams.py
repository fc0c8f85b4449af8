"""Videos frame by frame, and with answers that are kept while the scene stays the same.

    make bench-streams

A video is a row of scenes. In the first, each scene is a handwritten digit that drifts through
noise; a small network is trained on such frames. In the second, each is a photo of CIFAR-10 as a
camera sees it that pans, zooms, shakes and is noisy; the network is the one that comes with the
library. Thresholds and `tau` are chosen on scenes of the calibrate split, results come from those
of the test split. Slower and faster videos take all frames of a scene, or each eighth, or one.
"""

import tempfile
from pathlib import Path

import keras
import numpy as np

import keras_adaptive as ka
from anytime_tflite import AnytimeModel
from benchmarks import _rows, common, moving_digits
from keras_adaptive.calibration import calibrate_budgets, fit_tau, scene_starts

STEPS = {"slow": 1, "fast": 8, "every frame another scene": 24}  # of 24 frames, each so many
SHARE = 0.5  # of the full cost, for each frame alone
LOSSES = (0.005, 0.01, 0.02)
SLOW = "1.0% lost, slow"  # chosen on slow scenes, where others are chosen at the same speed
DEFAULT = 0.1  # of `stream_frames`
FIXED = {"the default": DEFAULT, "the label decides": float(np.sqrt(2))}
PHOTOS = {"calibrate": 300, "test": 700}
ZOOM, SHAKE, LIGHT, NOISE = 0.8, 0.3, 0.03, 4  # smallest window; pixels; share; levels of 255
EPOCHS, FRAMES_SEEN = 12, 8
RESAMPLES = 4000
CHECKED, ROUNDS = 40, 5  # scenes on the device; rounds of the time

NETWORK = {
    "input_shape": (moving_digits.HEIGHT, moving_digits.WIDTH, 1),
    "classes": 10,
    "blocks": 4,
    "channels": 8,
    "growth_rate": 4,
    "head_channels": 16,
}
FOLDER = common.RUNS / "streams"
SETTINGS = {
    "share": SHARE,
    "losses": LOSSES,
    "steps": STEPS,
    "photos": PHOTOS,
    "camera": (ZOOM, SHAKE, LIGHT, NOISE),
    "epochs": EPOCHS,
}


# ---- videos: frames `(scenes, frames, height, width, channels)`, and one label per scene


def digits():
    """Returns a network trained on frames of moving digits, and the videos of two splits."""
    data, rng = ka.data.load("digits"), np.random.default_rng(0)
    videos = {}
    for split in ("train", "calibrate", "test"):
        x, y = data.arrays(split)
        x = (x - x.min()) / np.ptp(x)
        videos[split] = moving_digits.videos(x, rng, shown=1.0), y
    keras.utils.set_random_seed(0)
    model = ka.build_msdnet(**NETWORK)
    x, y = videos.pop("train")
    x = x[:, :: x.shape[1] // FRAMES_SEEN].reshape(-1, *NETWORK["input_shape"])

    def train(model):
        model.compile(keras.optimizers.Adam(3e-3))
        seen = np.repeat(y, len(x) // len(y))
        model.fit(x, seen, epochs=EPOCHS, batch_size=128, verbose=2)

    return common.trained(model, FOLDER / "digits.weights.h5", train), videos


def photos():
    """Returns the network that comes with the library, and videos of photos of two splits."""
    splits, rng = common.cifar(), np.random.default_rng(0)
    known = ka.models.pretrained("cifar10")
    videos = {}
    for split, count in PHOTOS.items():
        images, labels = splits.images(split, count)
        videos[split] = known.standardize(np.stack([camera(x, rng) for x in images])), labels
    return ka.build_msdnet(weights="cifar10"), videos


def camera(photo, rng, frames=moving_digits.FRAMES):
    """Returns a video of a photo, uint8: the window moves and changes its size evenly."""
    size = photo.shape[0]
    ends = rng.uniform(ZOOM, 1, 2)
    places = rng.uniform(0, 1, (2, 2))  # of the window's corner, in the room that it has
    shown = []
    for t in np.linspace(0, 1, frames):
        window = ends[0] + (ends[1] - ends[0]) * t
        corner = (places[0] + (places[1] - places[0]) * t) * (1 - window) * (size - 1)
        pixels = corner[:, None] + window * np.arange(size) + rng.normal(0, SHAKE, (2, 1))
        rows, columns = (_interpolation(along, size) for along in pixels)
        seen = np.einsum("yi,ijc,xj->yxc", rows, photo / 1.0, columns, optimize=True)
        seen = seen * rng.normal(1, LIGHT) + rng.normal(0, NOISE, photo.shape)
        shown.append(np.clip(np.rint(seen), 0, 255).astype("uint8"))
    return np.stack(shown)


def _interpolation(places, size):
    """Returns the weight of every pixel at each place between them, `(places, size)`."""
    places = np.clip(places, 0, size - 1)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(size)))


# ---- what is answered and spent


def alone(policy, logits, costs):
    """Returns the answers and the costs of frames that are each computed alone."""
    exits = policy.decide(logits)
    return logits[exits, np.arange(len(exits))].argmax(axis=-1), costs[exits]


def streamed(policy, logits, costs, tau):
    """Returns answers and costs where frames take the answer of their scene, and which do."""
    answers, spent = alone(policy, logits, costs)
    k = policy.exits_of(len(logits))[0]
    starts = scene_starts(ka.policy.softmax(logits[k] / policy.temperatures[k]), tau)
    reused = starts != np.arange(len(starts))
    return answers[starts], np.where(reused, costs[k], spent), reused


def interval(values, scenes):
    """Returns the mean of values `(frames,)` and its 95 % interval: whole scenes are drawn again.

    Frames of a scene are not independent of each other.
    """
    of_scenes = values.reshape(scenes, -1).mean(axis=1)
    drawn = np.random.default_rng(0).multinomial(scenes, np.full(scenes, 1 / scenes), RESAMPLES)
    low, high = np.quantile(drawn @ of_scenes / scenes, (0.025, 0.975))
    return {"mean": float(of_scenes.mean()), "low": float(low), "high": float(high)}


def compare(model, videos):
    """Returns the rows of a network's videos: each speed, each way of choosing `tau`."""
    costs, found = model.exit_costs(), {}
    for split, (x, y) in videos.items():
        frames = x.reshape(-1, *x.shape[2:])
        logits = np.stack(model.predict(frames, batch_size=250, verbose=0))
        found[split] = logits.reshape(len(costs), *x.shape[:2], -1), y
    scenes, rows, slow = len(videos["test"][1]), [], {}
    for speed, step in STEPS.items():
        held_out, test = (sampled(*found[split], step) for split in ("calibrate", "test"))
        policy = ka.calibrate(*held_out, costs, budget_share=SHARE)
        taus = {f"{loss:.1%} lost": fit_tau(policy, *held_out, loss) for loss in LOSSES}
        taus |= {**FIXED, **slow}
        budgets = [streamed(policy, held_out[0], costs, tau)[1].mean() for tau in taus.values()]
        cheaper = calibrate_budgets(*held_out, costs, budgets)
        for (name, tau), other in zip(taus.items(), cheaper, strict=True):
            facts = {"speed": speed, "frames": len(test[1]) // scenes, "chosen": name, "tau": tau}
            rows.append({**facts, **measured(policy, tau, other, *test, costs, scenes)})
            print(rows[-1], flush=True)
        slow = slow or {SLOW: taus[SLOW.removesuffix(", slow")]}
    return rows


def sampled(logits, labels, step):
    """Returns logits `(exits, frames, classes)` and labels of every `step`-th frame of scenes."""
    logits = logits[:, :, ::step]
    frames = np.repeat(labels, logits.shape[2])
    return logits.reshape(len(logits), len(frames), -1), frames


def measured(policy, tau, cheaper, logits, labels, costs, scenes):
    """Returns a row: the stream, each frame alone, and cheaper thresholds at the same cost."""
    answers, spent, reused = streamed(policy, logits, costs, tau)
    of_alone, of_cheaper = alone(policy, logits, costs), alone(cheaper, logits, costs)
    right = (answers == labels).astype(float)
    return {
        "reused": float(reused.mean()),
        "accuracy": interval(right, scenes),
        "macs": interval(spent, scenes),
        "macs_share": float(spent.mean() / costs[-1]),
        "alone_accuracy": interval(of_alone[0] == labels, scenes),
        "alone_macs_share": float(of_alone[1].mean() / costs[-1]),
        "macs_of_alone": float(spent.mean() / of_alone[1].mean()),
        "against_alone": interval(100 * (right - (of_alone[0] == labels)), scenes),
        "cheaper_macs_share": float(of_cheaper[1].mean() / costs[-1]),
        "against_cheaper": interval(100 * (right - (of_cheaper[0] == labels)), scenes),
    }


def device(model, videos):
    """Returns how many frames the exported file answers as the arrays say, and its time."""
    costs = model.exit_costs()
    policy = ka.models.pretrained("cifar10").policy
    frames = videos["test"][0][:CHECKED].reshape(-1, *model.input_shape[1:])
    logits = np.stack(model.predict(frames, batch_size=250, verbose=0))
    expected = zip(*streamed(policy, logits, costs, DEFAULT), strict=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        ka.export_tflite(model, path, policy)
        with AnytimeModel(path, num_threads=1) as file:
            found = [(a.label, a.cost, a.reused) for a in file.stream_frames(frames)]
            ways = {
                "stream": lambda: list(file.stream_frames(frames)),
                "alone": lambda: [file.classify(frame) for frame in frames],
            }
            seconds = common.in_turns(ways, ROUNDS)
    return {
        "tau": DEFAULT,
        "frames": len(frames),
        "same": sum(a == b for a, b in zip(found, expected, strict=True)),
        "macs_of_alone": sum(cost for _, cost, _ in found) / alone(policy, logits, costs)[1].sum(),
        "time_of_alone": float(np.median(seconds["stream"] / seconds["alone"])),
    }


def measure():
    """Returns the results of each part; those that an interrupted run has kept are read."""
    kept = _rows.Rows(FOLDER / "rows", **SETTINGS)
    parts = {
        "photos": lambda: compare(*photos()),
        "digits": lambda: compare(*digits()),
        "device": lambda: device(*photos()),
    }
    return {name: _rows.values(kept.measure(name, part)) for name, part in parts.items()}


# ---- the page


def verdicts(rows, key):
    """Returns how many of the rows are better, worse and neither, as words."""
    better, worse = sum(r[key]["low"] > 0 for r in rows), sum(r[key]["high"] < 0 for r in rows)
    return f"{better} better, {worse} worse, {len(rows) - better - worse} ties"


def points(found):
    return "{mean:+.2f} ({low:+.2f} to {high:+.2f})".format(**found)


def section(title, rows):
    titles = [
        "cuts and motion",
        "frames a scene",
        "tau chosen",
        "tau",
        "reused",
        "MACs, of each frame alone",
        "accuracy",
        "points against each frame alone",
        "points against cheaper thresholds",
        "their MACs, of the stream's",
    ]
    cells = [
        [
            row["speed"],
            row["frames"],
            row["chosen"],
            f"{row['tau']:.3g}",
            f"{row['reused']:.1%}",
            f"{row['macs_of_alone']:.3f}",
            f"{row['accuracy']['mean']:.2%}",
            points(row["against_alone"]),
            points(row["against_cheaper"]),
            f"{row['cheaper_macs_share'] / row['macs_share']:.3f}",
        ]
        for row in rows
    ]
    counts = [
        f"- {speed}: {verdicts(those, 'against_alone')} against each frame alone; "
        f"{verdicts(those, 'against_cheaper')} against cheaper thresholds"
        for speed in STEPS
        for those in [[row for row in rows if row["speed"] == speed]]
    ]
    return f"## {title}", counts, _rows.table(titles, cells)


def page(results):
    found = results["device"]
    return _rows.page(
        "# Videos whose frames take the answer of their scene",
        "While the first exit says nearly the same of a frame as of the scene's first one, the "
        "answer to that one is given again, for the price of the first stage "
        "(`AnytimeModel.stream_frames`). Thresholds may spend half of the full cost on each frame "
        "alone. Both they and `tau` are chosen on videos of the calibrate split, at the same "
        "speed where nothing else is said; results come from the test split.",
        "Compared are, on the same frames, the same thresholds without a memory, and thresholds "
        "that are cheaper, chosen for the cost of the stream. In brackets: 95 % intervals, for "
        "which whole scenes are drawn again, since frames of one scene are not independent. Where "
        "zero lies inside, it is a tie. A video that is fast takes each eighth frame of the slow "
        "one, so it moves eight times as fast and is cut after three frames.",
        *section(
            "Moving digits, a small network trained on such frames", results["digits"]["rows"]
        ),
        *section(
            "Photos of CIFAR-10 that a camera pans over, the shipped network",
            results["photos"]["rows"],
        ),
        "## The exported file",
        f"Of {found['frames']:,} frames of the second kind, slow, {found['same']:,} have the same "
        "label and the same cost on the device as computed from the network's logits, and are "
        "reused or not alike, with the policy that comes with the network and "
        f"tau = {found['tau']}. "
        f"That spends {found['macs_of_alone']:.3f} of the MACs of `classify` on each frame, and "
        f"takes {found['time_of_alone']:.3f} of its time.",
    )


if __name__ == "__main__":
    _rows.run("streams", __doc__, measure, page, **SETTINGS)
