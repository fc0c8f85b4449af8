import numpy as np
import pytest

import keras_adaptive as ka
from keras_adaptive.models import build_depth_ensemble
from keras_adaptive.policy.confidence import softmax

TINY = {"input_shape": (8, 8, 1), "classes": 4}


@pytest.mark.parametrize(
    ("build", "depths", "arguments"),
    [
        (ka.build_resnet, (8, 14), {"width": 0.25}),
        (ka.build_densenet, (10, 10), {"growth_rate": 2}),
    ],
)
def test_averages_the_predictions_of_networks_of_their_own(build, depths, arguments, rng):
    ensemble = build_depth_ensemble(build, depths, **TINY, **arguments)
    members = [layer for layer in ensemble.layers if layer.name.startswith("member_")]
    images = rng.normal(size=(3, 8, 8, 1)).astype("float32")
    own = softmax(np.stack([np.asarray(member(images)) for member in members]))
    found = softmax(np.stack(ensemble(images)))
    np.testing.assert_allclose(found[1], own.mean(0), atol=1e-6)
    alone = [build(depth=d, **TINY, **arguments).exit_costs()[0] for d in depths]
    assert ensemble.exit_costs().tolist() == np.cumsum(alone).tolist()


@pytest.mark.slow
def test_the_published_depths_of_imagenet():
    arguments = {"input_shape": (32, 32, 3), "classes": 5, "stem": "imagenet", "width": 1 / 16}
    ensemble = build_depth_ensemble(ka.build_resnet, "imagenet_resnets", **arguments)
    assert ensemble.exits == 5
    assert (np.diff(np.diff(ensemble.exit_costs())) > 0).all()  # each costs more than the last


@pytest.mark.parametrize("depths", [(), (14, 8), "cifar"])
def test_rejects_depths_that_fall(depths):
    with pytest.raises(ValueError, match="must be integers that do not fall"):
        build_depth_ensemble(ka.build_resnet, depths)


@pytest.mark.parametrize("build", ["resnet", None, 8])
def test_needs_a_function_that_builds(build):
    with pytest.raises(TypeError, match="`build` must be a function that takes `depth`"):
        build_depth_ensemble(build, (8, 14))
