"""Small plain classifiers, backbones and networks with exits."""

import keras

import keras_adaptive as ka


def classifier(channels, shape=(8, 8, 1), classes=10, **dense):
    """A convolution, batch normalization, a mean and a dense layer: takes any size."""
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


def backbone(classes=None, activation=None):
    """Three residual blocks; features without `classes`."""
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem")(image)
    for i in range(3):
        branch = keras.layers.Conv2D(4, 3, padding="same", name=f"conv_{i}")(x)
        branch = keras.layers.BatchNormalization(name=f"norm_{i}")(branch)
        x = keras.layers.ReLU(name=f"block_{i}")(keras.layers.Add(name=f"add_{i}")([x, branch]))
    if classes:
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Dropout(0.5, name="drop")(x))
        x = keras.layers.Dense(classes, activation=activation, name="answer")(x)
    return keras.Model(image, x, name="backbone")


def two_exits():
    """Convolutions with an exit early and one late, converted soon."""
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, activation="relu")(image)
    first = ka.layers.EarlyExit(10, name="exit_0")(x)
    x = keras.layers.Conv2D(32, 3, activation="relu")(keras.layers.Conv2D(16, 3)(x))
    return ka.AdaptiveModel(image, [first, ka.layers.EarlyExit(10, name="exit_1")(x)])


def three_exits():
    """Three stages of few operations; the last reads what the first has given."""
    layers, outputs = keras.layers, []
    x = image = keras.Input((8, 8, 1))
    early = None
    for k, channels in enumerate((8, 16, 24)):
        x = layers.Conv2D(channels, 3, 2 if k == 0 else 1, "same", activation="relu")(x)
        early = x if early is None else early
        x = layers.Concatenate()([x, early]) if k == 2 else x
        outputs.append(ka.layers.EarlyExit(10, name=f"exit_{k}")(x))
    return ka.AdaptiveModel(image, outputs, name="three_exits")
