import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_adaptive as ka
from keras_adaptive import _graph as graph


def gradients(model, x, y):
    variables = [v.value for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        losses = [
            tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, z))
            for z in model(x, training=False)
        ]
        loss = tf.add_n(losses)
    found = tape.gradient(loss, variables)
    return {v.path: np.array(g) for v, g in zip(model.trainable_variables, found, strict=True)}


@pytest.mark.slow
def test_equals_the_one_built_into_msdnet(rng):
    arguments = {"input_shape": (8, 8, 1), "blocks": 4, "channels": 4, "growth_rate": 2}
    plain = ka.build_msdnet(**arguments, head_channels=4)
    built = ka.build_msdnet(**arguments, head_channels=4, gradient_equilibrium="all")
    built.set_weights(plain.get_weights())
    x, y = rng.normal(size=(4, 8, 8, 1)).astype("float32"), rng.integers(0, 10, 4)
    balanced = ka.training.add_gradient_equilibrium(plain)
    for a, b in zip(balanced(x), plain(x), strict=True):
        np.testing.assert_array_equal(a, b)
    found, expected = gradients(balanced, x, y), gradients(built, x, y)
    needed = {
        node.operation.name
        for stage in graph.split(plain.inputs, plain.outputs)
        for node in stage.nodes
        if stage.logits is plain.outputs[0] or "scale_2" in node.operation.name
    }
    compared = [path for path in expected if path.split("/")[0] in needed | {"exit_1", "exit_3"}]
    assert len(compared) > 20
    for path in compared:
        np.testing.assert_allclose(found[path], expected[path], atol=1e-6, err_msg=path)


def test_an_early_layer_gets_the_mean_over_the_exits(rng):
    image = keras.Input((4,))
    x = keras.layers.Dense(5, name="stem")(image)
    outputs = [keras.layers.Dense(3, name=f"exit_{k}")(x) for k in range(3)]
    model = ka.AdaptiveModel(image, outputs)
    x, y = rng.normal(size=(6, 4)).astype("float32"), rng.integers(0, 3, 6)
    plain = gradients(model, x, y)
    balanced = gradients(ka.training.add_gradient_equilibrium(model), x, y)
    np.testing.assert_allclose(balanced["stem/kernel"], plain["stem/kernel"] / 3, atol=1e-6)
    np.testing.assert_allclose(balanced["exit_1/kernel"], plain["exit_1/kernel"], atol=1e-6)


def test_refuses_exits_that_read_one_another():
    model = ka.build_msdnet((8, 8, 1), blocks=2, channels=4, growth_rate=2, collaboration="dense")
    with pytest.raises(ValueError, match="may be read by a later one"):
        ka.training.add_gradient_equilibrium(model)
