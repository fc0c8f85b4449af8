import keras
import numpy as np

from keras_adaptive import _graph as graph


def chain():
    """A chain whose second stage does not read all that the third does."""
    x = keras.Input((3,), name="x")
    a = keras.layers.Dense(4, name="a")(x)
    b = keras.layers.Dense(4, name="b")(a)
    first = keras.layers.Dense(2, name="first")(a)
    second = keras.layers.Dense(2, name="second")(b)
    everything = keras.layers.Concatenate(name="everything")([x, a, b, second])
    third = keras.layers.Dense(2, name="third")(everything)
    return keras.Model(x, [first, second, third])


def names(nodes):
    return [node.operation.name for node in nodes]


def test_a_stage_holds_only_what_its_exit_needs():
    model = chain()
    stages = graph.split(model.inputs, model.outputs)
    assert names(stages[0].nodes) == ["a", "first"]
    assert names(stages[1].nodes) == ["b", "second"]
    assert names(stages[2].nodes) == ["everything", "third"]


def test_chained_stages_pass_on_what_is_read_later(rng):
    model = chain()
    x = rng.normal(size=(5, 3)).astype("float32")
    features, found = [x], []
    for stage in graph.stage_models(model.inputs, model.outputs):
        logits, *features = stage(features)
        found.append(logits)
    for a, b in zip(found, model(x), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_minimal_stages_read_and_return_only_what_they_must():
    model = chain()
    parts = graph.minimal_stages(model.inputs, model.outputs)
    assert [sorted(reads) for _, reads, _ in parts] == [
        ["input_0"],
        ["features_0"],
        ["features_0", "features_1", "features_2", "input_0"],
    ]
    assert [len(adds) for _, _, adds in parts] == [1, 2, 0]


def test_the_model_itself_is_not_changed_by_cutting_it():
    model = chain()
    before = model.get_config()
    graph.stage_models(model.inputs, model.outputs)
    assert model.get_config() == before
