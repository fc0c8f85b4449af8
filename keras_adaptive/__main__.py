"""The command line: from images to an anytime answer on the device."""

import argparse
import json
import shlex
import sys
from pathlib import Path

EPILOG = """\
examples:
  python -m keras_adaptive demo
  python -m keras_adaptive train --data cifar10 --data-dir cifar10.tar --preset \\
      cifar_budgeted_5 --epochs 10 --out run
  python -m keras_adaptive evaluate run --budget 0.5
  python -m keras_adaptive export run
  python -m keras_adaptive run run/model.tflite picture.png --deadline-ms 5
"""
DIGITS_NETWORK = {"blocks": 4, "channels": 2, "growth_rate": 4, "head_channels": 3}
METHODS = ("optimal", "geometric", "percentile")


def main(arguments=None):
    parser = _parser()
    options = parser.parse_args(arguments)
    options.command = shlex.join(
        ["python", "-m", "keras_adaptive", *(sys.argv[1:] if arguments is None else arguments)]
    )
    try:
        options.function(options)
    except (ValueError, ImportError, RuntimeError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m keras_adaptive",
        description="Networks that spend only as much computation as each input needs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="demo|train|evaluate|export|run")

    def command(name, function, help):
        sub = commands.add_parser(
            name,
            help=help,
            description=help,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        sub.set_defaults(function=function)
        return sub

    demo = command("demo", _demo, "train, evaluate, export and run on the device, in one go")
    train = command("train", _train, "fit an MSDNet and keep it in a folder")
    evaluate = command("evaluate", _evaluate, "choose thresholds for a budget and report")
    export = command("export", _export, "write model.tflite and check it on the test images")
    run = command("run", _run, "classify pictures with an exported file, as a device does")

    for sub, out in ((demo, "demo_run"), (train, "run")):
        sub.add_argument("--out", type=Path, default=Path(out), help="folder of the run")
        sub.add_argument(
            "--data", default="digits", help="digits, or a tensorflow_datasets name (cifar10)"
        )
        sub.add_argument(
            "--data-dir",
            type=Path,
            help="folder or tar file with train/<class>/* and test/<class>/*",
        )
        sub.add_argument("--cache-dir", type=Path, help="where prepared data is kept")
        sub.add_argument("--train-limit", type=int, help="use only so many training images")
        sub.add_argument("--preset", help="network, for example cifar_budgeted_5")
        sub.add_argument("--epochs", type=int, default=40)
        sub.add_argument("--batch-size", type=int, default=64)
        sub.add_argument("--learning-rate", type=float, default=0.1)
        sub.add_argument(
            "--schedule",
            choices=("cosine", "steps"),
            default="cosine",
            help="to zero along a cosine, or a tenth after 50 %% and again after 75 %%",
        )
        sub.add_argument("--seed", type=int, default=0)
    for sub in (evaluate, export):
        sub.add_argument("run", type=Path, help="folder of the run")
    for sub in (demo, evaluate):
        sub.add_argument(
            "--budget", type=float, default=0.5, help="as a share of the full network's cost"
        )
        sub.add_argument("--method", choices=METHODS, default="optimal", help="of calibration")
    for sub in (demo, export, run):
        sub.add_argument("--threads", type=int, default=1, help="of the device's interpreter")
    run.add_argument("file", type=Path, help="a .tflite file written by export")
    run.add_argument("pictures", type=Path, nargs="+", help="image files")
    run.add_argument("--deadline-ms", type=float, help="answer within so many milliseconds")
    return parser


# ---- commands


def _demo(options):
    _train(options)
    options.run = options.out
    _evaluate(options)
    _export(options)
    report = json.loads((options.out / "report.json").read_text())
    print("\n" + (options.out / "report.md").read_text())
    print("files:")
    for path in sorted(options.out.iterdir()):
        if path.is_file():
            print(f"  {path}  ({path.stat().st_size:,} bytes)")
    row, full = report["budgets"][-2], report["budgets"][-1]
    print(
        f"\n{row['accuracy']:.1%} right at {row['share_of_full']:.0%} of the cost; "
        f"the full network: {full['accuracy']:.1%}."
    )


def _train(options):
    import keras

    from keras_adaptive.models import build_msdnet
    from keras_adaptive.training import Recipe

    splits = _load_data(vars(options))
    keras.utils.set_random_seed(options.seed)
    arguments = {"preset": options.preset} if options.preset else {}
    if not options.preset and max(splits.input_shape[:2]) < 16:
        arguments = DIGITS_NETWORK
    model = build_msdnet(splits.input_shape, len(splits.class_names), **arguments)
    steps = -(-splits.size("train") // options.batch_size) * options.epochs
    recipe = Recipe(learning_rate=options.learning_rate, schedule=options.schedule)
    model.compile(recipe.optimizer(steps))
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ("policy.json", "curve.png", "model.tflite"):  # of an earlier network
        (options.out / name).unlink(missing_ok=True)
    print(f"training {model.name}: {model.exits} exits, {model.count_params():,} parameters")
    history = options.out / "history.csv"
    backup = options.out / ".backup"
    model.fit(
        splits.batches("train", options.batch_size, training=True, seed=options.seed),
        validation_data=splits.batches("calibrate", 500),
        epochs=options.epochs,
        verbose="auto" if sys.stdout.isatty() else 2,
        shuffle=False,  # the data set shuffles itself
        callbacks=[
            keras.callbacks.BackupAndRestore(backup),
            keras.callbacks.CSVLogger(history, append=backup.exists()),
            keras.callbacks.TerminateOnNaN(),
        ],
    )
    model.save(options.out / "model.keras")
    _write_report(options.out, _describe(options, splits, model))


def _describe(options, splits, model):
    """Returns the report of a run as far as training goes."""
    return {
        "run": {
            "data": options.data + (" (local files)" if options.data_dir else ""),
            "model": options.preset or model.name,
            "splits": {name: splits.size(name) for name in ("train", "calibrate", "test")},
            "training": f"{options.epochs} epochs, batch {options.batch_size}, learning rate "
            f"{options.learning_rate:g} ({options.schedule}), seed {options.seed}",
            "source": {
                "data": options.data,
                "data_dir": str(options.data_dir) if options.data_dir else None,
                "cache_dir": str(options.cache_dir) if options.cache_dir else None,
                "train_limit": options.train_limit,
            },
        },
        "commands": [options.command],
    }


def _evaluate(options):
    from keras_adaptive import report as reports
    from keras_adaptive.calibration import calibrate
    from keras_adaptive.evaluation import accuracy_cost_curve

    if not 0 < options.budget <= 1:
        raise ValueError(
            "`--budget` must be a share of the full cost, above 0 and at most 1. "
            f"Received: --budget {options.budget}"
        )
    report, model, splits = _open(options.run)
    costs = model.exit_costs()
    logits, labels = {}, {}
    for split in ("calibrate", "test"):
        x, labels[split] = splits.arrays(split)
        logits[split], _ = model.predict_with_costs(x, batch_size=500, verbose=0)
    calibration = logits["calibrate"], labels["calibrate"]
    test = logits["test"], labels["test"]
    how = {"method": options.method}
    budget = reports.feasible_budget(options.budget, costs)
    policy = calibrate(*calibration, costs, budget=budget, **how)
    policy.save(options.run / "policy.json")
    (options.run / "model.tflite").unlink(missing_ok=True)  # it holds another policy
    report.pop("device", None)
    curve = accuracy_cost_curve(*calibration, costs, test=(*test, costs), **how)
    report.update(
        policy=f"{policy.details['method']}, budget {policy.details['budget']:,.0f} MACs",
        exits=reports.exit_table(policy, *test, costs),
        budgets=reports.budget_table(calibration, test, costs, **how),
        curve=_draw(curve, options.run / "curve.png"),
    )
    _write_report(options.run, report, options)


def _export(options):
    import numpy as np

    from anytime_tflite import AnytimeModel
    from keras_adaptive.export import export_tflite
    from keras_adaptive.inference import AdaptivePredictor
    from keras_adaptive.policy import ExitPolicy

    report, model, splits = _open(options.run)
    if not (options.run / "policy.json").exists():
        raise ValueError(
            f"The folder must hold policy.json: run `evaluate {options.run}` first. "
            f"Received: {options.run}"
        )
    policy = ExitPolicy.load(options.run / "policy.json")
    file = options.run / "model.tflite"
    preprocessing = {"mean": splits.mean, "std": splits.std}
    export_tflite(model, file, policy, class_names=splits.class_names, preprocessing=preprocessing)
    device = AnytimeModel(file, num_threads=options.threads)
    images, labels = splits.arrays("test")
    host = AdaptivePredictor(model, policy).predict(images)
    exits = np.array([device.classify(image).exit for image in _progress(images, "device")])
    logits, _ = model.predict_with_costs(images, batch_size=500, verbose=0)
    different = np.flatnonzero(exits != host.exits)
    distance = np.abs(policy.confidences(logits[:, different]) - policy.thresholds[:, None])
    tolerance = 1e-5
    report["device"] = {
        "file": file.name,
        "bytes": file.stat().st_size,
        "threads": options.threads,
        "images": len(images),
        "same_exit": int((exits == host.exits).sum()),
        "different_exit": len(different),
        "near_threshold": int((distance.min(axis=0) <= tolerance).sum()) if len(different) else 0,
        "tolerance": tolerance,
        "deadlines": _deadlines(device, images, labels),
    }
    _write_report(options.run, report, options)


def _run(options):
    import numpy as np

    from anytime_tflite import AnytimeModel

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


# ---- parts


def _load_data(source):
    from keras_adaptive import data

    return data.load(
        source["data"],
        data_dir=source["data_dir"],
        cache_dir=source["cache_dir"],
        train_limit=source["train_limit"],
    )


def _open(folder):
    """Returns the report, the model and the data of a run."""
    import keras

    import keras_adaptive  # registers its classes with Keras

    if not (folder / "report.json").exists() or not (folder / "model.keras").exists():
        raise ValueError(
            "The folder must hold a run: model.keras and report.json, written by `train`. "
            f"Received: {folder}"
        )
    report = json.loads((folder / "report.json").read_text())
    model = keras.models.load_model(folder / "model.keras")
    assert isinstance(model, keras_adaptive.AdaptiveModel)
    return report, model, _load_data(report["run"]["source"])


def _write_report(folder, report, options=None):
    from keras_adaptive import report as reports

    report["machine"] = reports.machine()
    if options and options.command not in report["commands"]:
        report["commands"].append(options.command)
    reports.write(folder, report)


def _draw(curve, path):
    """Draws the curve; without matplotlib, says so and goes on."""
    try:
        import matplotlib
    except ImportError:
        print("no curve.png: it needs matplotlib, pip install 'keras_adaptive[plot]'")
        return None
    matplotlib.use("Agg")
    from keras_adaptive import plotting

    plotting.accuracy_cost_curve(curve).figure.savefig(path, dpi=120)
    return path.name


def _deadlines(device, images, labels):
    """Classifies under three deadlines, between the first exit's time and the last's."""
    import numpy as np

    times = np.array([[a.elapsed_ms for a in device.stream(image)] for image in images[:100]])
    first, last = np.median(times, axis=0)[[0, -1]]
    rows = []
    for deadline in (1.5 * first, (first + last) / 2, 2 * last):
        answers = [device.classify(image, deadline_ms=deadline) for image in images]
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


def _picture(path, width, height, mode):
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("Reading pictures needs pillow: pip install pillow") from error
    try:
        return Image.open(path).convert(mode).resize((width, height))
    except OSError as error:
        raise ValueError(f"A picture must be an image file. Received: {path} ({error})") from error


def _progress(items, name):
    from tqdm import tqdm

    return tqdm(items, desc=name, disable=not sys.stderr.isatty())


if __name__ == "__main__":
    main()
