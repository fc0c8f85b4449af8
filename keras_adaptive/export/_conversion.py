"""Converts Keras stages to the bytes of a .tflite file, with one signature per stage."""

import re
import tempfile
import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_adaptive.costs._beside import NAME
from keras_adaptive.export import _forcing
from keras_adaptive.export._in_child import convert_in_child, has_loop
from keras_adaptive.export._inputs import count, rows_of
from keras_adaptive.export._masks import fit_masks

QUANTIZE = (None, "float16", "dynamic", "int8")
REPRESENTATIVE = 200  # images that int8 ranges are measured on
BATCH = 100


def convert(stages, quantize=None, old_runtime=False, data=None, batched=None):
    """Returns the bytes of a file with signatures `stage_0`, `stage_1`, ...

    Args:
        stages: As `_graph.minimal_stages` returns them.
        quantize: One of `QUANTIZE`.
        old_runtime: Whether tflite-runtime 2.14 must run it.
        data: Dictionary: name of each input to an array `(samples, ...)`, to measure int8
            ranges on. Only for `"int8"`.
        batched: The same stages for batches, if `stages` accept single images only.

    Raises:
        RuntimeError: If TensorFlow cannot convert the stages.
    """
    switches = [0] * len(stages)
    if quantize == "int8" and batched is not None:
        stages, switches = _forcing.with_switches(stages)
        batched, _ = _forcing.with_switches(batched)
    signatures = {f"stage_{i}": _function(*stage) for i, stage in enumerate(stages)}
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            # the converter measures ranges with an interpreter it calls deprecated
            warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated", UserWarning)
            tf.saved_model.save(tf.Module(), folder, signatures=signatures)
            if quantize == "int8":
                fit_masks(folder)
            examples = _representative(batched or stages, switches, data)
            if quantize == "int8" and any(map(has_loop, signatures.values())):
                content = convert_in_child(folder, list(signatures), old_runtime, examples)
            else:
                converter = tf.lite.TFLiteConverter.from_saved_model(
                    folder, signature_keys=list(signatures)
                )
                configure(converter, quantize, old_runtime, examples)
                content = converter.convert()
    except Exception as error:  # the converter's errors have no common class
        missing = re.search(r"\'tf\.(\w+)\' op is neither a custom op nor a flex op", str(error))
        if missing:
            place = re.search(rf"stage_\d+\w*/([\w/.-]+)/{missing[1]}\w*@", str(error))
            raise RuntimeError(
                "Every operation of `model` must be one that a file has. "
                f"Received: {missing[1]}" + (f" at {place[1]!r}" if place else "")
            ) from error
        raise RuntimeError(f"Converting the {len(stages)} stages failed: {error}") from error
    return _forcing.without_switches(content) if any(switches) else content


def _function(stage, inputs, outputs):
    specs = {
        name: tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype, name=name)
        for name, tensor in zip(inputs, stage.inputs, strict=True)
    }

    # constants: variables would be saved and restored, which takes longer than the conversion,
    # and Keras's own would arrive without their values
    values = [(variable, variable.numpy()) for variable in stage.variables]

    def run(**tensors):
        with keras.StatelessScope([(variable, tf.constant(v)) for variable, v in values]):
            logits, *features = stage([tensors[name] for name in inputs], training=False)
        found = {"logits": logits, **dict(zip(outputs, features, strict=True))}
        if NAME in found:  # reshaped as floats, it would become int8
            cost = tf.reshape(tf.cast(found[NAME], tf.int64), (1,))
            found[NAME] = tf.cast(cost, tf.float32)
        return found

    return tf.function(run, autograph=False).get_concrete_function(**specs)


def configure(converter, quantize, old_runtime, representative):
    """Sets a converter; `representative` is an iterable of examples, for int8."""
    builtins, integer = tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.TFLITE_BUILTINS_INT8
    converter.target_spec.supported_ops = [builtins]
    if quantize is None:
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        converter.target_spec.supported_ops = [integer, builtins]
        converter.representative_dataset = lambda: representative
    if old_runtime:
        # a scale per channel would need version 12 of the dense layer, which it does not know
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True


def _representative(stages, switches, data):
    """Yields example inputs of every signature, on which the converter measures int8 ranges.

    A signature without examples would silently stay float32. So would a gated block that no
    image opens: those are forced open, in a second pass.

    Args:
        stages: Stages for batches, with switches, see `_forcing`.
        switches: List of integers, how many switches each stage has.
        data: Dictionary: name of each input to an array `(samples, ...)`.
    """
    samples = count(data)
    rows = np.linspace(0, samples - 1, min(samples, REPRESENTATIVE)).astype(int)
    chosen = rows_of(data, rows)
    gates = [
        _forcing.gates_of(stage) if n else None
        for (stage, *_), n in zip(stages, switches, strict=True)
    ]
    shut = [np.ones((1, n), bool) for n in switches]
    for forced in ([np.zeros_like(closed) for closed in shut], shut):
        if forced is shut and not any(closed.any() for closed in shut):
            return
        for start in range(0, len(rows), BATCH):
            tensors = rows_of(chosen, slice(start, start + BATCH))
            for i, (stage, inputs, outputs) in enumerate(stages):
                tensors[_forcing.SWITCHES] = np.repeat(forced[i], count(tensors), axis=0)
                batch = [np.asarray(tensors[name]) for name in inputs]
                for row in range(len(batch[0])):
                    each = {n: x[row : row + 1] for n, x in zip(inputs, batch, strict=True)}
                    yield f"stage_{i}", each
                if switches[i] and forced is not shut:
                    is_open = np.concatenate(gates[i].predict_on_batch(batch), axis=1) > 0.5
                    shut[i] &= ~is_open.any(axis=0)
                _, *features = stage.predict_on_batch(batch)
                tensors.update(zip(outputs, features, strict=True))
