"""Wherever a builder takes Python's numbers, it takes numpy's, and builds the same network."""

import keras
import numpy as np
import pytest
from tiny import backbone, classifier

import keras_adaptive as ka
from keras_adaptive import models
from keras_adaptive.models.segmentation_cascade import SegmentationCascade

IMAGE = {"input_shape": (8, 8, 1), "classes": 4}
FACTORS = {"growth_factors": (1, 2), "bottleneck_factors": (1, 2)}


def added(**arguments):
    return ka.add_exits(backbone(10), **arguments)


def of_clips(**arguments):
    clip = keras.Input((2, 8, 8, 1))
    features = keras.layers.GlobalAveragePooling3D()(keras.layers.Conv3D(4, 1)(clip))
    member = keras.Model(clip, keras.layers.Dense(4)(features))
    return models.build_clip_cascade(member, **arguments)


def of_sizes(**arguments):
    return models.build_self_cascade(classifier(4), **arguments)


def of_depths(**arguments):
    return models.build_depth_ensemble(ka.build_resnet, **arguments)


def of_scales(**arguments):
    return ka.scale_cascade(build=lambda scale: classifier(int(4 + scale)), **arguments)


def dense(**arguments):
    image = keras.Input((None, None, 1))
    features = keras.layers.Conv2D(4, 3, 2, padding="same")(image)
    return models.build_deeplabv3(keras.Model(image, features), **arguments)


QUICK = (ka.build_msdnet, added, of_sizes, dense)  # the other builders are slow
BUILDERS = [
    # builder, arguments
    (
        ka.build_msdnet,
        {
            **IMAGE,
            **FACTORS,
            "blocks": 2,
            "base": 1,
            "step": 1,
            "channels": 4,
            "growth_rate": 2,
            "head_channels": 4,
            "reduction": 0.5,
        },
    ),
    (ka.build_resnet, {**IMAGE, "depth": 8, "width": 0.25, "exits": 2, "head_channels": 4}),
    (ka.build_resnet, {**IMAGE, "depth": 14, "width": 1, "exits": (2, 5), "head_channels": 4}),
    (
        ka.build_densenet,
        {
            **IMAGE,
            "depth": 16,
            "growth_rate": 2,
            "reduction": 0.5,
            "exits": (0.5,),
            "head_channels": 4,
        },
    ),
    (models.build_efficientnet, {"input_shape": (8, 8, 1), "phi": -20, "classes": 4}),
    (
        models.build_x3d,
        {"input_shape": (2, 8, 8, 1), "classes": 4, "width": 8, "blocks": (1, 1), "top": 8},
    ),
    (dense, {"classes": 4, "channels": 2, "rates": (1, 2)}),
    (added, {"at": 3, "classes": 10, "head_channels": 4}),
    (added, {"at": (0.4, 0.7)}),
    (added, {"at": ("block_0", "block_1")}),
    (of_clips, {"clips": 3}),
    (of_sizes, {"resolutions": (6, 8), "input_shape": (8, 8, 1)}),
    (of_sizes, {"resolutions": ((6, 6), (8, 10))}),
    (of_depths, {**IMAGE, "depths": (8, 14), "width": 0.25}),
    (of_scales, {"scales": (0, 1), "phi": 2}),
]


def of_numpy(value):
    """Integers, shares and names as numpy has them, alone and in arrays."""
    return np.array(value) if isinstance(value, tuple) else np.asarray(value)[()]


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        pytest.param(
            *row,
            id=f"{row[0].__name__}-{i}",
            marks=[] if row[0] in QUICK else pytest.mark.slow,
        )
        for i, row in enumerate(BUILDERS)
    ],
)
def test_numpy_arguments_build_the_same_network(build, arguments):
    given = {name: of_numpy(value) for name, value in arguments.items()}
    assert all(isinstance(value, np.generic | np.ndarray) for value in given.values())
    found = []
    for each in (arguments, given):
        keras.utils.clear_session(free_memory=False)  # layers get the same names
        found.append(build(**each).to_json())
    assert found[0] == found[1]


def test_segmentation_cascades_take_numpy_integers():
    image = keras.Input((None, None, 1))
    member = keras.Model(image, keras.layers.Conv2D(3, 1)(image))
    cascade = SegmentationCascade([member] * 2, grid=np.array([2, 4]), margin=np.int64(1))
    assert cascade.grid == (2, 4)
    assert [type(n) for n in (*cascade.grid, cascade.margin)] == [int, int, int]
    expected = SegmentationCascade([member] * 2, grid=(2, 4), margin=1).cell_costs((8, 8))
    np.testing.assert_array_equal(cascade.cell_costs((8, 8)), expected)


def test_clips_are_cut_by_numpy_integers():
    video = np.arange(6 * 5 * 7).reshape(6, 5, 7, 1)
    expected = models.cut_clips(video, 3, 4, temporal=2, spatial=2)
    numbers = {"temporal": np.int64(2), "spatial": np.uint8(2)}
    found = models.cut_clips(video, np.int32(3), np.int64(4), **numbers)
    np.testing.assert_array_equal(found, expected)
