"""Small plain classifiers for tests of cascades."""

import keras


def classifier(channels, shape=(8, 8, 1), classes=10, **dense):
    """A convolution, batch normalisation, a mean and a dense layer: takes any size."""
    x = keras.Input(shape)
    features = keras.layers.Conv2D(channels, 3)(x)
    features = keras.layers.ReLU()(keras.layers.BatchNormalization()(features))
    features = keras.layers.GlobalAveragePooling2D()(features)
    return keras.Model(x, keras.layers.Dense(classes, **dense)(features), name="classifier")


def flat(shape=(8, 8, 1), classes=10):
    """A dense layer on the pixels: takes one size only, and scales its pixels itself."""
    layers = keras.layers
    return keras.Sequential(
        [keras.Input(shape), layers.Rescaling(2.0), layers.Flatten(), layers.Dense(classes)]
    )
