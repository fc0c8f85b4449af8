import keras
import numpy as np
import pytest

import keras_adaptive as ka

SMALL = {"input_shape": (8, 8, 1), "classes": 10}


def backbones(goldens, builder):
    rows = goldens["backbones"]
    return {name: row for name, row in rows.items() if row["builder"] == builder}


def equals_the_reference(build, row):
    model = build(**row["arguments"])
    assert model.exit_costs()[-1] == row["macs"]
    assert model.exit_costs("params")[-1] == row["params"]


SHALLOW = ("skipnet_base_resnet38_c10", "seed000_000_resnet8_nc10")  # post and pre


@pytest.mark.parametrize("name", SHALLOW)
def test_equals_the_reference_implementations_to_the_unit(goldens, name):
    equals_the_reference(ka.build_resnet, backbones(goldens, "resnet")[name])


@pytest.mark.slow
def test_deep_ones_equal_the_reference_implementations_too(goldens):
    for name, row in backbones(goldens, "resnet").items():
        if name not in SHALLOW:
            equals_the_reference(ka.build_resnet, row)


@pytest.mark.slow
def test_imagenet_networks_have_their_published_size():
    # torchvision's parameters, and multiply-accumulates at 224 pixels
    for depth, params, macs in ((18, 11_689_512, 1.814e9), (50, 25_557_032, 4.089e9)):
        model = ka.build_resnet(preset=f"imagenet_{depth}")
        assert model.exit_costs("params")[-1] == params
        assert model.exit_costs()[-1] == pytest.approx(macs, rel=1e-3)


def test_resnet_with_several_classifiers_is_that_of_msdnets_paper():
    model = ka.build_resnet(preset="resnet_mc")
    assert model.exits == 7
    assert 2 * model.exit_costs()[-1] == pytest.approx(3e8, rel=0.05)


def test_pooled_exits_classify_maps_of_the_last_stages_size():
    model = ka.build_resnet(**SMALL, depth=14, width=0.25, exits=(0.5,), pooled_exits=True)
    heads = [model.get_layer(f"exit_{k}") for k in range(4)]
    assert [head.input.shape[1:3] for head in heads] == [(2, 2)] * 4
    assert [head.strides for head in heads[:-1]] == [1, 1, 1]
    # of the first stage: two poolings, two 3x3 convolutions on 2x2 places, from 4 to 16 channels
    convolutions = 9 * (4 * 16 + 16 * 16) * 4
    stem, block = 9 * 64 * 4, 2 * 9 * 4 * 4 * 64
    assert model.exit_costs()[0] == stem + block + convolutions + 16 * 10


def forward(model, style):
    """The first stage's blocks, computed with numpy from the layers' weights."""

    def norm(x, name):
        gamma, beta, mean, variance = model.get_layer(name).get_weights()
        return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    def conv(x, name):
        (kernel,) = model.get_layer(name).get_weights()
        size = len(kernel)
        p = size // 2
        padded = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
        return np.einsum("nhwcij,ijco->nhwo", windows, kernel)

    def relu(x):
        return np.maximum(x, 0)

    def block(x, name):
        if style == "post":
            y = relu(norm(conv(x, f"{name}_0_conv"), f"{name}_0_norm"))
            return relu(x + norm(conv(y, f"{name}_1_conv"), f"{name}_1_norm"))
        y = conv(relu(norm(x, f"{name}_0_norm")), f"{name}_0_conv")
        return x + conv(relu(norm(y, f"{name}_1_norm")), f"{name}_1_conv")

    return block


@pytest.mark.parametrize("style", ["post", "pre"])
def test_a_block_is_its_formula(rng, style):
    model = ka.build_resnet(**SMALL, depth=8, style=style, width=0.25)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    name = "stage_0_block_0"
    before = model.get_layer("stem_relu" if style == "post" else "stem_conv").output
    inner = keras.Model(model.inputs, [before, model.get_layer(name).output])
    x, expected = inner.predict(rng.normal(size=(2, 8, 8, 1)).astype("float32"), verbose=0)
    found = forward(model, style)(x, name)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"depth": 39},
        {"depth": 40, "style": "post"},
        {"depth": 6},
        {"style": "middle"},
        {"width": 0},
        {"stem": "imagenet", "depth": 38},
        {"stem": "imagenet", "depth": 18, "style": "pre"},
        {"exits": 100},
        {"head_channels": 0},
        {"gates": "layers"},
        {"classes": 1},
        {"preset": "resnet_99"},
    ],
)
def test_refuses_impossible_arguments(wrong):
    with pytest.raises(ValueError, match="Received: "):
        ka.build_resnet(**wrong)


def test_says_that_an_image_is_too_small_for_pooled_exits():
    with pytest.raises(ValueError, match="`input_shape` must .* Received: features of 1 x 1"):
        ka.build_resnet((2, 2, 1), 10, depth=8, exits=3, pooled_exits=True)


def test_loads_its_own_weights(tmp_path, rng):
    model = ka.build_resnet(**SMALL, depth=8, width=0.25, exits=2)
    model.save_weights(tmp_path / "net.weights.h5")
    again = ka.build_resnet(
        **SMALL, depth=8, width=0.25, exits=2, weights=tmp_path / "net.weights.h5"
    )
    x = rng.normal(size=(2, 8, 8, 1)).astype("float32")
    for a, b in zip(model(x), again(x), strict=True):
        np.testing.assert_array_equal(a, b)
