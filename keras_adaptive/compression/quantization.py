"""Quantization-aware training for int8 export."""

from keras_adaptive.compression._fine_tuning import checked, fine_tune
from keras_adaptive.compression._keras2_copy import to_tf_keras
from keras_adaptive.compression._libraries import tfmot
from keras_adaptive.training.adaptive_model import check_model


def quantization_aware(
    model, train, *, epochs=1, learning_rate=0.01, batch_size=64, verbose="auto"
):
    """Trains a network with its weights and features rounded as int8 will round them.

    In a copy of the network in Keras 2 (`to_tf_keras`) tensorflow_model_optimization puts a
    rounding, whose gradient is that of the identity, behind every kernel and every feature.
    The learned weights are set in `model` unrounded: `export_tflite(..., quantize="int8")`
    rounds the kernels of convolutions to the same grid, since folding a batch normalization
    into a kernel multiplies a channel and its scale alike, and measures the ranges of
    features on `calibration_data`. In between the model is an ordinary float network:
    calibrate it, and use it on the host.

    Every exit is trained on the labels, weighted by `model.exit_weights`; distillation and
    gradient scales are not used.

    Args:
        model: An `AdaptiveModel`; `to_tf_keras` says of which layers.
        train: Tuple `(x, y)`; or a `tf.data.Dataset` of batches; or a `data.Splits`, whose
            train split is batched, shuffled and augmented.
        epochs: Integer.
        learning_rate: Number, the initial learning rate; it decays to zero along a cosine.
        batch_size: Integer.
        verbose: As in `keras.Model.fit`.

    Returns:
        `model`, with its new weights.

    Raises:
        TypeError, ValueError: If an argument is impossible, or a layer is not supported;
            the message names it.
        RuntimeError: If the Keras 2 copy does not equal `model`, or does not come back
            whole. Then the weights of `model` are unchanged.

    Reference:
        [Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference (Jacob et al., 2018)](
        https://arxiv.org/abs/1712.05877), section 3.
    """
    check_model(model)
    if train is None:
        raise ValueError("`train` must be given to train the network. Received: train=None")
    how = {"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size}
    how = checked(model, train, **how)
    quantization = tfmot().quantization.keras
    copy = to_tf_keras(model)
    try:
        wrapped = quantization.quantize_model(copy.model)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"tensorflow_model_optimization cannot quantize {model.name!r}: {error}"
        ) from error
    fine_tune(model, wrapped, verbose=verbose, **how)
    values = {variable.name: variable.numpy() for variable in wrapped.variables}
    copy.copy_weights(
        {name: [values[w.name] for w in copy.model.get_layer(name).weights] for name in copy.layers}
    )
    return model
