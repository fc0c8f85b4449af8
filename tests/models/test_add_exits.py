import keras
import numpy as np
import pytest
from tiny import backbone

import keras_adaptive as ka
from anytime_tflite import AnytimeModel

APPLICATIONS = {
    "MobileNetV3Small": (32, ["expanded_conv_2_add", "expanded_conv_5_add"]),
    "EfficientNetB0": (32, ["block2b_add", "block4c_add"]),
    "ResNet50": (32, ["conv3_block4_out", "conv4_block6_out"]),
}


@pytest.fixture
def images(rng):
    return rng.uniform(0, 255, (3, 32, 32, 3)).astype("float32")


def drawn(model):
    """Random batch statistics too, so that every layer matters."""
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([w + rng.uniform(0, 0.3, w.shape) for w in layer.get_weights()])
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "MobileNetV3Small",
        pytest.param("EfficientNetB0", marks=pytest.mark.slow),
        pytest.param("ResNet50", marks=pytest.mark.slow),
    ],
)
def test_applications_keep_their_answer_and_share_their_weights(name, images):
    size, places = APPLICATIONS[name]
    build = getattr(keras.applications, name)
    network = drawn(build(input_shape=(size, size, 3), weights=None, classes=10))
    model = ka.add_exits(network, at=places, classes=10)
    logits = model.predict(images, verbose=0)
    assert [z.shape for z in logits] == [(3, 10)] * 3
    expected = network.predict(images, verbose=0)
    np.testing.assert_allclose(ka.policy.softmax(logits[-1]), expected, atol=1e-5)
    costs = model.exit_costs()
    assert (np.diff(costs) > 0).all()
    for k, place in enumerate(places):
        assert model.get_layer(place) is network.get_layer(place)
        heads = [model.get_layer(f"exit_{i}").logits.kernel for i in range(k + 1)]
        own = ka.costs.exit_costs(network.inputs, [network.get_layer(place).output])
        assert costs[k] == own[0] + sum(np.prod(kernel.shape) for kernel in heads)


def test_shares_stand_between_blocks_near_where_they_are_wanted():
    network = keras.applications.ResNet50(input_shape=(64, 64, 3), weights=None, classes=10)
    model = ka.add_exits(network, at=4)
    full = ka.costs.exit_costs(network.inputs, network.outputs)[0]
    for k, share in enumerate((0.25, 0.5, 0.75)):
        features = model.get_layer(f"exit_{k}")._inbound_nodes[0].input_tensors[0]
        assert features._keras_history.operation.name.endswith("_out")
        cost = ka.costs.exit_costs(network.inputs, [features])[0]
        assert cost / full == pytest.approx(share, abs=0.05)


def test_shares_are_those_of_a_hand_count():
    # stem 576, each block 9,216 - 8x8 positions of 4x4 kernels of 3x3 - and 40 at the end
    model = ka.add_exits(backbone(10), at=[0.1, 0.4, 0.98])
    heads = 40
    blocks = 64 * 4 * 4 * 9
    expected = [64 * 36 + n * blocks for n in (0, 1, 3)]
    found = model.exit_costs()[:3] - heads * np.arange(1, 4)
    assert found.tolist() == expected
    names = [model.get_layer(f"exit_{k}")._inbound_nodes[0].input_tensors[0] for k in range(3)]
    names = [tensor._keras_history.operation.name for tensor in names]
    assert names == ["stem", "block_0", "block_2"]  # not the dropout behind it


def test_names_may_come_in_any_order():
    model = ka.add_exits(backbone(10), at=["block_1", "block_0"])
    assert (np.diff(model.exit_costs()) > 0).all()
    assert model.output_names == ["exit_0", "exit_1", "answer"]


def test_a_frozen_network_learns_in_its_heads_alone(rng):
    network = backbone(10, "softmax")
    model = ka.add_exits(network, at=["block_0"], trainable=False)
    assert {v.path.split("/")[0] for v in model.trainable_variables} == {"exit_0"}
    x, y = rng.normal(size=(16, 8, 8, 1)).astype("float32"), rng.integers(0, 10, 16)
    before = model.predict(x, verbose=0)
    model.compile("sgd", run_eagerly=True)
    model.fit(x, y, epochs=2, verbose=0)
    after = model.predict(x, verbose=0)
    np.testing.assert_array_equal(after[-1], before[-1])
    assert np.abs(after[0] - before[0]).max() > 1e-3


def test_a_new_head_stands_on_features(images):
    network = keras.applications.MobileNetV3Small(
        input_shape=(32, 32, 3), weights=None, include_top=False
    )
    model = ka.add_exits(network, at=[0.5], classes=7, trainable=False)
    assert [z.shape for z in model(images)] == [(3, 7)] * 2
    assert {v.path.split("/")[0] for v in model.trainable_variables} == {"exit_0", "exit_1"}


def test_layers_of_models_inside_can_be_named_and_are_the_same(rng):
    network = keras.Sequential([keras.Input((8, 8, 1)), backbone(10), keras.layers.Softmax()])
    model = ka.add_exits(network, at=["block_0", "block_1"])
    x = rng.normal(size=(3, 8, 8, 1)).astype("float32")
    np.testing.assert_allclose(
        ka.policy.softmax(model.predict(x, verbose=0)[-1]), network.predict(x, verbose=0), atol=1e-6
    )
    assert model.get_layer("conv_0") is network.layers[0].get_layer("conv_0")


def test_a_model_inside_is_named_for_its_output(rng):
    image = keras.Input((8, 8, 1))
    inner = keras.Sequential([keras.layers.Conv2D(4, 3), keras.layers.ReLU(name="end")])
    outer = keras.Sequential([keras.layers.Conv2D(2, 3), inner], name="features")
    last = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    network = keras.Sequential([image, outer, *last])
    by_name, by_layer = (ka.add_exits(network, at=[name]) for name in ("features", "end"))
    by_name.set_weights(by_layer.get_weights())
    x = rng.normal(size=(3, 8, 8, 1)).astype("float32")
    for a, b in zip(by_name(x), by_layer(x), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (["blok_1"], "near it: .'block_1'"),
        (["block_0", "block_0"], "every layer once"),
        (["answer"], "before the output.*Received: 'answer'"),
        ([], "Received: at=\\[\\]"),
        ("block_0", "Received: at=block_0"),
        (["block_0", 0.5], "Received: at="),
        ((0.5, 0.2), "must be ascending and between 0 and 1"),
        ((0.5, 1.0), "must be ascending and between 0 and 1"),
        (0, "`at` must be an integer of at least 1"),
        (True, "`at` must be an integer, a list"),
        (9, "no more exits than there are places.*Received: at=9; places at"),
    ],
)
def test_rejects_places_that_are_none(at, message):
    with pytest.raises(ValueError, match=message):
        ka.add_exits(backbone(10), at=at)


def test_rejects_models_that_cannot_be_cut():
    class Own(keras.Model):
        def call(self, x):
            return x

    at = {"at": ["conv_0"]}
    with pytest.raises(TypeError, match="`model` must be keras.Model"):
        ka.add_exits("resnet", **at)
    with pytest.raises(ValueError, match="functional or built Sequential"):
        ka.add_exits(Own(), **at)
    with pytest.raises(ValueError, match="functional or built Sequential"):
        ka.add_exits(keras.Sequential([keras.layers.Dense(10)]), **at)
    x = keras.Input((4,))
    with pytest.raises(ValueError, match="one output. Received: .* with 1 inputs and 2 outputs"):
        ka.add_exits(keras.Model(x, [x, x]), **at)
    with pytest.raises(ValueError, match="several labels.*Received: output.*'answer' .Dense."):
        ka.add_exits(backbone(10, "sigmoid"), **at)
    with pytest.raises(ValueError, match="as many as the output.*Received: classes=7"):
        ka.add_exits(backbone(10), classes=7, **at)
    with pytest.raises(ValueError, match="`classes` must be an integer.*Received: classes=None"):
        ka.add_exits(backbone(), **at)
    with pytest.raises(ValueError, match="`head_channels` must be.*Received: head_channels=0"):
        ka.add_exits(backbone(10), head_channels=0, **at)
    flat = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, name="conv_0")])
    flat.add(keras.layers.Dense(10))
    with pytest.raises(ValueError, match="`head_channels` must be None.*shape .None, 8"):
        ka.add_exits(flat, head_channels=4, **at)
    with pytest.raises(ValueError, match="`trainable` must be.*Received: trainable=None"):
        ka.add_exits(backbone(10), trainable=None, **at)


def test_rejects_layers_that_cannot_be_told_apart():
    image = keras.Input((8, 8, 1))
    twice = keras.layers.Conv2D(1, 1, name="twice")
    x = keras.layers.GlobalAveragePooling2D()(twice(twice(image)))
    model = keras.Model(image, keras.layers.Dense(10)(x))
    with pytest.raises(ValueError, match="called once.*Received: 'twice'"):
        ka.add_exits(model, at=["twice"])
    one, other = backbone(10), keras.models.clone_model(backbone(10))
    other.name = "other"
    pair = keras.Model(one.inputs, keras.layers.Average()([one(one.inputs), other(one.inputs)]))
    with pytest.raises(ValueError, match="two layers with the name 'stem'"):
        ka.add_exits(pair, at=1)
    one.get_layer("stem").name = "exit_0"
    with pytest.raises(ValueError, match="name of a new head.*'exit_0'"):
        ka.add_exits(one, at=["conv_0"])


def test_exits_of_an_adaptive_model_are_moved(rng):
    first = ka.add_exits(backbone(10), at=["block_0"])
    moved = ka.add_exits(first, at=["block_1", "conv_2"])
    x = rng.normal(size=(3, 8, 8, 1)).astype("float32")
    assert moved.exits == 3
    np.testing.assert_allclose(
        moved.predict(x, verbose=0)[-1], first.predict(x, verbose=0)[-1], atol=1e-6
    )


def image_network(*layers, **how):
    return keras.Sequential([keras.Input((16, 16, 3)), *layers], **how)


def convolution(channels, strides=1, **how):
    return keras.layers.Conv2D(channels, 3, strides, "same", activation="relu", **how)


@pytest.mark.parametrize(
    ("ends", "arguments", "message"),
    [
        # an answer for every place
        ([keras.layers.Conv2D(3, 1)], {"classes": 3}, "SegmentationCascade"),
        ([keras.layers.Conv2D(3, 1, activation="softmax")], {"classes": 5}, "SegmentationCascade"),
        ([keras.layers.Conv2D(1, 1, activation="sigmoid")], {"classes": 2}, "SegmentationCascade"),
        ([keras.layers.Conv2D(21, 1)], {"classes": 10}, "SegmentationCascade"),
        ([keras.layers.Conv2D(3, 1), keras.layers.Softmax()], {}, "`classes` must be an integer"),
        # features, with the way out
        ([keras.layers.GlobalAveragePooling2D()], {}, "without its pooling .`pooling=None`"),
        ([keras.layers.GlobalMaxPooling2D()], {"classes": 8}, "without its pooling"),
        ([keras.layers.GlobalAveragePooling2D()], {"classes": 5}, "`pooling=None`.*new last exit"),
        (
            [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4, activation="relu")],
            {},
            r"Features are no answer: put keras.layers.Dense\(classes\)",
        ),
    ],
)
def test_refuses_what_answers_for_places_or_not_at_all(ends, arguments, message):
    network = image_network(convolution(8, name="early"), *ends)
    with pytest.raises(ValueError, match=message):
        ka.add_exits(network, at=["early"], **arguments)


@pytest.mark.slow
def test_pooled_features_of_an_application_are_refused():
    network = keras.applications.MobileNetV3Small(
        input_shape=(32, 32, 3), weights=None, include_top=False, pooling="avg"
    )
    with pytest.raises(ValueError, match="without its pooling"):
        ka.add_exits(network, at=["expanded_conv_2_add"])


def test_exits_far_from_the_share_asked_for_are_refused_with_the_places():
    # 27 x 4, 36 x 4, 36 x 64 and 640 multiply-accumulates: shares of 4, 8, 80 and 100 %
    network = image_network(
        convolution(4, 16, name="one"),
        convolution(4, name="two"),
        convolution(64, name="three"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(10),
    )
    shares = {"one": 108 / 3196, "two": 252 / 3196, "three": 2556 / 3196}
    told = str({name: round(share, 3) for name, share in shares.items()})
    with pytest.raises(ValueError, match=f"at most 10%.*Received: at=2; places at.*{told}"):
        ka.add_exits(network, at=2)
    with pytest.raises(ValueError, match="at most 10%"):
        ka.add_exits(network, at=[0.08, 0.69])
    model = ka.add_exits(network, at=[0.08, 0.71])
    places = [model.get_layer(f"exit_{k}").input._keras_history.operation.name for k in range(2)]
    assert places == ["two", "three"]


def test_a_layer_of_unknown_cost_is_named_where_shares_are_asked_for():
    class Own(keras.layers.Layer):
        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1],), name="w")

        def call(self, x):
            return x * float(self.w.numpy()[0]) if hasattr(x, "numpy") else unknown(x)

    def unknown(x):
        raise NotImplementedError("no symbols")

    class Shown(Own):
        def compute_output_shape(self, shape):
            return shape

    layers = keras.layers
    network = image_network(
        convolution(8, name="early"),
        Shown(name="mine"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10),
    )
    with pytest.raises(ValueError, match="`at` must be names of layers.*'mine'"):
        ka.add_exits(network, at=2)


@pytest.mark.parametrize("activation", [pytest.param(None, marks=pytest.mark.slow), "softmax"])
def test_training_either_network_trains_both(rng, activation):
    x, y = rng.normal(size=(16, 8, 8, 1)).astype("float32"), rng.integers(0, 10, 16)
    network = backbone(10, activation)
    model = ka.add_exits(network, at=["block_0"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=activation is None)
    for trained in (model, network):
        before = network.predict(x, verbose=0)
        if trained is model:
            model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
        else:
            network.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
        trained.fit(x, y, verbose=0)
        after = network.predict(x, verbose=0)
        last = model.predict(x, verbose=0)[-1]
        found = last if activation is None else ka.policy.softmax(last)
        np.testing.assert_allclose(found, after, atol=1e-5)
        assert np.abs(after - before).max() > 1e-3
    kernels = [some.get_layer("answer").kernel for some in (model, network)]
    assert kernels[0] is kernels[1]


@pytest.mark.parametrize("switch", ["plain", "adaptive"])
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_a_frozen_network_thaws_by_the_switch_of_keras(switch, activation):
    image = keras.Input((8, 8, 1))
    x = keras.layers.GlobalAveragePooling2D()(backbone()(image))
    plain = keras.Model(image, keras.layers.Dense(10, activation, name="answer")(x))
    trunk = {id(v) for v in plain.trainable_variables}
    model = ka.add_exits(plain, at=["block_0"], trainable=False)
    heads = {id(v) for v in model.get_layer("exit_0").trainable_variables}
    assert {id(v) for v in model.trainable_variables} == heads
    assert not plain.trainable_variables
    (plain if switch == "plain" else model).trainable = True
    assert {id(v) for v in model.trainable_variables} == heads | trunk


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_one_number_is_the_logit_of_yes(rng, activation):
    network = backbone(1, activation)
    if activation is None:
        with pytest.raises(ValueError, match="a regression's, unless `classes=2`"):
            ka.add_exits(network, at=["block_0"])
    model = ka.add_exits(network, at=["block_0"], classes=None if activation else 2)
    x, y = rng.normal(size=(6, 8, 8, 1)).astype("float32"), rng.integers(0, 2, 6)
    logits = model.predict(x, verbose=0)
    assert [z.shape for z in logits] == [(6, 2)] * 2
    answer = network.predict(x, verbose=0)[:, 0]
    yes = answer if activation else 1 / (1 + np.exp(-answer))
    np.testing.assert_allclose(ka.policy.softmax(logits[-1])[:, 1], yes, atol=1e-6)
    assert not logits[-1][:, 0].any()
    model.compile("sgd", run_eagerly=True)
    accuracy = model.evaluate(x, y, verbose=0, return_dict=True)["last_accuracy"]
    assert accuracy == pytest.approx(((yes > 0.5) == y).mean())


def test_channels_first_are_refused_wherever_they_are():
    first = {"data_format": "channels_first"}
    image = keras.Input((3, 8, 8))
    x = keras.layers.Conv2D(4, 1, name="early", **first)(image)
    network = keras.Model(
        image, keras.layers.Dense(10)(keras.layers.GlobalMaxPooling2D(**first)(x))
    )
    message = "data_format='channels_last'.*Received: layer 'early'"
    for build in (
        lambda: ka.add_exits(network, at=["early"]),
        lambda: ka.build_cascade([network]),
        lambda: ka.build_self_cascade(network, [8, 16]),
        lambda: ka.models.clip_cascade.build_clip_cascade(network, 2),
        lambda: ka.AdaptiveModel(image, [ka.layers.EarlyExit(10)(x), network.outputs[0]]),
        lambda: ka.models.deeplabv3.build_deeplabv3(keras.Model(image, x), 5),
        lambda: ka.models.segmentation_cascade.SegmentationCascade([keras.Model(image, x)]),
    ):
        with pytest.raises(ValueError, match=message):
            build()


def test_channels_first_as_a_setting_are_refused_by_every_builder():
    builders = [
        ka.build_msdnet,
        ka.build_resnet,
        ka.build_densenet,
        ka.build_efficientnet,
        ka.models.x3d.build_x3d,
        lambda: ka.models.deeplabv3.build_deeplabv3(network, 5),
        lambda: ka.build_cascade([network]),
        lambda: ka.build_self_cascade(network, [8, 16]),
        lambda: ka.models.clip_cascade.build_clip_cascade(network, 2),
        lambda: ka.models.depth_ensemble.build_depth_ensemble(ka.build_resnet, (8, 14)),
        lambda: ka.models.segmentation_cascade.SegmentationCascade([network]),
        lambda: ka.add_exits(network, at=2),
    ]
    network = backbone(10)
    keras.config.set_image_data_format("channels_first")
    try:
        for build in builders:
            with pytest.raises(ValueError, match="must be 'channels_last'.*'channels_first'"):
                build()
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize("by_name", [pytest.param(False, marks=pytest.mark.slow), True])
def test_several_inputs_stay_as_they_are(by_name, tmp_path):
    image, facts = keras.Input((8, 8, 1), name="image"), keras.Input((3,), name="facts")
    x = keras.layers.Conv2D(4, 3, activation="relu", name="early")(image)
    x = keras.layers.Conv2D(4, 3, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Concatenate()([x, keras.layers.Dense(4)(facts)])
    inputs = {"image": image, "facts": facts} if by_name else [image, facts]
    plain = keras.Model(inputs, keras.layers.Dense(5)(x))
    model = ka.add_exits(plain, at=["early"])
    rng = np.random.default_rng(0)
    pixels, numbers = rng.normal(size=(4, 8, 8, 1)), rng.normal(size=(4, 3))
    data = {"image": pixels, "facts": numbers} if by_name else [pixels, numbers]
    logits = model.predict(data, verbose=0)
    np.testing.assert_allclose(logits[-1], plain.predict(data, verbose=0), atol=1e-6)
    first = 36 * 9 * 4 + 4 * 5
    assert model.exit_costs().tolist() == [first, first + 16 * 36 * 4 + 3 * 4 + 8 * 5]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(data, verbose=0)[0], logits[0], atol=1e-6)
    policy = ka.ExitPolicy([0.5, 0])
    ka.export_tflite(model, tmp_path / "model.tflite", policy)
    with AnytimeModel(tmp_path / "model.tflite") as device:
        one = device.classify({"image": pixels[0], "facts": numbers[0]}, thresholds=[np.inf, 0])
    assert one.label == logits[-1][0].argmax()


class Encoder(keras.layers.Layer):
    """Blocks in one layer, as encoders of transformers have them."""

    def __init__(self, twice=False, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [keras.layers.Dense(6, activation="tanh", name=f"block_{i}") for i in "012"]
        self.twice = twice

    def build(self, shape):
        for block in self.blocks:
            block.build((*shape[:-1], 6))

    def call(self, x, training=None):
        for block in self.blocks:
            x = x + block(x)
        return 2 * self.blocks[0](x) if self.twice and training else x


def encoded(**how):
    tokens = keras.Input((5, 6))
    x = Encoder(name="encoder", **how)(tokens)
    return keras.Model(tokens, keras.layers.Dense(3, name="answer")(x[:, 0]))


def test_a_layer_made_of_layers_is_opened_where_exits_must_stand_inside(rng):
    plain = encoded()
    model = ka.add_exits(plain, at=3)
    x = rng.normal(size=(4, 5, 6)).astype("float32")
    logits = model.predict(x, verbose=0)
    np.testing.assert_allclose(logits[-1], plain.predict(x, verbose=0), atol=1e-6)
    block = 5 * 6 * 6
    head = 6 * 3
    assert model.exit_costs().tolist() == [block + head, 2 * (block + head), 3 * (block + head)]
    kernel, bias = plain.get_layer("encoder").blocks[0].get_weights()
    features = x + np.tanh(x @ kernel + bias)
    kernel, bias = model.get_layer("exit_0").logits.get_weights()
    expected = features[:, 0] @ kernel + bias  # the class token, as the model itself
    np.testing.assert_allclose(logits[0], expected, rtol=1e-4, atol=1e-5)


@keras.saving.register_keras_serializable("tests")
class Block(keras.layers.Layer):
    """Features, and scores that are `None` unless they are asked for."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(6, activation="tanh")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, features, mask_of_steps=None, scored=False):
        return features + self.dense(features), self.dense(features) if scored else None


class ScoredEncoder(Encoder):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [Block(name=f"block_{i}") for i in range(3)]

    def call(self, x):
        for block in self.blocks:
            x, _ = block(x, scored=False)
        return x, keras.ops.empty((0, x.shape[1]))


def test_blocks_that_give_none_beside_features_are_opened_and_saved(rng, tmp_path):
    tokens = keras.Input((5, 6))
    x, _ = ScoredEncoder(name="encoder")(tokens)
    plain = keras.Model(tokens, keras.layers.Dense(3, name="answer")(x[:, -1]))
    model = ka.add_exits(plain, at=3)
    x = rng.normal(size=(4, 5, 6)).astype("float32")
    logits = model.predict(x, verbose=0)
    np.testing.assert_allclose(logits[-1], plain.predict(x, verbose=0), atol=1e-6)
    assert model.exit_costs().tolist() == [180 + 18, 2 * (180 + 18), 3 * (180 + 18)]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras").predict(x, verbose=0)
    np.testing.assert_allclose(again, logits, atol=1e-6)


def test_a_class_token_that_has_seen_nothing_is_not_what_a_head_reads(rng):
    class Token(keras.layers.Layer):
        def build(self, shape):
            self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")

        def call(self, x):
            return keras.ops.concatenate([x[:, :1] * 0 + self.token, x], axis=1)

    patches = keras.Input((4, 6))
    x = early = Token(name="early")(patches)
    x = keras.layers.Add(name="late")([x, keras.layers.MultiHeadAttention(2, 3)(x, x)])
    x = keras.layers.Dense(6, name="later")(x)
    plain = keras.Model(patches, keras.layers.Dense(3)(x[:, 0]))
    model = ka.add_exits(plain, at=["early", "late"])
    assert [model.get_layer(f"exit_{k}").pooling for k in range(2)] == ["mean", "first"]
    x = rng.normal(size=(2, 4, 6)).astype("float32")
    features = np.asarray(keras.Model(patches, early)(x)).mean(axis=1)
    kernel, bias = model.get_layer("exit_0").logits.get_weights()
    np.testing.assert_allclose(model(x)[0], features @ kernel + bias, atol=1e-5)


def test_shares_are_known_where_sizes_are_open():
    def network(size):
        image = keras.Input((size, size, 1))
        x = keras.layers.Conv2D(8, 3, name="early")(image)
        x = keras.layers.Conv2D(8, 3, strides=2, name="late")(x)
        x = keras.layers.Conv2D(16, 3)(x)
        return keras.Model(image, keras.layers.Dense(5)(keras.layers.GlobalMaxPooling2D()(x)))

    models = [ka.add_exits(network(size), at=[0.4]) for size in (None, 224)]
    places = [model.get_layer("exit_0").input._keras_history.operation.name for model in models]
    assert places == ["late", "late"]
    costs = models[0].exit_costs(input_shape=(224, 224, 1))
    assert costs.tolist() == models[1].exit_costs().tolist()


def summed(x, mask):
    """A mean of the steps that count, by hand."""
    weights = keras.ops.cast(mask, "float32")[:, :, None]
    return keras.ops.sum(x * weights, axis=1) / keras.ops.sum(weights, axis=1)


POOLS = {
    "mean": keras.layers.GlobalAveragePooling1D(),
    "last": keras.layers.SimpleRNN(4),
    "by hand": summed,
}


@pytest.mark.parametrize("pooling", POOLS)
def test_a_mask_given_by_hand_reaches_the_heads(pooling, rng):
    series, kept = keras.Input((6, 3)), keras.Input((6,), dtype="bool")
    x = early = keras.layers.Conv1D(4, 3, padding="same", name="early")(series)
    x = keras.layers.Dense(4, activation="tanh")(x)
    x = POOLS[pooling](x, mask=kept)
    plain = keras.Model([series, kept], keras.layers.Dense(3)(x))
    model = ka.add_exits(plain, at=["early"])
    x = rng.normal(size=(2, 6, 3)).astype("float32")
    mask = np.arange(6)[None] < [[2], [5]]
    features = np.asarray(keras.Model(series, early)(x))
    kept = [features[i, mask[i]] for i in range(2)]
    wanted = [steps[-1] if pooling == "last" else steps.mean(axis=0) for steps in kept]
    kernel, bias = model.get_layer("exit_0").logits.get_weights()
    found = model([x, mask])
    np.testing.assert_allclose(found[0], np.stack(wanted) @ kernel + bias, atol=1e-5)
    np.testing.assert_allclose(found[1], plain([x, mask]), atol=1e-5)


def test_a_place_with_other_steps_than_the_mask_is_refused():
    series, kept = keras.Input((6, 3)), keras.Input((6,), dtype="bool")
    x = keras.layers.Conv1D(4, 3, padding="same", name="early")(series)
    x = keras.layers.Conv1D(4, 3, 2, "same", name="half")(x)
    x = keras.layers.UpSampling1D(name="whole")(x)
    x = keras.layers.GlobalAveragePooling1D()(x, mask=kept)
    plain = keras.Model([series, kept], keras.layers.Dense(3)(x))
    with pytest.raises(ValueError, match="whose steps the mask fits.*'half' of shape"):
        ka.add_exits(plain, at=["early", "half"])
    assert ka.add_exits(plain, at=["early", "whole"]).num_exits == 3


@pytest.mark.parametrize(
    "ending",
    [
        lambda: keras.layers.LSTM(5, return_sequences=True),
        lambda: keras.layers.Bidirectional(keras.layers.GRU(5, return_sequences=True)),
        lambda: keras.layers.BatchNormalization(),
    ],
)
def test_features_may_be_as_wide_as_there_are_classes(ending):
    series = keras.Input((6, 3))
    x = keras.layers.Conv1D(5, 3, padding="same", name="early")(series)
    x = ending()(x)
    model = ka.add_exits(keras.Model(series, x), at=["early"], classes=x.shape[-1])
    assert [tuple(z.shape) for z in model.outputs] == [(None, x.shape[-1])] * 2


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_heads_of_half_precision_networks_give_float32(policy, rng):
    keras.config.set_dtype_policy(policy)
    try:
        plain = backbone(10)
        model = ka.add_exits(plain, at=3)
        cascade = ka.build_cascade([plain, backbone(10)])
    finally:
        keras.config.set_dtype_policy("float32")
    loaded = ka.add_exits(plain, at=3)  # while Keras's policy is another one
    x = rng.normal(size=(3, 8, 8, 1)).astype("float32")
    expected = keras.ops.cast(plain(x), "float32")
    for found in (model, cascade, loaded):
        assert {z.dtype for z in found.outputs} == {"float32"}
        logits = found(x)
        assert {keras.backend.standardize_dtype(z.dtype) for z in logits} == {"float32"}
        if found is not cascade:
            np.testing.assert_allclose(logits[-1], expected, atol=1e-6)
    full = ka.costs.exit_costs(plain.inputs, plain.outputs)[0]
    assert model.exit_costs()[-1] == full + 2 * 4 * 10
    model.compile("sgd", run_eagerly=True)
    model.fit(x, np.zeros(3, "int64"), verbose=0)
    assert np.isfinite(model(x)[-1]).all()


def test_a_layer_that_does_other_things_in_training_stays_closed():
    with pytest.raises(ValueError, match="no more exits than there are places"):
        ka.add_exits(encoded(twice=True), at=3)


@pytest.mark.parametrize(
    ("ending", "pooling"),
    [
        (keras.layers.GlobalMaxPooling1D, "max"),
        (keras.layers.GlobalAveragePooling1D, "mean"),
        (lambda: keras.layers.LSTM(4), "last"),
        (lambda: keras.layers.Lambda(lambda x: x[:, -1]), "mean"),
        (lambda: lambda x: x[:, -1, :], "last"),
    ],
)
def test_new_heads_pool_as_the_model_does(ending, pooling):
    series = keras.Input((6, 3))
    x = keras.layers.Conv1D(4, 3, name="early")(series)
    plain = keras.Model(series, keras.layers.Dense(3)(ending()(x)))
    assert ka.add_exits(plain, at=["early"]).get_layer("exit_0").pooling == pooling


def seen_in_batches():
    """A Sequential model without an input: Keras fixes the size of the first batch it sees."""
    model = keras.Sequential(
        [
            keras.layers.Conv2D(4, 3, name="early"),
            keras.layers.Conv2D(6, 3),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ]
    )
    model(np.zeros((7, 8, 8, 1), "float32"))
    return model


def fixed_batches():
    image = keras.Input(batch_shape=(7, 8, 8, 1), name="image")
    x = keras.layers.Conv2D(4, 3, name="early")(image)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(6, 3)(x))
    return keras.Model({"image": image}, keras.layers.Dense(3)(x))


@pytest.mark.parametrize("make", [seen_in_batches, fixed_batches])
def test_a_batch_size_that_the_model_fixes_is_dropped(make, rng, tmp_path):
    plain = make()
    x = rng.normal(size=(7, 8, 8, 1)).astype("float32")
    for at in (["early"], [0.3]):
        model = ka.add_exits(plain, at=at)
        assert model.inputs[0].shape == (None, 8, 8, 1)
        assert model.exit_costs().tolist() == [36 * 36 + 12, 36 * 36 + 12 + 16 * 216 + 18]
        expected = np.asarray(plain(x if make is seen_in_batches else {"image": x}))
        np.testing.assert_allclose(model(x)[-1], expected, atol=1e-6)
        np.testing.assert_allclose(model(x[:2])[-1], expected[:2], atol=1e-6)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(x)[-1], expected, atol=1e-6)
    policy = ka.ExitPolicy([0.5, 0])
    found = ka.AdaptivePredictor(again, policy, engine="keras").predict(x[:5], 2, verbose=0)
    assert set(found.costs) <= set(model.exit_costs())


@pytest.mark.parametrize(
    "layers",
    [
        [keras.layers.LSTM(4, stateful=True)],
        [keras.layers.Lambda(lambda x: keras.ops.reshape(x, (2, 12)))],
    ],
)
def test_a_network_for_batches_of_one_size_is_refused(layers):
    series = keras.Input(batch_shape=(2, 4, 3))
    x = y = keras.layers.Dense(3, name="early")(series)
    for layer in layers:
        y = layer(y)
    plain = keras.Model(series, keras.layers.Dense(2)(y))
    with pytest.raises(ValueError, match="batches of any size.*Received: inputs of shape"):
        ka.add_exits(plain, at=["early"])
    first = keras.layers.Dense(2)(keras.layers.Flatten()(x))
    with pytest.raises(ValueError, match="batches of any size"):
        ka.AdaptiveModel(series, [first, plain.output])
