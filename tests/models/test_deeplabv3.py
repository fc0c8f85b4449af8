import keras
import numpy as np
import pytest
from tiny import classifier

from keras_adaptive import costs
from keras_adaptive.models import build_deeplabv3
from keras_adaptive.models.deeplabv3 import UpsampleLike


def backbone():
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, 2, padding="same", name="half")(image)
    return keras.Model(image, keras.layers.Conv2D(6, 3, 2, padding="same", name="quarter")(x))


def test_gives_a_logit_for_every_pixel_of_images_of_any_size(rng):
    model = build_deeplabv3(backbone(), 5, channels=4, rates=(1, 2))
    for size in ((8, 12), (11, 9)):
        logits = model(rng.normal(size=(2, *size, 3)).astype("float32"))
        assert logits.shape == (2, *size, 5)


def test_enlarges_as_a_resize_does(rng):
    x = rng.normal(size=(2, 3, 4, 5)).astype("float32")
    like = np.zeros((2, 12, 16, 1))
    expected = keras.ops.image.resize(x, (12, 16))
    np.testing.assert_allclose(UpsampleLike(4)(x, like), expected, atol=1e-6)
    cropped = UpsampleLike(4)(x, like[:, :10, :13])
    np.testing.assert_allclose(cropped, expected[:, :10, :13], atol=1e-6)


def test_predicts_images_of_changing_size_in_one_compiled_function(rng):
    model = build_deeplabv3(backbone(), 5, channels=4, rates=(1,))
    for size in ((8, 12), (11, 9), (16, 4)):
        image = rng.normal(size=(1, *size, 3)).astype("float32")
        np.testing.assert_allclose(model.predict_on_batch(image), model(image), atol=1e-5)


def test_costs_as_counted_by_hand():
    model = build_deeplabv3(backbone(), 5, channels=4, rates=(1, 2))
    image = keras.Input((8, 12, 3))
    quarter = 2 * 3
    body = 4 * 6 * 27 * 4 + quarter * 36 * 6
    pyramid = quarter * (6 * 4 + 2 * 54 * 4)
    join = quarter * 3 * 16 + 6 * 4 + quarter * 4 * 5
    assert costs.exit_costs([image], [model(image)])[0] == body + pyramid + join


@pytest.mark.slow
def test_is_trained_and_restored(rng, tmp_path):
    model = build_deeplabv3(backbone(), 3, features="half", channels=4, rates=(2,))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    model.compile("adam", loss, run_eagerly=True)
    images = rng.normal(size=(4, 8, 8, 3)).astype("float32")
    labels = rng.integers(-1, 3, (4, 8, 8))
    losses = model.fit(images, labels, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(images), model(images))


def test_takes_a_backbone_of_keras_applications():
    network = keras.applications.MobileNetV2((64, 64, 3), 0.35, include_top=False, weights=None)
    model = build_deeplabv3(network, 4, features="block_13_expand_relu", channels=8)
    assert model.outputs[0].shape == (None, 64, 64, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 1}, "Received: classes=1"),
        ({"channels": 0}, "Received: channels=0"),
        ({"rates": (1, 0)}, r"Received: rates\[1\]=0"),
        ({"features": "eighth"}, "Received: features=eighth"),
        ({"backbone": None}, "Received: backbone=None"),
        (
            {"backbone": classifier(4)},
            r"`backbone` must end in a feature map, or give `features=`.* shape \(None, 10\)",
        ),
        (
            {"backbone": classifier(4, name="answer"), "features": "answer"},
            r"`features` must .* gives a feature map.* Received: answer of shape \(None, 10\)",
        ),
    ],
)
def test_rejects_impossible_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_deeplabv3(**{"backbone": backbone(), "classes": 3, **arguments})
