"""Properties that every builder's network has. A new network is one row of the table.

Cheap ones are checked on every row. Training, the predictor and the exporter take seconds
a row: the quick suite checks them on rows that differ in kind, the slow one on the others.
"""

import keras
import numpy as np
import pytest
from shared import TINY
from tiny import backbone, classifier, flat

import keras_adaptive as ka
from keras_adaptive import _graph as graph

IMAGE = {"input_shape": TINY["input_shape"], "classes": TINY["classes"]}


def cascade(combine):
    """Members of different kinds: sizes, softmax or none, several exits, preprocessing."""
    members = [
        flat(),
        classifier(4, (6, 6, 1), activation="softmax"),
        ka.build_msdnet(**TINY, blocks=2, head_channels=8),
    ]
    return ka.build_cascade(members, combine=combine)


def self_cascade(resolutions):
    return ka.build_self_cascade(classifier(4), resolutions)


def added(network, **arguments):
    return ka.add_exits(network(), classes=10, **arguments)


def transfer():
    """A backbone inside a model, as `keras.applications` are used."""
    image = keras.Input((8, 8, 1))
    x = keras.layers.GlobalAveragePooling2D()(backbone()(image, training=False))
    return keras.Model(image, keras.layers.Dense(10, activation="softmax")(x))


MODELS = {
    # name: (builder, arguments)
    "msdnet": (ka.build_msdnet, {**TINY, "blocks": 3}),
    "msdnet-one-exit": (ka.build_msdnet, {**TINY, "blocks": 1}),
    "msdnet-techniques": (
        ka.build_msdnet,
        {
            **TINY,
            "blocks": 3,
            "step_mode": "even",
            "growth_factors": (1, 2),
            "bottleneck_factors": (1, 2),
            "prune": "min",
            "gradient_equilibrium": True,
            "collaboration": "dense",
            "head_channels": 8,
        },
    ),
    "msdnet-imagenet-stem": (
        ka.build_msdnet,
        {**TINY, "input_shape": (32, 24, 3), "blocks": 2, "stem": "imagenet", "base": 2},
    ),
    "resnet-post": (
        ka.build_resnet,
        {**IMAGE, "depth": 14, "width": 0.25, "exits": (0.5,), "head_channels": 4},
    ),
    "resnet-pre": (
        ka.build_resnet,
        {**IMAGE, "depth": 16, "style": "pre", "width": 0.25, "exits": 3, "head_channels": 4},
    ),
    "resnet-bottleneck": (
        ka.build_resnet,
        {**IMAGE, "stem": "imagenet", "depth": 50, "width": 1 / 16, "head_channels": 4},
    ),
    "densenet": (
        ka.build_densenet,
        {**IMAGE, "depth": 16, "growth_rate": 2, "exits": 3, "head_channels": 4},
    ),
    "resnet-gates": (
        ka.build_resnet,
        {**IMAGE, "depth": 14, "width": 0.25, "exits": 2, "head_channels": 4, "gates": "both"},
    ),
    "resnet-feedforward-gates": (
        ka.build_resnet,
        {
            **IMAGE,
            "depth": 14,
            "width": 0.25,
            "exits": (0.5,),
            "head_channels": 4,
            "gates": "both",
            "gate_kind": "feedforward",
            "soft_gates": True,
            "pooled_exits": True,
        },
    ),
    "msdnet-one-scale": (
        ka.build_msdnet,
        {**TINY, "blocks": 2, "multi_scale": False, "dense": False, "head_channels": 4},
    ),
    "densenet-gates": (
        ka.build_densenet,
        {**IMAGE, "depth": 16, "growth_rate": 2, "exits": 2, "gates": "layer"},
    ),
    "densenet-plain": (
        ka.build_densenet,
        {**IMAGE, "depth": 10, "growth_rate": 2, "bottleneck": False, "exits": (1, 4)},
    ),
    "cascade": (cascade, {"combine": "mean_logits"}),
    "cascade-probabilities": (cascade, {"combine": "mean_probs"}),
    "cascade-last": (cascade, {"combine": "last"}),
    "exits-at-layers": (added, {"network": transfer, "at": ["block_0", "norm_1"]}),
    "exits-at-shares": (
        added,
        {"network": lambda: backbone(10, "softmax"), "at": (0.3, 0.7), "head_channels": 4},
    ),
    "exits-on-features": (added, {"network": backbone, "at": (0.4,)}),
    "self-cascade": (self_cascade, {"resolutions": [6, (8, 8), (12, 10)]}),
}


SLOW = ("resnet-feedforward-gates", "msdnet-one-scale")


@pytest.fixture(
    scope="module",
    params=[pytest.param(x, marks=pytest.mark.slow) if x in SLOW else x for x in MODELS],
)
def model(request):
    build, arguments = MODELS[request.param]
    keras.utils.set_random_seed(0)
    return build(**arguments)


def quick_on(*names):
    """Parametrizes an expensive property: quick on the rows named, slow on the others."""
    assert set(names) <= set(MODELS)
    rows = [
        name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in MODELS
    ]
    return pytest.mark.parametrize("model", rows, indirect=True, scope="module")


@pytest.fixture(scope="module")
def data(model):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, *model.inputs[0].shape[1:])).astype("float32")
    return x, rng.integers(0, 10, 9)


@pytest.fixture(scope="module")
def logits(model, data):
    return [np.asarray(z) for z in model(data[0], training=False)]


def test_gives_a_list_of_logits(model, data, logits):
    assert isinstance(logits, list)
    assert [z.shape for z in logits] == [(9, 10)] * model.exits


@quick_on("msdnet-one-exit", "exits-at-shares")
def test_predict_gives_the_list_too(model, data, logits):
    found = model.predict(data[0], verbose=0)
    assert isinstance(found, list)
    for a, b in zip(found, logits, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_stages_chained_equal_the_whole(model, data, logits):
    features = data[0]
    for stage, expected in zip(model.stages(), logits, strict=True):
        found, *features = stage(features)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert features == []


def test_minimal_stages_equal_the_whole(model, data, logits):
    tensors = {"input_0": keras.ops.convert_to_tensor(data[0])}  # a later stage may read it too
    for (stage, reads, adds), expected in zip(
        graph.minimal_stages(model.inputs, model.outputs), logits, strict=True
    ):
        found, *features = stage([tensors[name] for name in reads])
        tensors.update(zip(adds, features, strict=True))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_stages_share_the_work_without_repeating_or_wasting_it(model):
    stages = graph.split(model.inputs, model.outputs)
    nodes = [id(node) for stage in stages for node in stage.nodes]
    assert len(nodes) == len(set(nodes))
    for k in range(model.exits):  # exactly what the exits so far need
        needed = {id(n) for n in graph.nodes_between(model.inputs, model.outputs[: k + 1])}
        assert {id(n) for s in stages[: k + 1] for n in s.nodes} == needed


@pytest.mark.parametrize("unit", ["macs", "reference_flops", "params"])
def test_costs_grow_and_lazy_costs_no_more(model, unit):
    lazy, eager = model.exit_costs(unit), model.exit_costs(unit, lazy=False)
    assert lazy.shape == (model.exits,)
    grows = np.diff(lazy, prepend=0)
    if unit == "params":  # a self-cascade has all its parameters from the first exit on
        assert grows[0] > 0
        assert (grows >= 0).all()
    else:
        assert (grows > 0).all()
    assert (lazy <= eager).all()
    assert lazy[-1] == eager[-1]


def test_costs_of_the_stages_add_up(model):
    per_stage = [
        ka.costs.exit_costs(stage.inputs, stage.outputs[:1])[0] for stage in model.stages()
    ]
    np.testing.assert_array_equal(np.cumsum(per_stage), model.exit_costs())


def test_counts_every_trainable_parameter(model):
    total = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert model.exit_costs("params")[-1] == total


def test_leaving_exits_out_keeps_the_others(model, data, logits):
    last = model.exits - 1
    (stage,) = model.stages(exits=[last])
    np.testing.assert_allclose(stage(data[0])[0], logits[last], atol=1e-5)
    assert model.exit_costs(exits=[last])[0] <= model.exit_costs()[last]


@quick_on("exits-at-layers")
def test_one_label_trains_every_exit(model, data, tmp_path):
    model = keras.models.clone_model(model)
    model.compile(run_eagerly=True)  # tracing takes most of the time; test_training has graphs
    history = model.fit(*data, epochs=2, batch_size=4, verbose=0).history
    assert set(history) == {"loss", "accuracy", "first_accuracy", "mean_accuracy", "last_accuracy"}
    assert np.isfinite(history["loss"]).all()
    path = tmp_path / "model.keras"
    model.save(path)
    again = keras.models.load_model(path)
    assert isinstance(again, ka.AdaptiveModel)
    for a, b in zip(again(data[0]), model(data[0]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(again.optimizer.variables) == len(model.optimizer.variables) > 0
    for a, b in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.exit_costs().tolist() == model.exit_costs().tolist()
    assert again.exit_costs(lazy=False).tolist() == model.exit_costs(lazy=False).tolist()


@quick_on("cascade", "exits-at-layers")
def test_predictor_leaves_where_the_policy_decides(model, data, logits, far_from_thresholds):
    stacked = np.stack(logits)
    costs = model.exit_costs()
    policy = ka.calibrate(stacked, data[1], costs, budget=costs.mean(), method="geometric")
    predictor = ka.AdaptivePredictor(model, policy, engine="keras")
    result = predictor.predict(data[0], batch_size=4)
    far = far_from_thresholds(policy, stacked)
    np.testing.assert_array_equal(result.exits[far], policy.decide(stacked)[far])


@quick_on("exits-at-layers")
def test_exported_stages_equal_keras(model, data, logits, tmp_path):
    from anytime_tflite import AnytimeModel

    policy = ka.ExitPolicy([1e9] * model.exits, "logit_margin")  # nobody leaves early
    ka.export_tflite(model, tmp_path / "model.tflite", policy)
    device = AnytimeModel(tmp_path / "model.tflite")
    for i, image in enumerate(data[0][:3]):
        answers = list(device.stream(image))
        assert [a.exit for a in answers] == list(range(model.exits))
        for answer, z in zip(answers, logits, strict=True):
            expected = ka.policy.softmax(z[i])
            np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5)
