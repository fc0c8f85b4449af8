import keras
import numpy as np
import pytest
from eager import eagerly

import keras_adaptive as ka
from keras_adaptive.policy.confidence import softmax
from keras_adaptive.training import Distillation

eagerly = pytest.fixture(autouse=True)(eagerly)


def fixed_net(logits):
    """A network that gives these logits, whatever it is shown: row `i` for input `i`."""
    x = keras.Input((2,))
    outputs = []
    for k, values in enumerate(logits):
        layer = keras.layers.Dense(len(values[0]), use_bias=False, name=f"exit_{k}")
        outputs.append(layer(x))
        layer.set_weights([np.array(values, "float32")])
    return ka.AdaptiveModel(x, outputs)


@pytest.fixture
def golden(goldens):
    return goldens["ofa_loss"]


def test_loss_equals_the_reference(golden):
    teacher = fixed_net([golden["teacher"]])
    x, y = np.eye(2, dtype="float32"), np.array(golden["targets"])
    for case in golden["cases"]:
        model = fixed_net(golden["outputs"])
        distillation = Distillation(teacher, case["T"], case["gamma"])
        model.compile("sgd", distillation=distillation)
        loss = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
        assert loss == pytest.approx(case["batchmean"], rel=1e-5)


def test_loss_by_hand(rng):
    logits, teacher = rng.normal(size=(3, 4, 5)), rng.normal(size=(4, 5))
    weights, t, w = [2.0, 0.5, 7.0], 3.0, 0.3
    target = softmax(teacher / t)
    expected = sum(
        weight * (target * np.log(target / softmax(z / t))).sum(axis=1).mean()
        for weight, z in zip(weights[:-1], logits[:-1], strict=True)
    )
    found = Distillation(temperature=t, weight=w).loss(teacher, list(logits), weights)
    assert float(found) == pytest.approx(w * t**2 * expected, rel=1e-5)


def test_the_teacher_answers_as_it_would_alone_and_by_its_last_exit(golden):
    x = keras.Input((2,))
    dropped = keras.layers.Dropout(0.99)(x)
    exits = [keras.layers.Dense(3)(dropped) for _ in range(2)]
    teacher = ka.AdaptiveModel(x, exits)
    image = np.ones((5, 2), "float32")
    found = Distillation(teacher).teacher_logits(image, None)
    np.testing.assert_array_equal(found, teacher(image)[1])
    own = Distillation("last").teacher_logits(image, [image, 2 * image])
    np.testing.assert_array_equal(own, 2 * image)


def test_exits_count_as_they_are_weighted(golden):
    model = fixed_net(golden["outputs"])
    logits = np.array(golden["outputs"])
    x, y = np.eye(2, dtype="float32"), np.array(golden["targets"])
    exit_weights, w = [3.0, 0.5, 2.0], 0.25
    distillation = Distillation("last", 2.0, w)
    model.compile("sgd", distillation=distillation, exit_weights=exit_weights)
    cross = [-np.log(softmax(z)[range(2), y]).mean() for z in logits]
    expected = np.dot(cross, [3 * (1 - w), 0.5 * (1 - w), 2])
    expected += float(distillation.loss(logits[-1], list(logits), exit_weights))
    loss = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(expected, rel=1e-5)


def test_the_last_exit_teaches_the_others(golden):
    model = fixed_net(golden["outputs"])
    x, y = np.eye(2, dtype="float32"), np.array(golden["targets"])
    losses = {}
    for teacher in ("last", fixed_net(golden["outputs"][-1:])):
        model.compile("sgd", distillation=Distillation(teacher, 2.0, 0.5))
        losses[teacher == "last"] = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    assert losses[True] == pytest.approx(losses[False], rel=1e-6)


def test_no_gradient_reaches_the_teacher(golden):
    model = fixed_net(golden["outputs"])
    before = np.array(model.get_layer("exit_2").kernel)
    model.compile(
        keras.optimizers.SGD(0.1),
        distillation=Distillation("last", weight=1.0),
        exit_weights=[1, 1, 0],
    )
    model.fit(np.eye(2), np.array([0, 2]), verbose=0)
    np.testing.assert_array_equal(model.get_layer("exit_2").kernel, before)


def test_a_teacher_is_neither_trained_nor_saved(golden, tmp_path):
    teacher = fixed_net([golden["teacher"]])
    before = teacher.get_weights()[0]
    model = fixed_net(golden["outputs"])
    model.compile(keras.optimizers.SGD(0.1), distillation=Distillation(teacher))
    assert len(model.trainable_variables) == 3
    model.fit(np.eye(2), np.array([0, 2]), verbose=0)
    np.testing.assert_array_equal(teacher.get_weights()[0], before)
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").distillation is None


def test_self_distillation_is_saved_with_the_model(golden, tmp_path):
    model = fixed_net(golden["outputs"])
    model.compile(distillation=Distillation("last", 3.0, 0.4), exit_weights=[1, 2, 3])
    model.fit(np.eye(2), np.array([0, 2]), verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.distillation.get_config() == model.distillation.get_config()
    assert list(again.exit_weights) == [1, 2, 3]
    x, y = np.eye(2), np.array([0, 2])
    assert again.evaluate(x, y, verbose=0)[0] == pytest.approx(model.evaluate(x, y, verbose=0)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher": "first"}, "Received: teacher='first'"),
        ({"temperature": 0}, "Received: temperature=0"),
        ({"temperature": -1}, "Received: temperature=-1"),
        ({"weight": -0.1}, "Received: weight=-0.1"),
        ({"weight": 2}, "Received: weight=2"),
    ],
)
def test_rejects_impossible_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Distillation(**arguments)


def test_compile_rejects_another_kind_of_distillation(golden):
    with pytest.raises(TypeError, match="`distillation` must be a Distillation"):
        fixed_net(golden["outputs"]).compile(distillation="last")


@pytest.mark.parametrize(
    ("shape", "classes", "ending", "message"),
    [
        ((2,), 2, None, r"with \(None, 2\) in the place of \(None, 4\)"),
        ((2,), 2, "softmax", r"with \(None, 2\) in the place of \(None, 4\)"),
        ((2,), 1, "sigmoid", r"with \(None, 2\) in the place of \(None, 4\)"),
        ((4,), 4, None, r"with \(None, 4\) in the place of \(None, 2\)"),
    ],
)
def test_a_teacher_of_other_classes_or_inputs_is_refused(golden, shape, classes, ending, message):
    x = keras.Input(shape)
    teacher = keras.Model(x, keras.layers.Dense(classes, activation=ending)(x))
    how = {"from_logits": ending is None}
    with pytest.raises(ValueError, match=f"`teacher` must be of the same input.*{message}"):
        fixed_net(golden["outputs"]).compile("sgd", distillation=Distillation(teacher, **how))


def test_a_teacher_may_take_its_input_with_an_axis_of_one_more(golden):
    x = keras.Input((2, 1))
    teacher = keras.Model(x, keras.layers.Dense(4)(keras.layers.Flatten()(x)))
    model = fixed_net(golden["outputs"])
    model.compile("sgd", distillation=Distillation(teacher))
    assert model.evaluate(np.eye(2), np.array(golden["targets"]), verbose=0)[0] > 0
