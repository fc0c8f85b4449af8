"""The folder of a run: reading and writing its files."""

import json
import shutil
import sys

RESULTS = ("policy", "exits", "result", "budgets", "device", "pictures")  # keys of report.json
STALE = ("policy.json", "model.tflite", "card.md", "report.html")


def load_data(source):
    """Returns the `data.Splits` that the options of `train` describe."""
    from keras_adaptive import data

    how = {key: source[key] for key in ("data_dir", "cache_dir", "train_limit")}
    size = source.get("image_size")
    return data.load(source["data"], **how, image_size=tuple(size) if size else None)


def open_run(folder):
    """Returns the report, the model and the data of a run."""
    import keras

    from keras_adaptive.training.adaptive_model import AdaptiveModel

    report = read_report(folder)
    if not (folder / "model.keras").exists():
        raise ValueError(
            "The folder must hold a run: model.keras and report.json, written by `train`. "
            f"Received: {folder}"
        )
    model = keras.models.load_model(folder / "model.keras", compile=False)
    assert isinstance(model, AdaptiveModel)
    return report, model, load_data(report["run"]["source"])


def read_report(folder):
    if not (folder / "report.json").exists():
        raise ValueError(
            "The folder must hold a run: model.keras and report.json, written by `train`. "
            f"Received: {folder}"
        )
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def open_policy(folder):
    """Returns the policy of a run."""
    from keras_adaptive.policy.exit_policy import ExitPolicy

    if not (folder / "policy.json").exists():
        raise ValueError(
            f"The folder must hold policy.json: run `calibrate {folder}` or `evaluate {folder}` "
            f"first. Received: {folder}"
        )
    return ExitPolicy.load(folder / "policy.json")


def write_report(folder, report, command=None):
    """Writes the report, with facts about this machine and the command that was run."""
    from keras_adaptive import report as reports

    report["machine"] = reports.machine()
    if command and command not in report["commands"]:
        report["commands"].append(command)
    reports.write(folder, report)


def forget(folder, report):
    """Removes results that were made with an earlier network or other thresholds."""
    for part in RESULTS:
        report.pop(part, None)
    for name in STALE:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "pictures", ignore_errors=True)


def draw(folder, report, name, title, picture):
    """Draws a picture of the report, or leaves it out where matplotlib is missing.

    Args:
        folder: Folder of the run.
        report: Dictionary, to which the picture is added.
        name: String, the name of the file.
        title: String.
        picture: Function that takes `keras_adaptive.plotting` and returns axes.
    """
    try:
        import matplotlib
    except ImportError:
        if "pictures" not in report:
            print("no pictures: they need matplotlib, pip install 'keras_adaptive[plot]'")
            report["pictures"] = {}
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    from keras_adaptive import plotting

    figure = np.ravel(picture(plotting))[0].figure
    (folder / "pictures").mkdir(exist_ok=True)
    figure.savefig(folder / "pictures" / f"{name}.png", dpi=120, bbox_inches="tight")
    plt.close(figure)
    report.setdefault("pictures", {})[name] = {"title": title, "file": f"pictures/{name}.png"}


def say(text):
    """Prints what is done next, at once even where the output is a file."""
    print(text, flush=True)


def on_terminal():
    return sys.stderr.isatty()


def progress(items, name):
    """Returns the items, with a progress bar on a terminal."""
    from tqdm import tqdm

    return tqdm(items, desc=name, disable=not on_terminal())
