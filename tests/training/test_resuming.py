"""Killed and resumed: the weights of an unbroken training, and nobody else's folder touched."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from eager import eagerly

import keras_adaptive as ka
from keras_adaptive.layers import StoppingPolicy
from keras_adaptive.training import recipes, resuming
from keras_adaptive.training.recipes import Recipe

eagerly = pytest.fixture(autouse=True)(eagerly)
pytestmark = pytest.mark.filterwarnings("ignore:The stopping policy sends")

RECIPE = Recipe(learning_rate=0.02, batch_size=4, schedule="cosine")
# epochs, so that one of them has a phase each and two batches
EPOCHS = {"joint": 2, "disjoint": 2, "mixed": 2, "imta": 2, "stopping": 3, "gated": 5}


def samples():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 8)
    return (rng.normal(size=(8, 4, 4, 1)) + labels[:, None, None, None]).astype("float32"), labels


@pytest.fixture(scope="module")
def data():
    return samples()


def dropping(units=4):
    """Two exits behind dropout and batch statistics, with names that Keras gives."""
    keras.utils.set_random_seed(5)
    image = keras.Input((4, 4, 1))
    x, outputs = keras.layers.Flatten()(image), []
    for k in range(2):
        x = keras.layers.BatchNormalization()(keras.layers.Dense(units)(x))
        x = keras.layers.Dropout(0.3)(x)
        outputs.append(ka.layers.EarlyExit(10, name=f"exit_{k}")(x))
    return ka.AdaptiveModel(image, outputs)


def gated():
    keras.utils.set_random_seed(0)
    how = {"depth": 8, "width": 0.25, "exits": 2, "gates": "layer", "head_channels": 4}
    return ka.build_resnet((4, 4, 1), 10, **how)


def with_policies():
    return ka.training.add_stopping(dropping(), StoppingPolicy(4))


NETWORKS = {"gated": gated, "stopping": with_policies}


class Kill(keras.callbacks.Callback):
    """Raises after so many calls of a method."""

    def __init__(self, after, moment="on_train_batch_end", error=KeyboardInterrupt):
        super().__init__()
        self.left, self.error = after, error
        setattr(self, moment, self.strike)

    def strike(self, *args, **how):
        self.left -= 1
        if self.left < 0:
            raise self.error


def fit(data, regime="joint", folder=None, model=None, **how):
    model = model or NETWORKS.get(regime, dropping)()
    settings = {"epochs": EPOCHS[regime], "seed": 1, "recipe": RECIPE, "verbose": 0}
    if regime == "gated":
        settings["reinforce"] = ka.training.Reinforce()
    return ka.training.fit(model, data, regime=regime, backup_dir=folder, **{**settings, **how})


def killed(data, regime, folder, after, moment="on_train_batch_end", **how):
    with pytest.raises(KeyboardInterrupt):
        fit(data, regime, folder, callbacks=[Kill(after, moment)], **how)


def same(model, other):
    pairs = zip(model.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


# ---- resumed is unbroken


@pytest.mark.parametrize(
    ("regime", "moments"),
    [
        ("mixed", (2,)),
        *(
            pytest.param(regime, moments, marks=pytest.mark.slow)
            for regime, moments in {
                **{regime: range(2 * epochs) for regime, epochs in EPOCHS.items()},
                "gated": (0, 1, 4, 7, 9),  # a fifth of a minute each
            }.items()
        ),
    ],
)
def test_killed_at_any_batch_and_resumed_it_ends_as_unbroken(data, regime, moments, tmp_path):
    whole = fit(data, regime)
    for after in moments:
        folder = tmp_path / str(after)
        killed(data, regime, folder, after)
        assert same(fit(data, regime, folder), whole), after
    assert same(fit(data, regime, folder), whole)  # which is done, and is loaded


@pytest.mark.slow
def test_killed_after_the_last_epoch_it_only_ends(data, tmp_path):
    killed(data, "joint", tmp_path, 0, "on_train_end")
    batches = Kill(0)  # none is to come
    assert same(fit(data, folder=tmp_path, callbacks=[batches]), fit(data))


@pytest.mark.slow
def test_two_runs_of_one_seed_are_equal_and_those_of_another_differ(data):
    runs = [fit(data, seed=seed) for seed in (1, 1, 2)]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_the_generators_of_the_process_stay_as_they_are(data, tmp_path):
    def drawn():
        return random.random(), np.random.random()  # noqa: NPY002

    model, ends = dropping(), []
    for train in (False, True):
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        if train:
            killed(data, "joint", tmp_path, 0, model=model)
        ends.append(drawn())
    assert ends[0] == ends[1]


@pytest.mark.slow
def test_the_same_network_may_be_given_again(data, tmp_path):
    model = dropping()
    killed(data, "joint", tmp_path / "run", 1, model=model)
    assert same(fit(data, folder=tmp_path / "run", model=model), fit(data))


@pytest.mark.slow
def test_without_a_seed_one_is_drawn_and_kept(data, tmp_path):
    killed(data, "joint", tmp_path, 3, seed=None)
    seed = json.loads((tmp_path / "run.json").read_text())["seed"]
    assert same(fit(data, folder=tmp_path, seed=None), fit(data, seed=seed))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        "own",
        pytest.param("arrays", marks=pytest.mark.slow),
        pytest.param("batches", marks=pytest.mark.slow),
        pytest.param("PyDataset", marks=pytest.mark.slow),
    ],
)
def test_all_kinds_of_data_go_on_where_they_were(data, digits, kind, tmp_path):
    def of_kind():
        if kind == "batches":
            return digits.batches("train", 500, training=True, seed=3)
        if kind == "own":
            tf.random.set_seed(5)  # a shuffle's order is of its own seed and this one
            return tf.data.Dataset.from_tensor_slices(data).shuffle(8, seed=4).batch(4)
        return Drawn(data) if kind == "PyDataset" else (*data, np.linspace(0, 1, 8))

    def network():
        keras.utils.set_random_seed(5)
        image = keras.Input((8, 8, 1) if kind == "batches" else (4, 4, 1))
        features = keras.layers.Dropout(0.2)(keras.layers.Flatten()(image))
        return ka.AdaptiveModel(image, [keras.layers.Dense(10)(features) for _ in range(2)])

    how = {"regime": "mixed", "epochs": 4}
    whole = fit(of_kind(), **how, model=network())
    steps = 3 if kind == "batches" else 2
    with pytest.raises(KeyboardInterrupt):
        fit(of_kind(), **how, model=network(), folder=tmp_path, callbacks=[Kill(3 * steps - 1)])
    assert same(fit(of_kind(), **how, model=network(), folder=tmp_path), whole)


class Drawn(keras.utils.PyDataset):
    """Batches with noise of NumPy's generator."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def __len__(self):
        return 2

    def __getitem__(self, index):
        x, y = (each[4 * index : 4 * index + 4] for each in self.data)
        return x + np.random.normal(size=x.shape), y  # noqa: NPY002


@pytest.mark.slow
def test_what_callbacks_change_at_the_end_of_an_epoch_is_kept(data, tmp_path):
    class Slower(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.optimizer.learning_rate = self.model.optimizer.learning_rate / 10

    def run(folder=None, *callbacks):
        model = dropping()
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
        how = {"recipe": None, "epochs": 3, "callbacks": [Slower(), *callbacks]}
        return fit(data, folder=folder, model=model, **how)

    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Kill(2, "on_epoch_begin"))
    again = run(tmp_path)
    assert same(again, whole)
    for a, b in zip(again.optimizer.variables, whole.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_precision_that_was_chosen_is_kept_and_the_loss_given_back(
    data, smoothing, tmp_path, monkeypatch
):
    recipe = Recipe(
        learning_rate=0.02, batch_size=8, mixed_precision="auto", label_smoothing=smoothing
    )
    seen, model = [], dropping()

    class See(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append((self.model.layers[2].compute_dtype, type(self.model.loss[0]).__name__))

    model.compile()
    monkeypatch.setattr(recipes, "has_bfloat16", lambda: True)
    killed(data, "joint", tmp_path, 1, model=model, recipe=recipe)
    monkeypatch.setattr(recipes, "has_bfloat16", lambda: False)  # on another machine
    fit(data, folder=tmp_path, model=model, recipe=recipe, callbacks=[See()])
    loss = "SmoothedCrossentropy" if smoothing else "SparseCategoricalCrossentropy"
    assert seen == [("bfloat16", loss)]
    assert type(model.loss[0]) is keras.losses.SparseCategoricalCrossentropy


# ---- whose folder it is


OTHERS = [
    ({"epochs": 3}, "epochs=3, not 2"),
    ({"seed": 2}, "seed=2, not 1"),
    ({"regime": "mixed"}, "regime=mixed, not joint"),
    ({"recipe": Recipe(learning_rate=0.1, batch_size=4, schedule="cosine")}, "learning_rate=0.1, "),
    (
        {"recipe": Recipe(learning_rate=0.02, batch_size=2, schedule="cosine")},
        "batch_size=2, not 4",
    ),
    ({"exit_weights": [1, 2]}, "exit_weights="),
    ({"distillation": ka.training.Distillation(weight=0.4)}, "distillation="),
    ({"model": dropping(5)}, "units=5, not 4"),
    ({"data": 1}, "train.0.digest="),
    ({"validation": 1}, "validation="),
    (
        {
            "compile": {"optimizer": "adam", "loss": "sparse_categorical_crossentropy"},
            "recipe": None,
        },
        "optimizer=",
    ),
]


def test_another_run_is_refused_and_the_difference_named(data, tmp_path):
    killed(data, "joint", tmp_path, 3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for changes, message in OTHERS:
        how = dict(changes)
        other = (data[0] + 1, data[1])
        given = other if how.pop("data", None) else data
        if how.pop("validation", None):
            how["validation"] = data
        if "compile" in how:
            how["model"] = dropping()
            how["model"].compile(**how.pop("compile"))
        regime = how.pop("regime", "joint")
        with pytest.raises(ValueError, match="`backup_dir` must be a new folder") as error:
            fit(given, regime, tmp_path, **how)
        assert message in str(error.value), changes
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_names_callbacks_and_what_is_shown_make_no_other_run(data, tmp_path):
    killed(data, "joint", tmp_path / "one", 3)
    (tmp_path / "one").rename(tmp_path / "two")
    for _ in range(3):
        keras.layers.Dense(1)  # names go on
    found = fit(
        data, folder=tmp_path / "two", callbacks=[keras.callbacks.TerminateOnNaN()], verbose=2
    )
    assert same(found, fit(data))


def test_a_folder_of_something_else_is_refused_and_left_alone(data, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"which holds notes\.txt and no run\.json"):
        fit(data, folder=tmp_path)
    with pytest.raises(ValueError, match="`backup_dir` must be a folder"):
        fit(data, folder=tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ValueError, match="`backup_dir` must be a folder. Received: backup_dir=''"):
        fit(data, folder="")
    with pytest.raises(TypeError, match="`backup_dir` must be a string or a path"):
        fit(data, folder=3)


def test_a_folder_in_which_a_run_is_at_work_is_refused(data, tmp_path):
    refused = []

    class Again(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            with pytest.raises(ValueError, match="`backup_dir` must not be in use") as error:
                fit(data, folder=tmp_path)
            refused.append(str(tmp_path) in str(error.value))

    fit(data, folder=tmp_path, callbacks=[Again()])
    assert refused == [True] * EPOCHS["joint"]
    fit(data, folder=tmp_path)  # it is free again


def test_the_folder_says_whose_it_is_before_the_first_batch(data, tmp_path):
    killed(data, "joint", tmp_path, 0, "on_train_begin")
    stored = json.loads((tmp_path / "run.json").read_text())
    assert stored["settings"]["epochs"] == 2
    assert stored["settings"]["regime"] == "joint"


# ---- files that are whole, when they are written, and damage


@pytest.mark.slow
def test_states_are_written_after_the_first_epoch_then_when_time_has_passed(
    data, tmp_path, monkeypatch
):
    now, written = [0.0], []
    monkeypatch.setattr(resuming.time, "monotonic", lambda: now[0])
    write = resuming.Backup.write

    def spy(self, phase, epoch, arrays, done=False):
        written.append((epoch, done))
        return write(self, phase, epoch, arrays, done)

    monkeypatch.setattr(resuming.Backup, "write", spy)

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            now[0] += 14

    fit(data, folder=tmp_path / "slow", epochs=6, callbacks=[Clock()])
    assert written == [(1, False), (4, False), (6, True)]
    written.clear()
    killed(data, "joint", tmp_path / "quick", 7, epochs=4)
    assert written == [(1, False), (3, False)]  # the last complete one, at the interruption


@pytest.fixture
def kept(tmp_path):
    """A folder with the states after two and three epochs, and the model that they are of."""
    image = keras.Input((3,))
    model = keras.Model(image, keras.layers.Dense(2)(image))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    model.optimizer.build(model.trainable_variables)
    backup = resuming.Backup(tmp_path, {"epochs": 4}, {"seed": 7})
    for epoch in (1, 2, 3):
        model.set_weights([np.full_like(w, epoch) for w in model.get_weights()])
        model.optimizer.variables[-1].assign(np.full(2, 10.0 * epoch))
        backup.write(0, epoch, resuming.state_of(model))
    names = [path.name for path in sorted(tmp_path.glob("*.state"))]
    assert names == ["phase_0_epoch_00002.state", "phase_0_epoch_00003.state"]
    return model, tmp_path


SPOILED = {
    "truncated": lambda content: content[:-5],
    "flipped": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "facts": lambda content: content.replace(b'"epoch": 3', b'"epoch": 1'),
    "digest": lambda content: b"0" * 64 + content[64:],
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("damage", SPOILED)
def test_a_damaged_state_falls_back_to_the_one_before(kept, damage):
    model, folder = kept
    backup = resuming.Backup(folder, {"epochs": 4}, {"seed": 8})
    assert backup.facts == {"seed": 7}
    assert backup.restore(0, model) == (3, False)
    last = folder / "phase_0_epoch_00003.state"
    last.write_bytes(SPOILED[damage](last.read_bytes()))
    with pytest.warns(UserWarning, match="phase_0_epoch_00003.state is damaged"):
        assert backup.restore(0, model) == (2, False)
    assert all((w == 2).all() for w in model.get_weights())
    np.testing.assert_array_equal(model.optimizer.variables[-1], [20.0, 20.0])
    (folder / "phase_0_epoch_00002.state").write_bytes(b"x")
    with pytest.warns(UserWarning, match="is damaged"):
        assert backup.restore(0, model) == (0, False)


def test_a_state_of_another_network_is_damage(kept, tmp_path):
    _, folder = kept
    image = keras.Input((4,))
    other = keras.Model(image, keras.layers.Dense(2)(image))
    other.compile("sgd")
    other.optimizer.build(other.trainable_variables)
    with pytest.warns(UserWarning, match="is damaged"):
        assert resuming.Backup(folder, {"epochs": 4}, {"seed": 7}).restore(0, other) == (0, False)


@pytest.mark.slow
def test_where_all_is_damaged_it_begins_anew(data, tmp_path):
    killed(data, "joint", tmp_path, 3)
    for path in tmp_path.iterdir():
        path.write_bytes(b"x")
    with pytest.warns(UserWarning, match="damaged"):
        assert same(fit(data, folder=tmp_path), fit(data))


def test_a_damaged_manifest_is_not_a_way_to_the_states_of_another_run(kept):
    model, folder = kept
    (folder / "run.json").write_text("{")
    with pytest.raises(ValueError, match="with the states of another run"):
        resuming.Backup(folder, {"epochs": 5}, {"seed": 8})
    with pytest.warns(UserWarning, match=r"run\.json was damaged"):
        backup = resuming.Backup(folder, {"epochs": 4}, {"seed": 8})
    assert backup.facts == {"seed": 7}
    assert backup.restore(0, model) == (3, False)


def test_what_a_kill_left_half_written_is_no_obstacle(tmp_path):
    for name in ("run.json", "phase_0_epoch_00001.state"):
        (tmp_path / f".{name}.{'0' * 32}").write_text("{")
    resuming.Backup(tmp_path, {}, {"seed": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


# ---- the end of a process


PROGRAM = """
import sys
sys.path[:0] = sys.argv[1:3]
import eager, keras, pytest, test_resuming

class Say(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print("batch", flush=True)

eager.eagerly(pytest.MonkeyPatch())
data = test_resuming.samples()
test_resuming.fit(data, "mixed", sys.argv[3], epochs=12, callbacks=[Say()])
"""


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_ended_leaves_a_run_that_goes_on(data, number, tmp_path):
    here, folder = Path(__file__).parent, tmp_path / "run"
    program = [sys.executable, "-c", PROGRAM, here.parent, here, folder]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(15):
            assert process.stdout.readline() == "batch\n"
        process.send_signal(number)
        code = process.wait(60)
    assert code == (-9 if number == signal.SIGKILL else 128 + number)
    assert list(folder.glob("*.state"))
    assert same(fit(data, "mixed", folder, epochs=12), fit(data, "mixed", epochs=12))
