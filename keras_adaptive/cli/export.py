"""`export`: writes the .tflite file and compares it with Keras on the test images."""

import numpy as np

from anytime_tflite import AnytimeModel
from keras_adaptive import report as reports
from keras_adaptive.cli import folder as runs
from keras_adaptive.export.tflite import export_tflite
from keras_adaptive.inference.predictor import AdaptivePredictor

NEAR = 1e-4  # log-odds: nearer to a threshold, rounding may move an image to another exit


def export(options):
    with runs.opened(options.run) as run:
        report, model, splits = run.open()
        policy = run.policy(model=model)
        with run.change() as new:
            new.follow(report, policy)
            _export(options, new, report, model, splits, policy)
            new.write_report(report, options.command)
    file, device = options.run / "model.tflite", report["device"]
    same = device["images"] - device["different_label"]
    print(
        f"{file}: {device['bytes']:,} bytes, with the answers of Keras on {same:,} of "
        f"{device['images']:,} test images"
    )


def _export(options, new, report, model, splits, policy):
    """Writes the file, runs it on the test images, and keeps in the report what comes out."""
    file = new.path("model.tflite")
    runs.say(f"export: converting {model.num_exits} stages and comparing them with Keras")
    in_file = export_tflite(
        model,
        file,
        policy,
        quantize=options.quantize,
        calibration_data=splits.arrays("calibrate") if options.quantize else None,
        single_call=options.single_call,
        runtime=options.runtime,
        class_names=splits.class_names,
        preprocessing={"mean": splits.mean, "std": splits.std},
        pixels=splits.pixels,
    )
    device = AnytimeModel(file, num_threads=options.threads)
    images, labels = splits.arrays("test")
    runs.say(f"run: {len(images):,} images, with Keras and then with the exported file")
    host = AdaptivePredictor(model, policy, engine="keras").predict(images)
    answers = [device.classify(image) for image in runs.progress(images, "device")]
    exits = np.array([answer.exit for answer in answers])
    different = np.flatnonzero(exits != host.exits)
    measured = report.pop("measurements", [])
    same = [one for one in measured if one["sha256"] == device.info["sha256"]]
    if same:
        report["measurements"] = same
    elif measured:
        runs.say("what was measured on devices was another file: left out of the report")
    report["device"] = {
        "file": file.name,
        "bytes": file.stat().st_size,
        "quantize": options.quantize,
        "threads": options.threads,
        "images": len(images),
        "accuracy": float(np.mean([answer.label for answer in answers] == labels)),
        "same_exit": len(images) - len(different),
        "different_exit": len(different),
        "different_label": int(np.sum([answer.label for answer in answers] != host.labels)),
    }
    if options.quantize is None:
        report["device"].update(_near(model, policy, images[different]))
    elif hasattr(in_file, "thresholds"):  # chosen again for what the file computes
        report["device"]["thresholds"] = reports.thresholds(in_file, model.num_exits)
    runs.say("run: the same images under three deadlines")
    times = np.array([[a.elapsed_ms for a in device.stream(image)] for image in images[:100]])
    report["device"]["deadlines"] = _deadlines(device, images, labels, np.median(times, axis=0))
    runs.draw(
        new,
        report,
        "latency",
        "latency of each stage of the exported file",
        lambda plotting: plotting.latency(times),
    )


def _near(model, policy, images):
    """Returns how many of these images lie near a threshold."""
    if not len(images) or policy.log_odds is None:
        return {"near_threshold": 0, "tolerance": NEAR}
    logits, _ = model.predict_with_costs(images, batch_size=500, verbose=0)
    near = [
        np.abs(policy.compared(k, logits[k]) - odds) <= NEAR
        for k, odds in enumerate(policy.log_odds[:-1])
    ]
    return {"near_threshold": int(np.any(near, axis=0).sum()), "tolerance": NEAR}


def _deadlines(device, images, labels, medians):
    """Measures accuracy and latency under three deadlines."""
    first, last = medians[[0, -1]]
    rows = []
    for number, deadline in enumerate(sorted((1.5 * first, (first + last) / 2, 2 * last))):
        watched = runs.progress(images, f"deadline {number + 1} of 3")
        answers = [device.classify(image, deadline_ms=deadline) for image in watched]
        elapsed = [a.elapsed_ms for a in answers]
        rows.append(
            {
                "deadline_ms": float(deadline),
                "accuracy": float(np.mean([a.label for a in answers] == labels)),
                "median_ms": float(np.median(elapsed)),
                "p99_ms": float(np.quantile(elapsed, 0.99)),
                "mean_exit": float(np.mean([a.exit for a in answers])),
                "stopped_by_deadline": float(
                    np.mean([a.stopped_by == "deadline" for a in answers])
                ),
            }
        )
    return rows
