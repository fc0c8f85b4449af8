"""Searches with KerasTuner: what a trial builds, learns and keeps."""

import functools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import pytest
from eager import eagerly
from hypothesis import given
from hypothesis import strategies as st
from tuning_search import RECIPE, TRIALS, build, data, tuner

import keras_adaptive as ka
from keras_adaptive.tuning import AdaptiveHyperModel, Point, pareto_front, trial_points
from keras_adaptive.tuning.front import SHARES

ROOT = Path(__file__).parents[2]
KINDS = {
    "random": (keras_tuner.RandomSearch, {"max_trials": 2}),
    "bayesian": (keras_tuner.BayesianOptimization, {"max_trials": 3, "num_initial_points": 2}),
    "hyperband": (keras_tuner.Hyperband, {"max_epochs": 2, "factor": 2}),
}


@pytest.fixture(scope="module")
def arrays():
    """Logits, labels and costs of three exits that get better."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 600)
    logits = rng.normal(size=(3, 600, 10))
    logits[:, range(600), labels] += np.array([[1.0], [2.0], [3.0]])
    return logits, labels, np.array([1.0, 2.0, 4.0])


eagerly = pytest.fixture(autouse=True)(eagerly)


# ---- searches


@pytest.mark.parametrize(
    "kind", ["random", *(pytest.param(k, marks=pytest.mark.slow) for k in list(KINDS)[1:])]
)
def test_every_tuner_searches_and_keeps_the_metrics(kind, tmp_path):
    tuner_class, kwargs = KINDS[kind]
    found = tuner(tmp_path, tuner_class, **kwargs)
    found.search(data(32), data(60), epochs=2, verbose=0)
    trials = found.oracle.trials
    assert len(trials) >= 2
    assert all(trial.status == "COMPLETED" for trial in trials.values())
    assert all(trial.metrics.exists("parameters") for trial in trials.values())
    assert len(trial_points(found)) == len(SHARES) * len(trials)
    best = found.oracle.get_best_trials(1)[0]
    assert best.score == max(trial.score for trial in trials.values())
    (model,) = found.get_best_models(1)  # its weights were kept
    measured = found.hypermodel.measure(model, *data(60))
    assert measured["accuracy_at_budget"] == pytest.approx(best.score)
    assert model.exits == best.hyperparameters.values["exits"]
    again = tuner(tmp_path, tuner_class, **kwargs)  # from its folder
    assert trial_points(again) == trial_points(found)


def search_program(folder, *way, **variables):
    return subprocess.Popen(
        [sys.executable, Path(__file__).with_name("tuning_search.py"), str(folder), *way],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, **variables},
    )


def kept(folder):
    """Returns the trials on disk: name to content."""
    files = Path(folder).glob("search/trial_*/trial.json")
    trials = [json.loads(file.read_text()) for file in files]
    return {trial["trial_id"]: trial for trial in trials}


class Killed(BaseException):
    """Ends a search as the end of its process would: nobody catches it."""


def search(tuner, callbacks):
    tuner.search(data(), data(), epochs=2, callbacks=callbacks, verbose=0)


def learns_nothing(model, train, *, epochs, recipe, callbacks, verbose=0):
    """A trainer that only calls the callbacks of these tests."""
    for callback in callbacks:
        if type(callback).__module__ == __name__:
            callback.on_train_begin()
            callback.on_train_batch_end(3)
    return model


class Kill(keras.callbacks.Callback):
    """Ends the search in the middle of the second trial."""

    begun = 0

    def on_train_begin(self, logs=None):
        Kill.begun += 1

    def on_train_batch_end(self, batch, logs=None):
        if Kill.begun == 2 and batch == 3:
            raise Killed


@pytest.mark.parametrize(
    "process",
    [False, pytest.param(True, marks=pytest.mark.subprocess)],
)
@pytest.mark.slow
def test_a_search_that_was_killed_resumes(tmp_path, process):
    if process:
        program = search_program(tmp_path, "die")
        output, _ = program.communicate(timeout=300)
        assert program.returncode == 9, output
    else:
        Kill.begun = 0
        with pytest.raises(Killed):
            search(tuner(tmp_path, trainer=learns_nothing), [Kill()])
    before = kept(tmp_path)
    done = [name for name, trial in before.items() if trial["status"] == "COMPLETED"]
    assert len(done) == 1
    assert len(before) == 2
    resumed = tuner(tmp_path, **({} if process else {"trainer": learns_nothing}))
    ran = []

    class Count(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            ran.append(1)

        def __deepcopy__(self, memo):
            return self

    search(resumed, [Count()])
    after = kept(tmp_path)
    assert len(ran) == TRIALS - 1  # the one that was cut off, and those not begun
    assert after[done[0]] == before[done[0]]
    assert set(before) <= set(after)
    assert [trial["status"] for trial in after.values()] == ["COMPLETED"] * TRIALS
    for name in before:
        assert after[name]["hyperparameters"]["values"] == before[name]["hyperparameters"]["values"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of KerasTuner
@pytest.mark.slow
def test_another_search_is_refused_in_the_folder_of_an_earlier_one(tmp_path):
    first = tuner(tmp_path, trainer=learns_nothing, max_trials=1)
    search(first, [])
    manifest = tmp_path / "search" / "search.json"
    before = manifest.read_text()
    again = functools.partial(tuner, tmp_path, trainer=learns_nothing, max_trials=2)
    other = again()
    other.hypermodel.target = ("budget", 90.0)
    message = r"The tuner's folder must be new.*target\.1=90.0, not 100"
    with pytest.raises(ValueError, match=message):
        search(other, [])
    with pytest.raises(ValueError, match=r"train\.0\.digest="):
        again().search((data()[0] + 1, data()[1]), data(), epochs=2, verbose=0)
    assert manifest.read_text() == before
    manifest.write_text("{")
    with pytest.warns(UserWarning, match="must hold JSON"):
        search(again(), [])
    assert manifest.read_text() == before


@pytest.mark.slow
@pytest.mark.subprocess
def test_a_chief_and_two_workers_share_a_search(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    where = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": port}
    programs = [
        search_program(tmp_path, "meet", **where, KERASTUNER_TUNER_ID=name)
        for name in ("chief", "tuner0", "tuner1")
    ]
    try:
        outputs = [program.communicate(timeout=300)[0] for program in programs]
    finally:
        for program in programs:
            program.kill()
    assert [program.returncode for program in programs] == [0, 0, 0], outputs
    lines = [dict(x.split() for x in out.splitlines()[-2:]) for out in outputs[1:]]
    ran = [int(line["trials"]) for line in lines]
    assert min(ran) >= 1
    assert sum(ran) == TRIALS == len(kept(tmp_path))
    scores = {name: trial["score"] for name, trial in kept(tmp_path).items()}
    best = max(scores.values())  # more than one trial may have it
    assert tuner(tmp_path).oracle.get_best_trials(1)[0].score == best
    assert best in {scores[line["best"]] for line in lines}


# ---- what a trial does


class Record:
    """A trainer that keeps what it was given and trains nothing."""

    def __call__(self, model, train, *, epochs, recipe, cost_weight=0.0, first_share=0.5, **given):
        self.given = {"epochs": epochs, "recipe": recipe, "cost_weight": cost_weight, **given}
        self.given["first_share"] = first_share
        return model


def fitted(space, values, builder=build, initial_epoch=0, **kwargs):
    """Runs one trial with the values given; returns what the trainer was given."""
    record = Record()
    hypermodel = AdaptiveHyperModel(builder, space, budget=1e9, trainer=record, **kwargs)
    hp = keras_tuner.HyperParameters()
    hypermodel.build(hp)
    hp.values.update(values)
    model = hypermodel.build(hp)
    hypermodel.fit(hp, model, data(), data(20), epochs=3, initial_epoch=initial_epoch)
    return record.given


def test_hyperparameters_of_training_reach_the_trainer():
    space = {
        "learning_rate": (0.001, 0.1, "log"),
        "weight_decay": [0.0, 1e-4],
        "exit_power": (-1.0, 1.0),
        "distillation": (0.0, 0.5),
        "gate_weight": (1e-5, 1e-2, "log"),
        "cost_weight": (0.0, 2.0),
        "first_share": (0.2, 0.8),
    }
    values = {"learning_rate": 0.03, "weight_decay": 1e-4, "exit_power": 1.0}
    values |= {"distillation": 0.2, "gate_weight": 3e-4, "cost_weight": 1.5, "first_share": 0.3}
    found = fitted(space, values, recipe=RECIPE)
    assert found["recipe"].learning_rate == 0.03
    assert found["recipe"].weight_decay == 1e-4
    assert found["recipe"].batch_size == RECIPE.batch_size
    np.testing.assert_allclose(found["exit_weights"], [2 / 3, 4 / 3])
    assert found["distillation"].weight == 0.2
    assert found["gate_loss"].weight == 3e-4
    assert found["cost_weight"] == 1.5
    assert found["first_share"] == 0.3
    assert found["epochs"] == 3


def test_what_goes_on_trains_only_the_epochs_that_are_left():
    space = {"learning_rate": [0.1]}
    assert fitted(space, {"learning_rate": 0.1}, initial_epoch=2)["epochs"] == 1


def test_no_distillation_at_0():
    found = fitted({"distillation": [0.0, 0.5]}, {"distillation": 0.0})
    assert "distillation" not in found


@pytest.mark.slow
def test_hyperparameters_of_structure_reach_the_builder():
    build_msdnet = functools.partial(
        ka.build_msdnet, (8, 8, 1), 10, channels=4, growth_rate=2, blocks=2
    )
    space = {
        "growth_factors": [(1, 2), (1, 2, 4)],
        "blocks": (2, 3),
        "collaboration": [None, "dense"],
    }
    space["bottleneck_factors"] = lambda hp: (1, 2, 4)[: 2 + (hp.get("growth_factors")[-2] == "4")]
    hypermodel = AdaptiveHyperModel(build_msdnet, space, budget=1e6)
    hp = keras_tuner.HyperParameters()
    hypermodel.build(hp)
    hp.values.update(blocks=3, collaboration="'dense'", growth_factors="(1, 2, 4)")
    values = hypermodel.values(hp)
    assert values["growth_factors"] == (1, 2, 4)
    assert values["bottleneck_factors"] == (1, 2, 4)
    assert values["collaboration"] == "dense"
    assert hypermodel.build(hp).exits == 3


@pytest.mark.slow
def test_the_alpha_of_gates_is_searched(tmp_path):
    builder = functools.partial(ka.build_resnet, (8, 8, 1), 10, depth=8, width=0.25, gates="layer")
    space = {"gate_weight": (1e-4, 1.0, "log")}
    hypermodel = AdaptiveHyperModel(builder, space, accuracy=0.2, recipe=RECIPE)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 8, 8, 1)).astype("float32"), np.arange(32) % 10
    search = keras_tuner.RandomSearch(
        hypermodel, hypermodel.objective, max_trials=1, seed=0, directory=tmp_path
    )
    search.search((x, y), (x, y), epochs=3, regime="gated", verbose=0)
    (trial,) = search.oracle.trials.values()
    assert trial.status == "COMPLETED"
    assert 1e-4 <= trial.hyperparameters.values["gate_weight"] <= 1.0
    model = search.get_best_models(1)[0]
    _, costs = model.predict_with_costs(x, verbose=0)
    mean = trial.metrics.get_history("cost_100")[-1].mean()
    assert mean == pytest.approx(costs[-1].mean())  # what the gates let through, not the most


class Splits:
    """Gives train and calibrate; there is no test split to be seen."""

    def batches(self, split, *args, **kwargs):
        import tensorflow as tf

        assert split == "train"
        return tf.data.Dataset.from_tensor_slices(data()).batch(16)

    def arrays(self, split):
        assert split == "calibrate"
        return data(40)


def test_splits_give_the_calibrate_split():
    hypermodel = AdaptiveHyperModel(build, {"width": (4, 8)}, budget=1e9, recipe=RECIPE)
    hp = keras_tuner.HyperParameters()
    model = hypermodel.build(hp)
    result = hypermodel.fit(hp, model, Splits())
    assert result == hypermodel.measure(model, *data(40))


def test_a_trainer_must_not_return_another_network():
    hypermodel = AdaptiveHyperModel(
        build, {}, budget=1e9, trainer=lambda model, train, **_: keras.models.clone_model(model)
    )
    hp = keras_tuner.HyperParameters()
    with pytest.raises(ValueError, match="must return the model that it was given"):
        hypermodel.fit(hp, hypermodel.build(hp), data(), data(20))


# ---- what it measures


@pytest.mark.parametrize("kind", ["budget", "accuracy"])
def test_thresholds_and_results_come_from_different_halves(kind, arrays):
    logits, labels, costs = arrays
    value = {"budget": 2.5, "accuracy": 0.6}[kind]
    hypermodel = AdaptiveHyperModel(build, {}, **{kind: value}, method="optimal")
    found = hypermodel.measure_logits(logits, labels, costs, 7)
    expected = []
    for a, b in ((0, 1), (1, 0)):
        policy = ka.calibrate(
            logits[:, a::2], labels[a::2], costs, **{kind: value}, method="optimal"
        )
        report = ka.evaluate(policy, logits[:, b::2], labels[b::2], costs)
        expected.append((report.accuracy, report.mean_cost))
    accuracy, cost = np.mean(expected, axis=0)
    name = hypermodel.objective.name
    assert found[name] == pytest.approx(accuracy if kind == "budget" else cost)
    assert found["parameters"] == 7
    last = (logits[-1].argmax(-1) == labels).mean()
    assert found["accuracy_100"] == pytest.approx(last, abs=0.02)


def test_a_network_that_is_too_expensive_counts_nothing(arrays):
    hypermodel = AdaptiveHyperModel(build, {}, budget=0.5)
    assert hypermodel.measure_logits(*arrays, 1)["accuracy_at_budget"] == 0


def test_a_network_that_misses_the_accuracy_counts_more_the_more_it_misses(arrays):
    found = [
        AdaptiveHyperModel(build, {}, accuracy=a).measure_logits(*arrays, 1)["cost_at_accuracy"]
        for a in (0.5, 0.97, 0.99)
    ]
    assert found[0] <= 4 < 40 <= found[1] < found[2]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(1, 9)), min_size=1, max_size=12), st.randoms())
def test_nothing_beats_the_front(pairs, random):
    points = [Point(str(i), a, c, 100, {}) for i, (a, c) in enumerate(pairs)]
    front = pareto_front(points)
    costs, accuracies = [p.cost for p in front], [p.accuracy for p in front]
    assert costs == sorted(set(costs))
    assert accuracies == sorted(set(accuracies))
    for point in points:
        assert any(p.cost <= point.cost and p.accuracy >= point.accuracy for p in front)
    random.shuffle(points)
    again = pareto_front(points)
    assert [(p.accuracy, p.cost) for p in again] == [(p.accuracy, p.cost) for p in front]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": {"depth": (1, 2)}, "budget": 1.0}, "Received: 'depth'"),
        ({"space": {}, "budget": 1.0, "accuracy": 0.5}, "Received: budget and accuracy"),
        ({"space": {}}, "Received: none"),
        ({"space": {}, "budget": np.nan}, "Received: budget=nan"),
        ({"space": {}, "budget": 1.0, "recipe": "fast"}, "Received: recipe=fast"),
        ({"space": {}, "budget": 1.0, "recipe": 5}, "Received: recipe=5"),
        ({"space": {}, "budget": 1.0, "unit": "joules"}, "Received: unit=joules"),
        ({"space": {}, "budget": 1.0, "methd": "optimal"}, "Received: .*'methd'.*mean 'method'"),
        ({"space": {}, "budget": 1.0, "method": "best"}, "Received: method=best"),
        ({"space": {}, "budget": 1.0, "confidence": "sure"}, "Received: confidence=sure"),
        ({"space": {}, "accuracy": 90}, "`accuracy` must be from 0 to 1"),
        ({"space": {}, "accuracy": 0.9, "method": "pcee"}, "Received: method=pcee"),
    ],
)
def test_rejects_what_cannot_be_searched(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveHyperModel(build, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"builder": "msdnet"}, "`builder` must be a function. Received: builder='msdnet'"),
        ({"trainer": None}, "`trainer` must be a function. Received: trainer=None"),
        ({"space": [("width", [1, 2])]}, "`space` must be a dictionary .*Received: list"),
        ({"space": None}, "`space` must be a dictionary .*Received: NoneType"),
    ],
)
def test_rejects_what_is_no_search(arguments, message):
    with pytest.raises(TypeError, match=message):
        AdaptiveHyperModel(**{"builder": build, "space": {}, "budget": 1.0, **arguments})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"calibration_data": None}, "Received: a NoneType"),
        ({"calibration_data": data(40)[0]}, "Received: a ndarray"),
        ({"calibration_data": data(1)}, "Received: 1 samples, 1 labels"),
        ({"calibration_data": (data(40)[0], data(20)[1])}, "Received: 40 samples, 20 labels"),
        ({"calibration_data": (data(40)[0], [1])}, "Received: 40 samples, 1 labels"),
        ({"calibration_data": (data(2)[0], np.int64(1))}, "Received: 2 samples, 0 labels"),
        ({"validation_data": data(40)}, "Received: validation_data"),
        ({"epoch": 2}, "Received: epoch. Did you mean 'epochs'"),
    ],
)
def test_data_that_no_trial_can_be_measured_on_ends_the_search_before_training(
    given, message, tmp_path
):
    trained = []

    def trainer(model, train, *, epochs=1, recipe=None, callbacks=None, verbose=0):
        trained.append(model)
        return model

    found = tuner(tmp_path, trainer=trainer)
    given = {"calibration_data": data(40), **given}
    with pytest.raises(keras_tuner.errors.FatalError, match=message):
        found.search(data(32), verbose=0, **given)
    assert not trained
    assert len(found.oracle.trials) == 1


@pytest.mark.parametrize("choices", [[], (1,), 3, (1, 2, 3, 4)])
def test_rejects_impossible_choices(choices):
    hypermodel = AdaptiveHyperModel(build, {"width": choices}, budget=1.0)
    with pytest.raises(ValueError, match="Received: width="):
        hypermodel.build(keras_tuner.HyperParameters())


@pytest.mark.parametrize(
    ("choices", "kind", "facts"),
    [
        ((2, 8), "Int", {"min_value": 2, "max_value": 8, "sampling": "linear"}),
        ((1, 64, "log"), "Int", {"min_value": 1, "max_value": 64, "sampling": "log"}),
        ((0.5, 2.0), "Float", {"min_value": 0.5, "max_value": 2.0, "sampling": "linear"}),
        ((1e-3, 0.1, "log"), "Float", {"sampling": "log"}),
        ((1, 2.5), "Float", {"max_value": 2.5}),
        ([8, 16], "Choice", {"values": [8, 16]}),
        ([(1, 2), None], "Choice", {"values": ["(1, 2)", "None"]}),
        ([1, 2.0], "Choice", {"values": ["1", "2.0"]}),
        ((np.int64(2), np.int64(8)), "Int", {"min_value": 2, "max_value": 8}),
        ((np.float32(0.5), np.float32(2)), "Float", {"min_value": 0.5, "max_value": 2.0}),
        (list(np.array([8, 16])), "Choice", {"values": [8, 16]}),
    ],
)
def test_choices_are_drawn_as_they_are_given(choices, kind, facts):
    hypermodel = AdaptiveHyperModel(build, {"width": choices}, budget=1.0)
    hp = keras_tuner.HyperParameters()
    value = hypermodel.values(hp)["width"]
    (found,) = hp.space
    assert type(found).__name__ == kind
    assert {name: getattr(found, name) for name in facts} == facts
    assert json.loads(json.dumps(hp.values)) == hp.values
    assert value in choices or kind in ("Int", "Float")


def test_the_builder_must_build_an_adaptive_model():
    hypermodel = AdaptiveHyperModel(lambda: keras.Sequential(), {}, budget=1.0)
    with pytest.raises(TypeError, match="must return an AdaptiveModel"):
        hypermodel.build(keras_tuner.HyperParameters())
