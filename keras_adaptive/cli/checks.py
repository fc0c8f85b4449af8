"""What can be known before Keras is imported: folders, names, what a budget can be."""

import difflib
from pathlib import Path

from keras_adaptive.cli import folder as runs

# as in training.RECIPES and cli.train, whose imports take seconds; tests compare them
RECIPES = {
    None: {"epochs": 30, "batch_size": 64, "learning_rate": 0.1, "schedule": "cosine"},
    "cifar": {"epochs": 300, "batch_size": 64, "learning_rate": 0.1, "schedule": "steps"},
    "imagenet": {"epochs": 90, "batch_size": 256, "learning_rate": 0.1, "schedule": "steps"},
    "one_cycle": {"epochs": 30, "batch_size": 64, "learning_rate": 0.1, "schedule": "one_cycle"},
}
PHASES = {"joint": 1}  # others have two
ROUNDING = 1e-9  # relative, as in calibration


def settings(options):
    """Returns what makes two trainings the same, by value."""
    recipe = RECIPES[options.recipe]
    given = {name: getattr(options, name) for name in recipe}
    return {
        "data": _place(options.data),
        "data_dir": None if options.data_dir is None else _place(options.data_dir),
        "image_size": None if options.image_size is None else list(options.image_size),
        "train_limit": options.train_limit,
        "preset": options.preset,
        "regime": options.regime,
        "recipe": options.recipe,
        **{name: recipe[name] if given[name] is None else given[name] for name in recipe},
        "seed": options.seed,
    }


def _place(data):
    """Returns a path as it is from every folder, and a name as it is."""
    return str(Path(data).resolve()) if Path(data).exists() and data != "digits" else str(data)


# ---- one function per command that can be checked, called before its module is imported; it
# returns "done" where nothing is left to do


def train(options):
    wanted = settings(options)
    least = PHASES.get(options.regime, 2)
    if wanted["epochs"] < least:
        raise ValueError(
            f"`--epochs` must be at least {least}, one for each phase of --regime "
            f"{options.regime}. Received: --epochs {wanted['epochs']}"
        )
    _check_data(options)
    runs.check_room(options.out, runs.ROOM)
    with runs.training(options.out, wanted, options.overwrite) as found:
        if found.finished:
            found.say_finished()
            return "done"
    return None


def demo(options):
    train(options)  # what follows a finished training is done again


def calibrate(options):
    with runs.opened(options.run) as run:
        run.check_mine("policy.json")
        check_budgets(options, costs_of(run.report()))
        check_run(run)


def evaluate(options):
    with runs.opened(options.run) as run:
        costs = costs_of(run.report())
        if has_target(options) or not (run.folder / "policy.json").exists():
            run.check_mine("policy.json")
            check_budgets(options, costs)
        else:
            run.policy(len(costs) or None)
        run.history()
        check_run(run)


def export(options):
    with runs.opened(options.run) as run:
        run.policy(len(costs_of(run.report())) or None)
        run.check_mine("model.tflite")
        check_run(run)


def has_target(options):
    names = ("budget", "budget_share", "accuracy", "risk", "worst_case", "worst_case_share")
    return any(getattr(options, name) is not None for name in names)


def check_run(run):
    """Checks that the network is there, that its data may be, and that the disk has room."""
    path = run.folder / "model.keras"
    if not path.is_file():
        raise ValueError(
            "The folder must hold a run: model.keras and report.json, written by `train`. "
            f"Received: {run.folder}, without model.keras"
        )
    runs.check_room(run.folder, runs.ROOM + 3 * path.stat().st_size)


def costs_of(report):
    """Returns the costs of the exits as far as a report knows them: a list, or an empty one."""
    return report["run"].get("costs") or [row["macs"] for row in report.get("exits", ())]


def check_budgets(options, costs):
    """Checks that budget and worst case can be kept.

    Args:
        options: Parsed options of `calibrate` or `evaluate`.
        costs: Sequence of the exits' costs, empty if not known.

    Raises:
        ValueError: If one is less than the first exit's cost; the message says what that is.
    """
    if not len(costs):
        return
    first, full = float(costs[0]), float(costs[-1])
    for name in ("budget", "worst_case"):
        flag = f"--{name.replace('_', '-')}"
        macs, share = getattr(options, name), getattr(options, f"{name}_share")
        if macs is not None and macs < first * (1 - ROUNDING):
            raise ValueError(
                f"`{flag}` must be at least {first:,.0f}, the MACs of the first exit (of "
                f"{full:,.0f} in full). Received: {flag} {macs:.10g}"
            )
        if share is not None and share * full < first * (1 - ROUNDING):
            least = -(-first / full * 1e4 // 1) / 1e4
            raise ValueError(
                f"`{flag}-share` must be at least {least:.4g}, the first exit's share of the "
                f"full cost ({first:,.0f} of {full:,.0f} MACs). Received: {flag}-share {share:g}"
            )


def _check_data(options):
    """Checks that a path exists, and that a name is one of a data set."""
    if options.data_dir is not None:
        if not options.data_dir.exists():
            raise ValueError(
                "`data_dir` must exist: there is no such folder or file. "
                f"Received: data_dir={options.data_dir}"
            )
        return
    name = options.data
    if name == "digits" or Path(name).exists():
        return
    if name.startswith(("/", ".", "~")) or ".tar" in name:
        raise ValueError(
            f"`--data` must exist: there is no such folder or file. Received: --data {name}"
        )
    import logging

    from keras_adaptive._checks import needs_extra

    logging.getLogger("absl").setLevel(logging.ERROR)
    with needs_extra("data"):
        import tensorflow_datasets as tfds
    known = tfds.list_builders(with_community_datasets=False)
    base = name.partition("/")[0].partition(":")[0]
    if base not in (*known, "downsampled_imagenet"):
        near = difflib.get_close_matches(base, ["digits", *known], 3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(
            "`--data` must be digits, the name of a data set of tensorflow_datasets, or a folder "
            f"or tar file of images. Received: --data {name}.{hint}"
        )
