import pytest
from test_resnet import backbones, equals_the_reference

import keras_adaptive as ka


def test_equals_the_reference_implementations_to_the_unit(goldens):
    for row in backbones(goldens, "densenet").values():
        equals_the_reference(ka.build_densenet, row)


@pytest.mark.slow
def test_imagenet_networks_have_their_published_size():
    # torchvision's parameters, and multiply-accumulates at 224 pixels
    model = ka.build_densenet(preset="imagenet_121")
    assert model.exit_costs("params")[-1] == 7_978_856
    assert model.exit_costs()[-1] == pytest.approx(2.834e9, rel=1e-2)


def test_densenet_with_several_classifiers_is_that_of_msdnets_paper():
    model = ka.build_densenet(preset="densenet_mc")
    assert model.exits == 7
    assert 2 * model.exit_costs()[-1] == pytest.approx(3e8, rel=0.05)


def test_a_layer_adds_its_channels_and_a_transition_keeps_a_share():
    model = ka.build_densenet((8, 8, 1), depth=16, growth_rate=2, reduction=0.5)
    shapes = [model.get_layer(f"block_0_layer_{i}").output.shape[-1] for i in range(2)]
    assert shapes == [6, 8]
    assert tuple(model.get_layer("block_1_transition").output.shape[1:]) == (4, 4, 4)


def test_growth_may_differ_from_block_to_block():
    model = ka.build_densenet((8, 8, 1), depth=16, growth_rate=(2, 4, 8))
    shapes = [model.get_layer(f"block_{b}_layer_1").output.shape[-1] for b in range(3)]
    # 4 + 2 * 2, half of it + 2 * 4, half of it + 2 * 8
    assert shapes == [8, 12, 22]


@pytest.mark.slow
def test_dense_net_star_costs_what_dense_net_does():
    star, plain = ka.build_densenet(preset="densenet_star"), ka.build_densenet()
    assert star.exit_costs()[-1] == pytest.approx(plain.exit_costs()[-1], rel=0.03)


@pytest.mark.slow
def test_ddis_network_for_imagenet_has_three_branches():
    model = ka.build_densenet(preset="ddi_imagenet_201")
    assert [layer.name for layer in model.layers if "exit_" in layer.name and "pool" in layer.name]
    sizes = [model.get_layer(f"exit_{k}").input.shape[1:3] for k in range(4)]
    assert sizes == [(7, 7)] * 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"depth": 41},
        {"depth": 4},
        {"depth": 42, "bottleneck": False},
        {"growth_rate": 0},
        {"growth_rate": (2, 4)},
        {"pooled_exits": 2},
        {"gate_kind": "soft"},
        {"gate_kind": "feedforward"},
        {"reduction": 0},
        {"reduction": 1.5},
        {"bottleneck": "no"},
        {"stem": "imagenet", "depth": 100},
        {"exits": 0},
        {"gates": "layers"},
        {"input_shape": (32, 32)},
    ],
)
def test_refuses_impossible_arguments(wrong):
    with pytest.raises(ValueError, match="Received: "):
        ka.build_densenet(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"reduction": 0.01}, "`reduction` must .* Received: reduction=0.01"),
        ({"input_shape": (3, 3, 1)}, "`input_shape` must .* Received: features of 1 x 1"),
    ],
)
def test_says_what_leaves_nothing_of_the_features(wrong, message):
    with pytest.raises(ValueError, match=message):
        ka.build_densenet(**{"input_shape": (8, 8, 1), "depth": 10, **wrong})
