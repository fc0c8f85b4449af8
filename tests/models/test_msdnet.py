import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_adaptive as ka
from keras_adaptive.models.msdnet import PRESETS

CONFIGURATIONS = (
    "cifar10_anytime_b11_base4_step2_nC16",
    "cifar10_readme_anytime_b7_base4_step2_nC16",
    "cifar10_lingrow_b4_nC16",
    "cifar10_lingrow_b6_nC16",
    "cifar100_lingrow_b5_nC16",
    "cifar100_lingrow_b7_nC16",
    "imagenet_b5_step4_base4_nC32",
    "imagenet_paper_b5_step4_base7_nC32",
    "cifar10_lingrow_b5_nC16_prune_min",
    "cifar10_lingrow_b5_nC16_noreduction",
)


def quick_on(names, *quick):
    """The rows of a table: those named in the quick suite, the others in the slow one."""
    assert set(quick) <= set(names)
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize(
    "name",
    quick_on(CONFIGURATIONS, "cifar10_lingrow_b5_nC16_prune_min"),
)
def test_equals_the_reference_implementation_to_the_unit(goldens, name):
    golden = goldens["msdnet"][name]
    model = ka.build_msdnet(**golden["arguments"])
    for unit, key in (("macs", "macs"), ("reference_flops", "reference_flops")):
        assert model.exit_costs(unit, lazy=False).tolist() == golden[key]
        assert model.exit_costs(unit, lazy=True).tolist() == golden[f"lazy_{key}"]
    assert model.exit_costs("params", lazy=False).tolist() == golden["params"]

    scales = len(golden["arguments"]["growth_factors"])
    layer = 0
    for block, shapes in enumerate(golden["block_shapes_CHW"]):
        layer += len({x.name.split("_")[3] for x in model.layers if _is_concat(x, block)})
        for scale, (channels, height, width) in enumerate(shapes, scales - len(shapes)):
            assert _features(model, block, layer, scale) == (height, width, channels)


def _is_concat(layer, block):
    return layer.name.startswith(f"block_{block}_") and type(layer).__name__ == "Concatenate"


def _features(model, block, layer, scale):
    """Shape of the features of a layer, after its transition if there is one."""
    name = f"block_{block}_layer_{layer}_scale_{scale}"
    names = {x.name for x in model.layers}
    transition = f"{name}_transition_relu"
    return tuple(model.get_layer(transition if transition in names else name).output.shape[1:])


# ---- closed-form weights: the same function of its position for every number of the net


def _hash(a):
    a = np.asarray(a, "int64") % 10007
    return ((31 * a**2 + 17 * a + 7) % 10007) / 10007 - 0.5


def _index(shape, factors, offset):
    grid = np.indices(shape)
    return sum(f * g for f, g in zip(factors, grid, strict=True)) + offset


def _closed_form(variable):
    shape = tuple(variable.shape)
    kind = variable.path.split("/")[-1]
    if kind == "kernel" and len(shape) == 4:
        height, width, inputs, _ = shape
        a = _index(shape, (1303, 5867, 4729, 7919), 123)
        return _hash(a) * np.sqrt(24 / (inputs * height * width))
    if kind == "kernel":
        return _hash(_index(shape, (4729, 7919), 77)) * np.sqrt(12 / shape[0])
    c = np.arange(shape[0])
    return {
        "gamma": 1 + 0.1 * np.cos(c),
        "beta": 0.05 * np.sin(c),
        "moving_mean": 0.02 * np.cos(2 * c),
        "moving_variance": 1 + 0.1 * np.sin(c) ** 2,
        "bias": 0.01 * c,
    }[kind]


def _closed_form_model(**arguments):
    model = ka.build_msdnet(blocks=4, **arguments)
    for variable in model.variables:
        variable.assign(_closed_form(variable))
    return model


@pytest.fixture(scope="module")
def image():
    n, h, w, c = np.indices((2, 32, 32, 3))
    return (3.4 * _hash(8191 * n + 2741 * c + 613 * h + 1009 * w + 5)).astype("float32")


def test_closed_form_weights_give_the_reference_logits(goldens, image):
    golden = goldens["numeric_forward"]["cases"]["cifar10_lingrow_b4_nC16"]
    logits = _closed_form_model()(image, training=False)  # as a graph it takes twice as long
    np.testing.assert_allclose(np.stack(logits), golden["logits_first10"], atol=1e-4)


@pytest.mark.parametrize(
    ("argument", "key"),
    [
        pytest.param(False, "without", marks=pytest.mark.slow),
        pytest.param("coarsest", "with_GE", marks=pytest.mark.slow),
        ("all", "paper_form_all_scales"),
        pytest.param(True, "paper_form_explicit", marks=pytest.mark.slow),
    ],
)
def test_gradient_equilibrium_gives_the_reference_gradients(goldens, image, argument, key):
    golden = goldens["gradient_equilibrium"][key]
    model = _closed_form_model(gradient_equilibrium=argument)
    with tf.GradientTape() as tape:
        losses = [
            tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits([3, 7], logits))
            for logits in model(image, training=False)
        ]
        loss = tf.add_n(losses)
    paths = {"first_conv": "block_0_layer_0_scale_0_conv/kernel"}
    paths["first_layer_scale2"] = "block_0_layer_0_scale_2_conv/kernel"
    for block, layer in enumerate((1, 3, 6, 10)):
        convolution = f"block_{block}_layer_{layer}_scale_2_same_conv/kernel"
        paths[f"block{block}_lastlayer_coarsest_convnormal3x3"] = convolution
        paths[f"classifier{block}_linear"] = f"exit_{block}/logits/kernel"
    variables = {v.path: v.value for v in model.trainable_variables}
    for name, expected in golden.items():
        if name == "loss":
            assert float(loss) == pytest.approx(expected, rel=1e-4)
    wanted = [variables[path] for name, path in paths.items() if name in golden]
    found = [float(tf.norm(g)) for g in tape.gradient(loss, wanted)]
    assert found == pytest.approx([golden[name] for name in paths if name in golden], rel=1e-3)


@pytest.mark.slow
def test_collaboration_adds_the_reference_number_of_parameters(goldens):
    golden = goldens["imta_phase2"]["cifar10_b6"]
    without = ka.build_msdnet(blocks=6).count_params()
    identity = ka.build_msdnet(blocks=6, collaboration="identity").count_params()
    model = ka.build_msdnet(blocks=6, collaboration="dense")
    heads = [
        sum(v.value.shape.num_elements() for v in model.get_layer(f"exit_{k}").logits.weights)
        for k in range(6)
    ]
    embeddings = [
        sum(
            int(np.prod(v.shape))
            for layer in model.get_layer(f"exit_{k}").embedding
            for v in layer.trainable_variables
        )
        for k in range(1, 6)
    ]
    assert identity == without
    assert heads == golden["new_classifier_params"]
    assert embeddings == golden["isc_params"]


# ---- boosting

BOOSTED = {
    "input_shape": (8, 8, 1),
    "classes": 4,
    "blocks": 3,
    "channels": 4,
    "step_mode": "even",
    "growth_rate": 2,
    "growth_factors": (1, 2),
    "bottleneck_factors": (1, 2),
    "head_channels": 4,
    "gradient_equilibrium": "coarsest",
}


@pytest.fixture(scope="module")
def boosted():
    """A boosted network, and the same weights without collaboration."""
    keras.utils.set_random_seed(0)
    model = ka.build_msdnet(**BOOSTED, collaboration="identity", collaboration_weight=0.5)
    plain = ka.build_msdnet(**BOOSTED)
    plain.set_weights(model.get_weights())
    return model, plain


def test_every_exit_adds_half_of_the_answer_before(boosted, rng):
    model, plain = boosted
    x = rng.normal(size=(5, 8, 8, 1)).astype("float32")
    first, second, third = (np.asarray(z) for z in plain(x))
    expected = [first, second + first / 2, third + second / 2 + first / 4]
    np.testing.assert_allclose([np.asarray(z) for z in model(x)], expected, atol=1e-5)


def test_an_exit_learns_from_its_own_loss_alone(boosted, rng):
    """Of heads, since features learn from every exit that reads them."""
    model, _ = boosted
    x, y = rng.normal(size=(6, 8, 8, 1)).astype("float32"), np.arange(6) % 4
    bias = model.get_layer("exit_0").logits.bias
    with tf.GradientTape() as tape:
        logits = model(x)
        losses = [keras.losses.sparse_categorical_crossentropy(y, z, True) for z in logits]
        loss = sum(tf.reduce_mean(part) for part in losses)
    found = tape.gradient(loss, bias.value)
    exps = np.exp(logits[0] - np.max(logits[0], axis=-1, keepdims=True))
    expected = (exps / exps.sum(-1, keepdims=True) - np.eye(4)[y]).mean(axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_boosted_networks_are_saved(boosted, rng, tmp_path):
    model, _ = boosted
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    weights = [loaded.get_layer(f"exit_{k}").collaboration_weight for k in range(3)]
    assert weights == [1, 0.5, 0.5]
    x = rng.normal(size=(3, 8, 8, 1)).astype("float32")
    for before, after in zip(model(x), loaded(x), strict=True):
        np.testing.assert_allclose(before, after, atol=1e-6)


@pytest.mark.slow
def test_boosted_networks_are_exported(boosted, rng, tmp_path):
    anytime_tflite = pytest.importorskip("anytime_tflite")
    model, plain = boosted
    path = tmp_path / "model.tflite"
    ka.export_tflite(model, path, ka.ExitPolicy([np.inf, np.inf, -np.inf]))
    x = rng.normal(size=(4, 8, 8, 1)).astype("float32")
    first, second, third = (np.asarray(z) for z in plain(x))
    expected = third + second / 2 + first / 4
    device = anytime_tflite.AnytimeModel(path)
    found = np.log([device.classify(image).probabilities for image in x])
    np.testing.assert_allclose(
        found - found.mean(-1, keepdims=True),
        expected - expected.mean(-1, keepdims=True),
        atol=1e-3,
    )


# ---- presets and arguments


@pytest.mark.parametrize("name", quick_on(PRESETS, "cifar_budgeted_4"))
def test_every_preset_builds(name):
    model = ka.build_msdnet(preset=name)
    assert model.exits == PRESETS[name]["blocks"]
    assert model.outputs[0].shape[-1] == PRESETS[name]["classes"]


PUBLISHED = {
    "cifar_anytime": "cifar10_anytime_b11_base4_step2_nC16",
    "cifar_budgeted_4": "cifar10_lingrow_b4_nC16",
    "cifar_budgeted_6": "cifar10_lingrow_b6_nC16",
    "imagenet_step4": "imagenet_b5_step4_base4_nC32",
    "imagenet_anytime": "imagenet_paper_b5_step4_base7_nC32",
}


@pytest.mark.parametrize("preset", quick_on(PUBLISHED, "cifar_budgeted_4"))
def test_presets_are_the_published_networks(goldens, preset):
    costs = ka.build_msdnet(preset=preset).exit_costs().tolist()
    assert costs == goldens["msdnet"][PUBLISHED[preset]]["lazy_macs"]


PARTS = {"blocks": 3, "channels": 4, "growth_rate": 4, "step_mode": "even", "step": 2}


def test_without_dense_connections_a_layer_gives_its_new_features_alone():
    model = ka.build_msdnet((16, 16, 1), 4, **PARTS, dense=False, reduction=0)
    widths = {}
    for layer in model.layers:
        if re.fullmatch(r"block_\d_layer_[1-9]_scale_\d", layer.name):
            widths.setdefault(layer.name[-1], set()).add(layer.output.shape[-1])
    assert widths == {"0": {4}, "1": {8}, "2": {16}}


def test_one_scale_at_a_time_is_halved_where_a_scale_would_be_dropped():
    model = ka.build_msdnet((16, 16, 1), 4, **PARTS, multi_scale=False, reduction=0)
    # five layers and three scales: two layers at each of the first two
    joined = [x.output.shape[1:] for x in model.layers if type(x).__name__ == "Concatenate"]
    assert joined == [(16, 16, 8), (16, 16, 12), (8, 8, 20), (8, 8, 28), (4, 4, 44)]


def test_what_is_given_wins_over_the_preset():
    model = ka.build_msdnet((16, 16, 1), classes=7, preset="cifar_budgeted_8", blocks=2)
    assert model.exits == 2
    assert model.inputs[0].shape == (None, 16, 16, 1)
    assert model.outputs[0].shape == (None, 7)


def test_large_images_get_the_imagenet_stem():
    model = ka.build_msdnet((128, 128, 3), blocks=1, channels=4, growth_rate=2)
    assert model.get_layer("block_0_layer_0_scale_0_conv").kernel_size == (7, 7)


def test_compiles_with_the_papers_recipe():
    optimizer = ka.build_msdnet(preset="cifar_budgeted_4").optimizer
    assert optimizer.nesterov
    assert optimizer.momentum == 0.9
    assert float(optimizer.learning_rate) == pytest.approx(0.1)


def test_starts_as_he_et_al_with_unit_normalization():
    model = ka.build_msdnet(preset="cifar_budgeted_4")
    kernel = model.get_layer("exit_0").units[1].kernel
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.05)
    head = model.get_layer("exit_0").logits
    assert np.abs(head.kernel).max() <= 1 / np.sqrt(128)
    assert not np.any(head.bias)


def test_loads_weights(tmp_path):
    arguments = {"input_shape": (8, 8, 1), "blocks": 2, "channels": 4, "growth_rate": 2}
    model = ka.build_msdnet(**arguments)
    model.save_weights(tmp_path / "net.weights.h5")
    again = ka.build_msdnet(**arguments, weights=tmp_path / "net.weights.h5")
    for a, b in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 1}, "`classes` must be an integer of at least 2. Received: classes=1"),
        ({"input_shape": (32, 32)}, "`input_shape` must be"),
        ({"input_shape": (32, 32, 0)}, "`input_shape` must be"),
        ({"blocks": 0}, "Received: blocks=0"),
        ({"base": 1.5}, "Received: base=1.5"),
        ({"step_mode": "grow"}, "Received: step_mode=grow"),
        ({"prune": None}, "Received: prune=None"),
        ({"stem": "vgg"}, "Received: stem=vgg"),
        ({"reduction": 2}, "Received: reduction=2"),
        ({"reduction": 0.01}, "`reduction` must leave"),
        ({"growth_factors": (1, 2)}, "`bottleneck_factors` must be positive integers, one per"),
        ({"growth_factors": 3}, "`growth_factors` must be"),
        ({"growth_rate": 1, "growth_factors": (1, 1, 1)}, "at least 2 channels"),
        ({"gradient_equilibrium": "some"}, "Received: gradient_equilibrium=some"),
        ({"collaboration": "sum"}, "Received: collaboration=sum"),
        ({"collaboration_weight": 0.5}, "Received: collaboration_weight=0.5, collaboration=None"),
        ({"collaboration": "identity", "collaboration_weight": 0}, "must be positive"),
        ({"head_channels": 0}, "Received: head_channels=0"),
        ({"preset": "cifar"}, "`preset` must be one of"),
    ],
)
def test_rejects_impossible_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ka.build_msdnet(**arguments)
