"""Probabilities are never taken for logits: what a network may end in."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_adaptive as ka
from keras_adaptive.policy.confidence import softmax

L, ops = keras.layers, keras.ops
CLASSES = 5


class OwnSoftmax(L.Layer):
    def call(self, z):
        e = ops.exp(z - ops.max(z, axis=-1, keepdims=True))
        return e / ops.sum(e, axis=-1, keepdims=True)


class OwnHead(L.Layer):
    """A dense layer and a softmax in one."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], CLASSES), name="kernel")

    def call(self, x):
        return ops.softmax(ops.matmul(x, self.kernel))


class OwnScores(OwnHead):
    def call(self, x):
        return ops.matmul(x, self.kernel)


def dense(activation=None, **how):
    return L.Dense(CLASSES, activation=activation, **how)


def inside(*layers):
    """A model of its own that ends in these layers."""
    x = keras.Input((8,))
    y = x
    for layer in layers:
        y = layer(y)
    return keras.Model(x, y)


def normalized(z):
    p = ops.softplus(z)
    return p / ops.sum(p, axis=-1, keepdims=True)


def no_and_yes(x):
    p = L.Dense(1, "sigmoid")(x)
    return L.Concatenate()([1 - p, p])


def softmax_of(x):
    return dense("softmax")(x)


RIGHT = {
    # name: features to the answer, which are probabilities unless "logits" is in the name
    "logits": dense(),
    "logits, cast": lambda x: ops.cast(dense(dtype="float16")(x), "float32"),
    "logits, dropped": lambda x: L.Dropout(0.5)(dense()(x)),
    "logits, cooled": lambda x: L.Rescaling(0.5)(dense()(x)),
    "logits, mean": lambda x: L.Average()([dense()(x), dense()(x)]),
    "logits, log_softmax": lambda x: ops.log_softmax(dense()(x)),
    "logits, log of a mean": lambda x: ops.log(L.Average()([softmax_of(x), softmax_of(x)])),
    "logits, normalized": lambda x: L.BatchNormalization()(dense()(x)),
    "dense": softmax_of,
    "layer": lambda x: L.Softmax()(dense()(x)),
    "activation": lambda x: L.Activation("softmax")(dense()(x)),
    "activation object": dense(L.Softmax()),
    "activation of keras.ops": dense(ops.softmax),
    "activation of TensorFlow": dense(tf.nn.softmax),
    "keras.ops": lambda x: ops.softmax(dense()(x)),
    "Lambda": lambda x: L.Lambda(tf.nn.softmax)(dense()(x)),
    "Lambda of a softer one": lambda x: L.Lambda(lambda z: ops.softmax(z / 2))(dense()(x)),
    "own layer": lambda x: OwnSoftmax()(dense()(x)),
    "own head": OwnHead(),
    "EinsumDense": L.EinsumDense("bi,ij->bj", CLASSES, activation="softmax", bias_axes="j"),
    "identity": lambda x: L.Identity()(softmax_of(x)),
    "linear": lambda x: L.Activation("linear", dtype="float32")(softmax_of(x)),
    "Reshape": lambda x: L.Reshape((CLASSES,))(L.Softmax()(L.Reshape((1, CLASSES))(dense()(x)))),
    "Flatten": lambda x: L.Flatten()(L.Softmax()(L.Reshape((1, 1, CLASSES))(dense()(x)))),
    "another axis": lambda x: L.Flatten()(L.Softmax(axis=1)(L.Reshape((CLASSES, 1))(dense()(x)))),
    "Dropout": lambda x: L.Dropout(0.5)(softmax_of(x)),
    "cast": lambda x: ops.cast(softmax_of(x), "float64"),
    "half precision before": lambda x: L.Activation("softmax", dtype="float32")(
        dense(dtype="float16")(x)
    ),
    "half precision": lambda x: L.Activation("softmax", dtype="float16")(dense()(x)),
    "clipped": lambda x: ops.clip(softmax_of(x), 1e-7, 1),
    "smoothed": lambda x: 0.9 * softmax_of(x) + 0.1 / CLASSES,
    "mean": lambda x: L.Average()([softmax_of(x), softmax_of(x)]),
    "weighted sum": lambda x: 0.3 * softmax_of(x) + 0.7 * softmax_of(x),
    "mean over places": lambda x: L.GlobalAveragePooling1D()(softmax_of(L.Reshape((4, 2))(x))),
    "normalized sum": lambda x: normalized(dense()(x)),
    "normalized sigmoids": lambda x: (lambda p: p / ops.sum(p, -1, keepdims=True))(
        dense("sigmoid")(x)
    ),
    "no and yes": no_and_yes,
    "model inside": lambda x: inside(dense("softmax"))(x),
    "Sequential inside": lambda x: keras.Sequential([dense(), L.Softmax()])(x),
    "twice inside": lambda x: L.Identity()(inside(inside(dense(), L.Softmax()))(x)),
    "own inside": lambda x: inside(OwnHead())(x),
    "one number, sigmoid": L.Dense(1, "sigmoid"),
    "one number, sigmoid behind": lambda x: ops.sigmoid(L.Dense(1)(x)),
}

REFUSED = {
    "sigmoids": (dense("sigmoid"), "several labels"),
    "sigmoids of TensorFlow": (lambda x: tf_sigmoid(dense()(x)), "several labels"),
    "relu": (dense("relu"), "Features are no answer"),
    "percent": (lambda x: L.Rescaling(100.0)(softmax_of(x)), "Features are no answer"),
    "tanh": (dense("tanh"), "Features are no answer"),
    "pooled": (lambda x: L.GlobalMaxPooling1D()(L.Reshape((2, 4))(x)), "without its pooling"),
    "one number": (L.Dense(1), "a regression's"),
    "own scores": (OwnScores(), "Features are no answer"),
    "swish, pooled": (
        lambda x: L.GlobalAveragePooling1D()(L.Dense(3, "swish")(L.Reshape((4, 2))(x))),
        "without its pooling",
    ),
}


def tf_sigmoid(z):
    return L.Lambda(tf.math.sigmoid)(z)


def network(ending):
    keras.utils.set_random_seed(3)
    x = keras.Input((6,))
    features = L.Dense(8, "tanh", name="early")(x)
    model = keras.Model(x, ending(features))
    for layer in model._flatten_layers():  # confident, as trained ones are
        if isinstance(layer, L.Dense) and layer.name != "early":
            layer.kernel.assign(4 * layer.kernel)
    return model


def probabilities(kind, answers):
    answers = np.asarray(answers, "float64")
    if kind.startswith("logits"):
        return softmax(answers)
    return answers if answers.shape[1] > 1 else np.concatenate([1 - answers, answers], axis=1)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(16, 6)).astype("float32")


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=pytest.mark.slow if i % 3 else []) for i, k in enumerate(RIGHT)],
)
def test_the_softmax_of_the_last_exit_is_the_answer_of_before(kind, x):
    plain = network(RIGHT[kind])
    expected = probabilities(kind, plain(x))
    exact = 2e-3 if "half" in kind or "cast" in kind else 1e-5
    model = ka.add_exits(plain, at=["early"])
    np.testing.assert_allclose(softmax(np.asarray(model(x)[-1])), expected, atol=exact)
    assert model.outputs[-1].dtype in (plain.outputs[0].dtype, "float32")
    cascade = ka.build_cascade([plain])
    np.testing.assert_allclose(softmax(np.asarray(cascade(x)[0])), expected, atol=exact)
    teacher = ka.training.Distillation(plain).teacher_logits(x, None)
    np.testing.assert_allclose(softmax(np.asarray(teacher)), expected, atol=exact)
    np.testing.assert_array_equal(probabilities(kind, plain(x)), expected)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_answer_or_unclear_is_refused_with_the_way_out(kind):
    ending, message = REFUSED[kind]
    plain = network(ending)
    for build in (
        lambda: ka.add_exits(plain, at=["early"]),
        lambda: ka.build_cascade([plain]),
        lambda: ka.training.Distillation(plain),
    ):
        with pytest.raises(ValueError, match=f"{message}.*`from_logits=True`; if prob"):
            build()


def test_logarithms_are_those_of_probabilities_down_to_float32s_smallest():
    z = np.array([[0, -30, -60, -80, -300]], "float32")
    x = keras.Input((CLASSES,))
    plain = keras.Model(x, OwnHead(name="head")(x))
    plain.get_layer("head").kernel.assign(np.eye(CLASSES))
    (logits,) = ka.build_cascade([plain])(z)
    np.testing.assert_allclose(logits[0, :4], z[0, :4], atol=1e-4)
    assert float(logits[0, 4]) == pytest.approx(np.log(np.finfo("float32").tiny))


def test_the_user_says_what_it_is(x):
    plain = network(dense("tanh"))
    model = ka.add_exits(plain, at=["early"], from_logits=True)
    np.testing.assert_array_equal(model(x)[-1], plain(x))
    with pytest.raises(ValueError, match="`members` must end in.*with from_logits=False"):
        ka.build_cascade([plain], from_logits=False)
    with pytest.raises(ValueError, match="with from_logits=False"):
        ka.add_exits(network(dense()), at=["early"], from_logits=False)
    soft = network(softmax_of)
    (left,) = ka.build_cascade([soft], from_logits=True)(x)
    np.testing.assert_array_equal(left, soft(x))
    model = ka.build_cascade([soft, plain], from_logits=[False, True])
    np.testing.assert_allclose(softmax(np.asarray(model(x)[0])), soft(x), atol=1e-5)
    for wrong in ("yes", [True]):
        with pytest.raises(ValueError, match="`from_logits` must be"):
            ka.build_cascade([soft, plain], from_logits=wrong)
    share = network(lambda features: ops.clip(L.Dense(1)(features), 0, 1))
    (yes,) = ka.build_cascade([share], from_logits=False)(x)
    np.testing.assert_allclose(np.exp(yes).sum(axis=1), 1, atol=1e-5)


def test_what_cannot_be_tried_is_refused():
    class Fails(L.Layer):
        def call(self, x):
            return x if not hasattr(x, "numpy") else 1 / 0

        def compute_output_shape(self, shape):
            return shape

    plain = network(lambda x: Fails()(dense()(x)))
    with pytest.raises(ValueError, match="could not be tried on random input"):
        ka.build_cascade([plain])


def test_networks_for_few_words_are_tried_on_some():
    words = keras.Input((2,), dtype="int32")
    mean = L.GlobalAveragePooling1D()(L.Embedding(9, 4, mask_zero=True)(words))
    answer = L.Average()([L.Dense(3, activation="softmax")(mean) for _ in range(2)])
    plain, x = keras.Model(words, answer), np.array([[1, 0], [2, 3]])
    (logits,) = ka.build_cascade([plain])(x)
    np.testing.assert_allclose(np.exp(logits), plain(x), atol=1e-6)


def test_input_of_any_kind_is_drawn():
    """Tokens, pixels and open sizes: what ends the network is own, so that it is tried."""
    for shape, dtype in [((None,), "int32"), ((None, None, 3), "uint8"), ((6, 2), "float16")]:
        x = keras.Input(shape, dtype=dtype)
        if len(shape) == 1:
            features = L.GlobalAveragePooling1D()(L.Embedding(7, 8)(x))
        else:
            features = L.GlobalAveragePooling2D() if len(shape) == 3 else L.Flatten()
            features = features(ops.cast(x, "float32"))
        plain = keras.Model(x, OwnHead()(features))
        given = np.ones((3, *(n or 16 for n in shape)), dtype)
        (logits,) = ka.build_cascade([plain])(given)
        np.testing.assert_allclose(softmax(np.asarray(logits)), plain(given), atol=1e-5)


def test_a_teacher_of_a_class_of_its_own_needs_the_users_word(x):
    class Teacher(keras.Model):
        def call(self, x):
            return ops.softmax(x)

    teacher = Teacher()
    with pytest.raises(ValueError, match="`from_logits` must be True or False where `teacher`"):
        ka.training.Distillation(teacher)
    found = ka.training.Distillation(teacher, from_logits=False).teacher_logits(x, None)
    np.testing.assert_allclose(softmax(np.asarray(found)), teacher(x), atol=1e-6)
    found = ka.training.Distillation(teacher, from_logits=True).teacher_logits(x, None)
    np.testing.assert_allclose(found, teacher(x))
