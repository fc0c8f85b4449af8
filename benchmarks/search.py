"""What a search finds: networks and trainings, against a preset; thresholds, by two ways.

    make bench-search            (or: python -m benchmarks.search --table)

The search itself is killed once on purpose and goes on. All that is done is kept: trials in
runs/search, the networks trained again in results/search/.
"""

import argparse
import base64
import dataclasses
import functools
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import keras_tuner
import matplotlib
import numpy as np

import keras_adaptive as ka
from benchmarks import common
from benchmarks.training import difference
from keras_adaptive.confidence import CONFIDENCES
from keras_adaptive.files import write_whole
from keras_adaptive.plotting import pareto_front as draw

matplotlib.use("Agg")

PRESET = "cifar_budgeted_5"
BUDGET = 20e6  # MACs a sample, about a third of the preset's
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
THRESHOLD_TRIALS, THRESHOLD_SEEDS, SHARES = 40, (0, 1), (0.3, 0.6)

RUNS = common.ROOT.parent / "runs" / "search"
ROWS = common.RESULTS / "search"
PICTURE = "search_front.png"


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
    """Runs, or goes on with, the search in this process."""
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
        "default preset": ({"preset": PRESET}, {}),
        "best of the search": ({n: values[n] for n in values if kinds[n] == "builder"}, knobs),
    }


def file_of(rows, name, seed):
    return rows / f"{name.replace(',', '').replace(' ', '_')}_{seed}.json"


def train_again(name, seed, runs, data, rows):
    """Trains one network and keeps how it does on the test split."""
    build, knobs = networks(runs)[name]
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = ka.build_msdnet(**build)
    given = tuner(runs).hypermodel.training(knobs, model.exits)
    ka.training.fit(model, data, epochs=AGAIN["epochs"], seed=seed, verbose=2, **given)
    costs = model.exit_costs()
    arrays = {}
    for split in ("calibrate", "test"):
        x, y = data.arrays(split)
        arrays[split] = np.stack(model.predict(x, batch_size=256, verbose=0)), y
    policy = ka.calibrate(*arrays["calibrate"], costs, budget=BUDGET, method="geometric")
    logits, labels = arrays["test"]
    report = ka.evaluate(policy, logits, labels, costs)
    answers = np.take_along_axis(logits.argmax(-1), policy.decide(logits)[None], axis=0)[0]
    right = np.stack([answers == labels, logits[-1].argmax(-1) == labels])
    row = {
        "name": name,
        "seed": seed,
        "accuracy": right.mean(axis=1).tolist(),  # within the budget; of the whole network
        "mean_cost": report.mean_cost,
        "costs": costs.tolist(),
        "parameters": model.count_params(),
        "right": base64.b64encode(np.packbits(right, axis=1)).decode(),
        "images": len(labels),
    }
    write_whole(file_of(rows, name, seed), json.dumps(row, indent=1) + "\n")


# ---- thresholds by KerasTuner and by calibrate


def thresholds(rows):
    """Compares the ways to choose thresholds on the logits of the benchmarks' network."""
    model, data = common.cifar_net(), common.cifar()
    costs = model.exit_costs()
    (fit, fit_labels), (test, test_labels) = (
        (np.stack(model.predict(x, batch_size=256, verbose=0)), y)
        for x, y in (data.arrays("calibrate"), data.arrays("test"))
    )
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
        more = {"temperatures": True, "confidences": tuple(CONFIDENCES)}
        for way, how in (("thresholds", {}), ("thresholds, temperatures, confidence", more)):
            for seed in THRESHOLD_SEEDS:
                start = time.time()
                with tempfile.TemporaryDirectory() as folder:
                    searched = ka.tuning.ThresholdTuner(
                        *(fit, fit_labels, costs),
                        budget=budget,
                        max_trials=THRESHOLD_TRIALS,
                        seed=seed,
                        directory=folder,
                        **how,
                    )
                    searched.search(verbose=0)
                    policy = searched.best_policy()
                add(f"KerasTuner: {way}", policy, time.time() - start)
    write_whole(rows / "thresholds.json", json.dumps(found, indent=1) + "\n")


def threshold_lines(found):
    """Returns the table, the mean of the seeds a line."""
    lines = []
    for share in SHARES:
        for way in dict.fromkeys(row["way"] for row in found):
            own = [row for row in found if (row["share"], row["way"]) == (share, way)]
            mean = {key: np.mean([row[key] for row in own]) for key in own[0] if key != "way"}
            cells = [f"{100 * mean[key]:.2f}" for key in ("calibrate", "cost", "test", "test_cost")]
            lines.append([f"{share:.0%}", way, *cells, f"{mean['seconds']:.1f}"])
    heads = ["budget", "way", "accuracy", "cost (%)", "test accuracy", "test cost (%)", "seconds"]
    return common.table(heads, lines)


# ---- results


def write(runs, rows):
    killed = json.loads((runs / "killed.json").read_text())
    now = trials(runs)
    for name, score in killed["done"].items():
        assert now[name]["score"] == score, f"trial {name} has changed"
    found = tuner(runs)
    points = ka.tuning.trial_points(found)
    front = ka.tuning.pareto_front(points)
    draw(points, front).figure.savefig(common.RESULTS / PICTURE, dpi=120)
    own = [json.loads(path.read_text()) for path in sorted(rows.glob("*_[0-9].json"))]
    by_name = {name: [r for r in own if r["name"] == name] for name in networks(runs)}
    plain = by_name["default preset"]
    again, gains = [], {}
    for name, group in by_name.items():
        mean = 100 * np.mean([r["accuracy"] for r in group], axis=0)
        spread = 100 * np.ptp([r["accuracy"] for r in group], axis=0) / 2
        again.append(
            [name]
            + [f"{m:.2f} ± {s:.2f}" for m, s in zip(mean, spread, strict=True)]
            + [f"{np.mean([r['mean_cost'] for r in group]) / 1e6:.1f}"]
            + [f"{group[0]['costs'][0] / 1e6:.1f}", f"{group[0]['costs'][-1] / 1e6:.1f}"]
            + [f"{group[0]['parameters'] / 1e6:.2f}"]
        )
        if group is not plain:
            gain, error = difference(group, plain)
            gains[name] = {"gain": gain.tolist(), "error": error.tolist()}
    table = []
    for name, trial in now.items():
        when = "before" if name in killed["done"] else "after"
        when = "cut off, begun again" if name in killed["cut"] else when
        values = trial["hyperparameters"]["values"]
        knobs = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in values.values()]
        metrics = trial["metrics"]["metrics"]
        cost = metrics["cost_100"]["observations"][0]["value"][0]
        table.append([name, when, f"{100 * trial['score']:.1f}", f"{cost / 1e6:.1f}", *knobs])
    compared = json.loads((rows / "thresholds.json").read_text())
    names = list(next(iter(now.values()))["hyperparameters"]["values"])
    text = [
        "# Searches with KerasTuner",
        "",
        "## Networks",
        "",
        f"{TRIALS} trials of `BayesianOptimization` over `build_msdnet` on CIFAR-10 (JPEG), each "
        f"{TRIAL['epochs']} epochs of the same {TRIAL['train']:,} images; score: accuracy in per "
        f"cent at a mean cost of at most {BUDGET / 1e6:g} million MACs, thresholds and score from "
        f"different halves of the calibrate split. After {len(killed['done'])} trials the process "
        f"was killed (at {killed['at']}) in the middle of trial {', '.join(killed['cut'])}; the "
        "same program, started again, went on. The scores of the trials before are unchanged.",
        "",
        *common.table(["trial", "kill", "score", "whole MMACs", *names], table),
        "",
        f"![what was tried]({PICTURE})",
        "",
        "Every trial with a quarter, a half, three quarters and all of its own cost; the front is "
        f"that of trials {', '.join(sorted({str(int(p.trial)) for p in front}, key=int))}.",
        "",
        f"## Trained alike: {AGAIN['train']:,} images, {AGAIN['epochs']} epochs",
        "",
        f"Test accuracy in per cent, mean of {len(SEEDS)} seeds ± half their range: within the "
        "budget, thresholds from the calibrate split; and of the whole network. Costs in million "
        "MACs: mean cost paid, first exit, last exit.",
        "",
        *common.table(
            [
                *("network", "within the budget", "whole network", "paid", "first", "last"),
                "million parameters",
            ],
            again,
        ),
        "",
        *(
            f"{name}: {value['gain'][0]:+.2f} ± {value['error'][0]:.2f} points within the budget "
            f"and {value['gain'][1]:+.2f} ± {value['error'][1]:.2f} as a whole against the default "
            "preset (± standard error of paired images or of seeds, whichever is larger)."
            for name, value in gains.items()
        ),
        "",
        "## Thresholds",
        "",
        "On the logits of `cifar10_budgeted_5`: thresholds chosen on the calibrate split for a "
        f"budget, as a share of the whole network's cost. `ThresholdTuner` with {THRESHOLD_TRIALS} "
        f"trials of Bayesian optimisation, means of {len(THRESHOLD_SEEDS)} seeds.",
        "",
        *threshold_lines(compared),
    ]
    kept = [{k: v for k, v in row.items() if k != "right"} for row in own]
    facts = {"killed": killed, "trials": [dict(t) for t in now.values()], "again": kept}
    facts |= {"gains": gains, "thresholds": compared, "budget": BUDGET}
    facts |= {"front": [point._asdict() for point in front]}
    common.write("search", facts, text, "make bench-search")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="only write the table")
    parser.add_argument("--trials", action="store_true", help="only run the trials")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where the trials are kept")
    parser.add_argument("--images", type=int, help="train on few, to try the program")
    given = parser.parse_args()
    if given.trials:
        run_trials(given.runs, given.images)
        return
    ROWS.mkdir(parents=True, exist_ok=True)
    if not given.table:
        search(given.runs, given.images)
        data = part(common.cifar(), given.images or AGAIN["train"])
        for seed in SEEDS:
            for name in networks(given.runs):
                if not file_of(ROWS, name, seed).exists():
                    train_again(name, seed, given.runs, data, ROWS)
        if not (ROWS / "thresholds.json").exists():
            thresholds(ROWS)
    write(given.runs, ROWS)


if __name__ == "__main__":
    main()
