import keras
import numpy as np
import pytest

from keras_adaptive import layers
from keras_adaptive.layers import EarlyExit


@pytest.fixture
def features(rng):
    return rng.normal(size=(3, 4, 4, 8)).astype("float32")


@pytest.fixture
def previous(rng):
    return rng.normal(size=(3, 5)).astype("float32")


def test_is_a_dense_layer_on_the_mean_feature(features):
    layer = EarlyExit(classes=5)
    logits = layer(features)
    kernel, bias = layer.get_weights()
    expected = features.mean(axis=(1, 2)) @ kernel + bias
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_ignores_where_in_the_image_a_feature_is(features):
    layer = EarlyExit(classes=5)
    flipped = features[:, ::-1, ::-1]
    np.testing.assert_allclose(layer(features), layer(flipped), atol=1e-5)


def test_answers_each_sample_alone(features):
    layer = EarlyExit(classes=5)
    np.testing.assert_allclose(layer(features)[:1], layer(features[:1]), atol=1e-5)


def test_convolutions_halve_the_image_each_time(features):
    layer = EarlyExit(classes=5, convolutions=(6, 7))
    layer(features)
    shapes = [w.shape for w in layer.weights if w.name == "kernel"]
    assert shapes == [(3, 3, 8, 6), (3, 3, 6, 7), (7, 5)]


def test_identity_collaboration_adds_the_logits_before(features, previous):
    layer = EarlyExit(classes=5, collaboration="identity")
    kernel, bias = (layer(features, previous), layer.get_weights())[1]
    expected = features.mean(axis=(1, 2)) @ kernel + bias + previous
    np.testing.assert_allclose(layer(features, previous), expected, atol=1e-5)


def test_boosting_adds_a_share_of_the_logits_before(features, previous):
    layer = EarlyExit(classes=5, collaboration="identity", collaboration_weight=0.25)
    kernel, bias = (layer(features, previous), layer.get_weights())[1]
    expected = features.mean(axis=(1, 2)) @ kernel + bias + 0.25 * previous
    np.testing.assert_allclose(layer(features, previous), expected, atol=1e-5)


def test_heads_of_before_there_was_a_weight_add_everything():
    config = EarlyExit(classes=5, collaboration="identity").get_config()
    del config["collaboration_weight"]
    assert EarlyExit.from_config(config).collaboration_weight == 1


@pytest.mark.parametrize(
    ("collaboration", "weight", "message"),
    [
        ("identity", 0, "must be positive.*Received: collaboration_weight=0"),
        ("identity", -0.5, "must be positive.*Received: collaboration_weight=-0.5"),
        ("identity", np.nan, "must be a finite number.*Received: collaboration_weight=nan"),
        ("identity", "half", "must be a finite number.*Received: collaboration_weight='half'"),
        ("dense", 0.5, "must be 1 without.*weight=0.5, collaboration=dense"),
        (None, 0.5, "must be 1 without.*weight=0.5, collaboration=None"),
    ],
)
def test_rejects_impossible_weights(collaboration, weight, message):
    with pytest.raises(ValueError, match=message):
        EarlyExit(5, collaboration=collaboration, collaboration_weight=weight)


def test_dense_collaboration_embeds_the_logits_before(features, previous):
    layer = EarlyExit(classes=5, collaboration="dense")
    found = layer(features, previous)
    w = {v.path.split("/", 1)[-1]: np.asarray(v) for v in layer.weights}
    embedding = previous @ w["previous_dense/kernel"] + w["previous_dense/bias"]
    embedding = np.maximum(embedding / np.sqrt(1 + 1e-5), 0)  # untrained normalization
    both = np.concatenate([features.mean(axis=(1, 2)), embedding], axis=1)
    expected = both @ w["logits/kernel"] + w["logits/bias"]
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("collaboration", ["identity", "dense"])
def test_shields_the_exit_before_from_its_gradient(features, previous, collaboration, stop):
    tf = pytest.importorskip("tensorflow", reason="gradients are taken with TensorFlow here")
    layer = EarlyExit(5, collaboration=collaboration, stop_gradient=stop)
    x = tf.constant(previous)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(layer(features, x) ** 2)
    gradient = tape.gradient(loss, x)
    assert (gradient is None) == stop


@pytest.mark.parametrize("classes", [1, 0, -3, 2.5, True, None])
def test_rejects_impossible_number_of_classes(classes):
    with pytest.raises(ValueError, match=rf"Received: classes={classes}"):
        EarlyExit(classes=classes)


@pytest.mark.parametrize("convolutions", [(0,), (1.5,), ("8",)])
def test_rejects_impossible_convolutions(convolutions):
    with pytest.raises(ValueError, match=r"`convolutions\[0\]` must be an integer of at least 1"):
        EarlyExit(5, convolutions=convolutions)


@pytest.mark.parametrize("arguments", [{"kernel_size": 2}, {"kernel_size": 0}, {"strides": 0}])
def test_rejects_impossible_kernels(arguments):
    with pytest.raises(ValueError, match="must be (odd|an integer of at least 1)"):
        EarlyExit(5, convolutions=(4,), **arguments)


def test_rejects_unknown_collaboration():
    with pytest.raises(ValueError, match="Received: collaboration=sum"):
        EarlyExit(5, collaboration="sum")


def test_needs_the_logits_before_exactly_with_collaboration(features, previous):
    with pytest.raises(ValueError, match="`previous`"):
        EarlyExit(5)(features, previous)
    with pytest.raises(ValueError, match="`previous`"):
        EarlyExit(5, collaboration="identity")(features)


def padded_convolution(x, kernel, strides):
    """A 3x3 convolution of an image with a border of zeros around it, in numpy."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = (range(0, n - 2, strides) for n in x.shape[1:3])
    return np.stack(
        [
            np.stack([np.tensordot(x[:, i : i + 3, j : j + 3], kernel, 3) for j in columns], axis=1)
            for i in rows
        ],
        axis=1,
    )


@pytest.mark.parametrize("strides", [1, 2])
def test_convolutions_are_padded_alike_on_every_side(rng, strides):
    x = rng.normal(size=(2, 4, 6, 3)).astype("float32")
    layer = EarlyExit(5, convolutions=(4,), strides=strides)
    found = layer(x)
    w = {v.path.split("/", 1)[-1]: np.asarray(v) for v in layer.weights}
    kernel = next(value for path, value in w.items() if value.ndim == 4)
    features = padded_convolution(x, kernel, strides)
    assert features.shape == (2, 4 // strides, 6 // strides, 4)
    features = np.maximum(features / np.sqrt(1 + 1e-5), 0).mean(axis=(1, 2))
    expected = features @ w["logits/kernel"] + w["logits/bias"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_weights_begin_as_published():
    layer = EarlyExit(50, convolutions=(64,), collaboration="dense")
    layer(np.zeros((1, 4, 4, 64), "float32"), np.zeros((1, 50), "float32"))
    kernels = {v.path.split("/")[-2]: np.asarray(v) for v in layer.weights if v.name == "kernel"}
    dense = kernels["logits"]  # uniform in +-1/sqrt(inputs), and 128 inputs side by side
    assert dense.shape == (128, 50)
    assert 0.95 / np.sqrt(128) < np.abs(dense).max() <= 1 / np.sqrt(128)
    assert dense.std() == pytest.approx(1 / np.sqrt(3 * 128), rel=0.05)
    convolution = kernels["convolution_0_conv"]  # He, by what goes out
    assert convolution.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.05)


@pytest.mark.parametrize("shape", [(3, 6, 8), (3, 6, 4, 8)])
def test_the_mean_is_over_the_steps_that_the_mask_keeps(rng, shape):
    x = rng.normal(size=shape).astype("float32")
    mask = np.arange(6) < np.array([[6], [2], [0]])
    layer = EarlyExit(classes=5)
    found = layer(x, mask=mask)
    kernel, bias = layer.get_weights()
    mean = [x[0].reshape(-1, 8).mean(axis=0), x[1, :2].reshape(-1, 8).mean(axis=0), np.zeros(8)]
    np.testing.assert_allclose(found, mean @ kernel + bias, atol=1e-5)
    np.testing.assert_allclose(layer(x, mask=np.ones_like(mask)), layer(x), atol=1e-5)


def test_the_mask_counts_with_collaboration_too(rng):
    x = rng.normal(size=(3, 6, 8)).astype("float32")
    previous = rng.normal(size=(3, 5)).astype("float32")
    layer = EarlyExit(classes=5, collaboration="identity")
    found = layer(x, previous, features_mask=np.arange(6) < np.full((3, 1), 2))
    np.testing.assert_allclose(found, layer(x[:, :2], previous), atol=1e-5)


def test_convolutions_refuse_a_mask(features):
    with pytest.raises(ValueError, match=r"`convolutions` must be empty.*Received: .*\(4,\)"):
        EarlyExit(5, convolutions=(4,))(features, mask=np.ones((3, 4, 4), bool))


@pytest.fixture
def channels_first():
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format("channels_last")


@pytest.mark.usefixtures("channels_first")
def test_channels_first_are_refused_by_every_layer_that_has_channels():
    features = np.zeros((2, 8, 4, 4), "float32")
    for make in (
        lambda: layers.EarlyExit(5)(features),
        lambda: layers.EarlyExit(5, convolutions=(4,)),
        lambda: layers.SkipGate(),
        lambda: layers.SkipGate(kind="feedforward"),
        lambda: layers.ChannelGate(4),
        lambda: layers.GatedBlock([keras.layers.Conv2D(4, 3)]),
    ):
        with pytest.raises(ValueError, match="'channels_last'.*Received: .*channels_first"):
            make()
    assert layers.EarlyExit(5)(features[:, :, 0, 0]).shape == (2, 5)  # nothing comes first here


STEPS = np.random.default_rng(0).normal(size=(3, 5, 4)).astype("float32")
KEPT = np.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]], "bool")
POOLED = {
    "max": lambda steps: steps.max(axis=0),
    "first": lambda steps: steps[0],
    "last": lambda steps: steps[-1],
    "mean": lambda steps: steps.mean(axis=0),
}


@pytest.mark.parametrize("pooling", POOLED)
def test_pooling_keeps_what_it_says_of_the_steps_that_count(pooling):
    layer = EarlyExit(3, pooling=pooling)
    whole = keras.ops.convert_to_numpy(layer(STEPS))
    kernel, bias = layer.logits.get_weights()
    expected = np.stack([POOLED[pooling](steps) for steps in STEPS])
    np.testing.assert_allclose(whole, expected @ kernel + bias, rtol=1e-5, atol=1e-5)
    masked = keras.ops.convert_to_numpy(layer(STEPS, mask=KEPT))
    kept = [POOLED[pooling](steps[mask]) for steps, mask in zip(STEPS, KEPT, strict=True)]
    np.testing.assert_allclose(masked, np.stack(kept) @ kernel + bias, rtol=1e-5, atol=1e-5)
    assert EarlyExit.from_config(layer.get_config()).pooling == pooling


def test_images_have_no_first_step():
    with pytest.raises(ValueError, match="`pooling` must be 'mean' or 'max'.*'first'"):
        EarlyExit(3, pooling="first")(np.ones((1, 4, 4, 2), "float32"))
    with pytest.raises(ValueError, match="Received: pooling=sum"):
        EarlyExit(3, pooling="sum")
    found = EarlyExit(3, pooling="max")(np.ones((1, 4, 4, 2), "float32"))
    assert tuple(found.shape) == (1, 3)
