"""What a search finds: networks and trainings, against a preset; thresholds, by two ways.

    make bench-search            (or: python -m benchmarks.search --table)

The search itself is killed once on purpose and resumes. All that is done is kept: trials in
runs/search, the networks trained again in results/search/.
"""

import dataclasses
import functools
import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import keras_tuner
import matplotlib
import numpy as np

import keras_adaptive as ka
from benchmarks import _rows, common
from keras_adaptive._files import write_whole
from keras_adaptive.plotting import pareto_front as draw

matplotlib.use("Agg")

PRESET = "cifar_budgeted_5"
BUDGET = 20e6  # MACs per sample, about a third of the preset's
SPACE = {
    "blocks": (3, 5),
    "step": [1, 2],
    "channels": [8, 12, 16],
    "growth_rate": [4, 6, 8],
    "head_channels": [32, 64, 128],
    "learning_rate": (0.02, 0.3, "log"),
    "exit_power": (-0.5, 0.5),
    "distillation": [0.0, 0.2],
}
TRIALS, KILL_AFTER = 12, 6
TRIAL = {"train": 3_000, "epochs": 2}
AGAIN = {"train": 12_000, "epochs": 3}
SEEDS = (0, 1)
RECIPE = ka.training.Recipe(learning_rate=0.1, schedule="one_cycle")
SHARES = (0.3, 0.6)

RUNS = common.RUNS / "search"
PICTURE = "search_front.png"
PLAIN, BEST = "default preset", "best of the search"


# ---- the search


def part(data, count):
    """Returns the splits with so many training images."""
    return dataclasses.replace(data, train=data.train.take(count))


def tuner(runs):
    hypermodel = ka.tuning.AdaptiveHyperModel(
        functools.partial(ka.build_msdnet, (32, 32, 3), 10),
        SPACE,
        budget=BUDGET,
        recipe=RECIPE,
    )
    return keras_tuner.BayesianOptimization(
        hypermodel,
        hypermodel.objective,
        max_trials=TRIALS,
        num_initial_points=6,
        seed=0,
        directory=runs,
        project_name="trials",
    )


def run_trials(runs, images):
    """Runs or resumes the search in this process."""
    data = part(common.cifar(), min(images or TRIAL["train"], TRIAL["train"]))
    found = tuner(runs)
    found.search(data, epochs=TRIAL["epochs"], seed=0, verbose=0)


def trials(runs):
    """Returns the trials on disk: name to content."""
    files = (runs / "trials").glob("trial_*/trial.json")
    found = [json.loads(file.read_text()) for file in files]
    return {trial["trial_id"]: trial for trial in sorted(found, key=lambda t: t["trial_id"])}


def completed(runs):
    return {n: t["score"] for n, t in trials(runs).items() if t["status"] == "COMPLETED"}


def search(runs, images):
    """Runs the search in a process of its own, which is killed once, and again to its end."""
    program = [sys.executable, "-m", "benchmarks.search", "--trials"]
    program += ["--runs", str(runs)] + (["--images", str(images)] if images else [])
    runs.mkdir(parents=True, exist_ok=True)
    killed = runs / "killed.json"
    if not killed.exists():
        process = subprocess.Popen(program)
        while process.poll() is None:
            time.sleep(1)
            if len(completed(runs)) >= KILL_AFTER and len(trials(runs)) > len(completed(runs)):
                time.sleep(5)  # well inside the next one
                process.send_signal(signal.SIGKILL)
                process.wait()
                done = completed(runs)
                cut = [name for name in trials(runs) if name not in done]
                state = {"done": done, "cut": cut, "at": time.strftime("%H:%M:%S")}
                write_whole(killed, json.dumps(state) + "\n")
        if not killed.exists():
            raise RuntimeError(f"The search ended by itself: {process.returncode}")
    if len(completed(runs)) < TRIALS:
        subprocess.run(program, check=True)


# ---- the best and the preset, trained alike


def networks(runs):
    """Returns what is trained again: name to arguments of the builder and of `fit`."""
    hypermodel = tuner(runs).hypermodel
    (best,) = tuner(runs).oracle.get_best_trials(1)
    kinds = hypermodel.kinds
    values = best.hyperparameters.values
    knobs = {n: v for n, v in values.items() if kinds[n] == "training"}
    return {
        PLAIN: ({"preset": PRESET}, {}),
        BEST: ({n: values[n] for n in values if kinds[n] == "builder"}, knobs),
    }


def train_again(name, seed, runs, data):
    """Trains one network and returns how it does on the test split."""
    build, knobs = networks(runs)[name]
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = ka.build_msdnet(**build)
    given = tuner(runs).hypermodel.training(knobs, model.exits)
    ka.training.fit(model, data, epochs=AGAIN["epochs"], seed=seed, verbose=2, **given)
    costs = model.exit_costs()
    arrays = common.answers(model, data)
    policy = ka.calibrate(*arrays["calibrate"], costs, budget=BUDGET, method="geometric")
    logits, labels = arrays["test"]
    report = ka.evaluate(policy, logits, labels, costs)
    answers = np.take_along_axis(logits.argmax(-1), policy.decide(logits)[None], axis=0)[0]
    return {
        "name": name,
        "seed": seed,
        "mean_cost": report.mean_cost,
        "costs": costs.tolist(),
        "parameters": model.count_params(),
        # within the budget; of the whole network
        **_rows.outcome(np.stack([answers == labels, logits[-1].argmax(-1) == labels])),
    }


# ---- thresholds by both methods of calibrate


def thresholds():
    """Compares the ways to choose thresholds on the logits of the benchmarks' network."""
    model = common.cifar_net()
    costs = model.exit_costs()
    (fit, fit_labels), (test, test_labels) = common.answers(model, common.cifar()).values()
    found = []
    for share in SHARES:
        budget = share * float(costs[-1])

        def add(way, policy, seconds, share=share):
            own = ka.evaluate(policy, fit, fit_labels, costs)
            new = ka.evaluate(policy, test, test_labels, costs)
            row = {"share": share, "way": way, "seconds": seconds}
            row |= {"calibrate": own.accuracy, "test": new.accuracy}
            row |= {"cost": own.mean_cost / float(costs[-1])}
            row |= {"test_cost": new.mean_cost / float(costs[-1])}
            found.append(row)
            print(row, flush=True)

        for method in ("optimal", "geometric"):
            start = time.time()
            policy = ka.calibrate(fit, fit_labels, costs, budget=budget, method=method)
            add(f"calibrate, {method}", policy, time.time() - start)
    return found


def threshold_lines(found):
    """Returns the table."""
    lines = []
    for share in SHARES:
        for way in dict.fromkeys(row["way"] for row in found):
            own = [row for row in found if (row["share"], row["way"]) == (share, way)]
            mean = {key: np.mean([row[key] for row in own]) for key in own[0] if key != "way"}
            cells = [f"{100 * mean[key]:.2f}" for key in ("calibrate", "cost", "test", "test_cost")]
            lines.append([f"{share:.0%}", way, *cells, f"{mean['seconds']:.1f}"])
    heads = ["budget", "way", "accuracy", "cost (%)", "test accuracy", "test cost (%)", "seconds"]
    return _rows.table(heads, lines)


# ---- results


def gathered(runs, kept):
    """Draws what was tried; returns what the page needs, and the rows of what was trained again."""
    killed = json.loads((runs / "killed.json").read_text())
    now = trials(runs)
    for name, score in killed["done"].items():
        assert now[name]["score"] == score, f"trial {name} has changed"
    points = ka.tuning.trial_points(tuner(runs))
    front = ka.tuning.pareto_front(points)
    draw(points, front).figure.savefig(kept.folder.parent / PICTURE, dpi=120)
    own = [row for row in kept.all().values() if "name" in row]
    plain, gains = [row for row in own if row["name"] == PLAIN], {}
    for name in networks(runs):
        if name != PLAIN:
            gain, error = _rows.difference([row for row in own if row["name"] == name], plain)
            gains[name] = {"gain": gain.tolist(), "error": error.tolist()}
    return {
        "killed": killed,
        "trials": list(now.values()),
        "again": [_rows.values(row, "right") for row in own],
        "gains": gains,
        "thresholds": kept.measure("thresholds", thresholds)["rows"],
        "budget": BUDGET,
        "front": [point._asdict() for point in front],
    }, own


def tried(killed, trials):
    """Returns the table of the trials."""
    lines = []
    for trial in trials:
        name, values = trial["trial_id"], trial["hyperparameters"]["values"]
        when = "before" if name in killed["done"] else "after"
        when = "cut off, begun again" if name in killed["cut"] else when
        knobs = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in values.values()]
        cost = trial["metrics"]["metrics"]["cost_100"]["observations"][0]["value"][0]
        lines.append([name, when, f"{100 * trial['score']:.1f}", f"{cost / 1e6:.1f}", *knobs])
    return _rows.table(["trial", "kill", "score", "whole MMACs", *values], lines)


def trained_alike(rows):
    """Returns the table of the networks trained again."""
    lines = []
    for name in (PLAIN, BEST):
        group = [row for row in rows if row["name"] == name]
        accuracy = 100 * np.array([row["accuracy"] for row in group])
        lines.append(
            [name]
            + [f"{a.mean():.2f} ± {np.ptp(a) / 2:.2f}" for a in accuracy.T]
            + [f"{np.mean([row['mean_cost'] for row in group]) / 1e6:.1f}"]
            + [f"{group[0]['costs'][0] / 1e6:.1f}", f"{group[0]['costs'][-1] / 1e6:.1f}"]
            + [f"{group[0]['parameters'] / 1e6:.2f}"]
        )
    heads = ["network", "within the budget", "whole network", "paid", "first", "last"]
    return _rows.table([*heads, "million parameters"], lines)


def page(found):
    killed = found["killed"]
    front = sorted({str(int(point["trial"])) for point in found["front"]}, key=int)
    return _rows.page(
        "# Searches with KerasTuner",
        "## Networks",
        f"{TRIALS} trials of `BayesianOptimization` over `build_msdnet` on CIFAR-10 (JPEG), each "
        f"{TRIAL['epochs']} epochs of the same {TRIAL['train']:,} images; score: accuracy in per "
        f"cent at a mean cost of at most {BUDGET / 1e6:g} million MACs, thresholds and score from "
        f"different halves of the calibrate split. After {len(killed['done'])} trials the process "
        f"was killed (at {killed['at']}) in the middle of trial {', '.join(killed['cut'])}; the "
        "same program, started again, went on. The scores of the trials before are unchanged.",
        tried(killed, found["trials"]),
        f"![what was tried]({PICTURE})",
        "Every trial with a quarter, a half, three quarters and all of its own cost; the front is "
        f"that of trials {', '.join(front)}.",
        f"## Trained alike: {AGAIN['train']:,} images, {AGAIN['epochs']} epochs",
        f"Test accuracy in per cent, mean of {len(SEEDS)} seeds ± half their range: within the "
        "budget, thresholds from the calibrate split; and of the whole network. Costs in million "
        "MACs: mean cost paid, first exit, last exit.",
        trained_alike(found["again"]),
        [
            f"{name}: {value['gain'][0]:+.2f} ± {value['error'][0]:.2f} points within the budget "
            f"and {value['gain'][1]:+.2f} ± {value['error'][1]:.2f} as a whole against the default "
            "preset (± standard error of paired images or of seeds, whichever is larger)."
            for name, value in found["gains"].items()
        ],
        "## Thresholds",
        "On the logits of `cifar10_budgeted_5`: thresholds chosen on the calibrate split for a "
        "budget, as a share of the whole network's cost.",
        threshold_lines(found["thresholds"]),
    )


def main():
    parser = _rows.parser(__doc__)
    parser.add_argument("--trials", action="store_true", help="only run the trials")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where the trials are kept")
    parser.add_argument("--images", type=int, help="train on few, to try the program")
    given = parser.parse_args()
    if given.trials:
        run_trials(given.runs, given.images)
        return
    folder = common.TRIAL if given.images else common.RESULTS
    kept = _rows.Rows(folder / "search", budget=BUDGET, recipe=RECIPE, space=SPACE)
    if given.table:
        _rows.publish_again("search", page)
        return
    search(given.runs, given.images)
    how = {**AGAIN, "train": given.images or AGAIN["train"]}
    data = part(common.cifar(), how["train"])
    for seed, name in itertools.product(SEEDS, networks(given.runs)):
        kept.measure(f"{name} {seed}", train_again, name, seed, given.runs, data, **how)
    found, rows = gathered(given.runs, kept)
    _rows.publish("search", found, page(found), rows, folder)


if __name__ == "__main__":
    main()
