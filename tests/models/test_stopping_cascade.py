import numpy as np
import pytest

import keras_adaptive as ka
from keras_adaptive.models.stopping_cascade import PRESETS


def test_every_classifier_answers_alone_and_policies_read_its_probabilities(rng):
    model = ka.build_stopping_cascade(
        (8, 8, 1), 4, depths=(8, 8), widths=(0.25, 0.5), units=3, cost_weight=0.5, top_k=2
    )
    x = rng.normal(size=(2, 8, 8, 1)).astype("float32")
    members = [layer for layer in model.layers if layer.name.startswith("member_")]
    for answer, member in zip(model(x), members, strict=True):
        np.testing.assert_allclose(answer, member(x), atol=1e-6)
    loss = model.stopping_loss
    assert (loss.cost_weight, loss.top_k, loss.charge) == (0.5, 2, "before")
    # 4 to 3, 3 to 3, 3 to 2
    assert (model.stopping_costs() - model.exit_costs())[0] == 12 + 9 + 6


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_published_cascades_cost_what_table_2_says(preset):
    """Relative to the last classifier, each alone and without its dense layer."""
    printed = {"imagenet32": [6.27, 14.09, 25.03, 56.27, 100]}
    model = ka.build_stopping_cascade(preset=preset)
    dense = [x.logits.weights[0].shape for x in model._flatten_layers() if hasattr(x, "logits")]
    own = np.diff(model.exit_costs(), prepend=0) - [a * b for a, b in dense]
    expected = printed.get(preset, [5.82, 16.90, 27.98, 50.14, 100])
    np.testing.assert_allclose(100 * own / own[-1], expected, atol=0.02)
    arguments = PRESETS[preset]
    assert model.stopping_loss.cost_weight == arguments["cost_weight"]
    assert model.stopping_loss.top_k == arguments.get("top_k", 1)
    assert {policy.units for policy in model.stopping} == {arguments["units"]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"depths": (8, 14)},
        {"depths": ()},
        {"depths": (8, 9), "widths": (1, 1)},
        {"preset": "svhn"},
        {"units": 0},
        {"normalize": "mean", "depths": (8,), "widths": (1,)},
    ],
)
def test_refuses_impossible_arguments(wrong):
    with pytest.raises(ValueError, match="Received: "):
        ka.build_stopping_cascade((8, 8, 1), 4, **wrong)
