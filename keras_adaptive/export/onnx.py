"""`export_onnx`: writes a network and its policy as one ONNX file for each stage."""

import contextlib
import json
import warnings

import numpy as np
import tensorflow as tf

from keras_adaptive import _graph
from keras_adaptive._checks import integer, needs_extra
from keras_adaptive._files import as_json, as_path, check_new_folder, whole_folder
from keras_adaptive.export import _arguments, _verification
from keras_adaptive.export._inputs import inputs_of, random_data, renamed
from keras_adaptive.export._settings import set_for_file

FORMAT, VERSION = "keras_adaptive.onnx", 1
KEY = "keras_adaptive"  # of the metadata
TOLERANCE = 1e-4  # of logits, relative to the largest: other kernels than Keras's
OPSET = 18


def export_onnx(
    model,
    path,
    policy=None,
    *,
    class_names=None,
    preprocessing=None,
    pixels=None,
    input_shape=None,
    opset=OPSET,
):
    """Writes a network and its policy into a folder, as one ONNX file for each stage.

    The files are `stage_0.onnx`, `stage_1.onnx`, ..., one for every exit that the policy uses. A
    stage reads named tensors (the network's inputs, and `features_<i>` of earlier stages) and
    returns `logits` and the `features_<i>` that later stages read; the first axis is the batch,
    of any size. What stops early is the program that runs them: it calls the next stage only
    where the answer of the last was not confident. The guide "Run it: on the host, on
    the device" has one of 30 lines.

    The metadata of `stage_0.onnx` hold, under the key `keras_adaptive`, a JSON text like that of a
    .tflite file: exits, thresholds (as users know them, and as `log_odds`, in which they are
    compared), temperatures, MACs, class names, how pixels become inputs.

    Each stage is run in onnxruntime and compared with Keras before the folder gets its name.
    Blocks behind gates are all computed: what a gate closes is not skipped in these files, as it
    is in a .tflite file. Nothing is quantized. Needs the TensorFlow backend and the extra `onnx`.

    Args:
        model, policy, class_names, preprocessing, pixels, input_shape: As in `export_tflite`.
        path: Path of the folder to write: one that is not there, or an empty one.
        opset: Integer, the version of ONNX's operators.

    Returns:
        List of the files' paths.

    Raises:
        TypeError, ValueError: If an argument does not fit.
        ImportError: If tf2onnx, onnx or onnxruntime is missing.
        RuntimeError: If the conversion fails or a file does not compute what the network computes.
            Then nothing is written.

    Example:

    >>> import tempfile
    >>> import keras
    >>> from keras_adaptive import AdaptiveModel, ExitPolicy
    >>> from keras_adaptive.layers import EarlyExit
    >>> image = keras.Input((8, 8, 1))
    >>> features = keras.layers.Conv2D(4, 3)(image)
    >>> model = AdaptiveModel(image, [EarlyExit(10)(image), EarlyExit(10)(features)])
    >>> files = export_onnx(model, tempfile.mkdtemp(), ExitPolicy([0.9, 0.0]))
    >>> [file.name for file in files]
    ['stage_0.onnx', 'stage_1.onnx']
    """
    with needs_extra("onnx"):
        import onnx
        import onnxruntime
        import tf2onnx  # noqa: F401  # here, so that all that is missing is said before work
    policy = getattr(model, "policy", None) if policy is None else policy
    _arguments.check(model, policy)
    path, opset = _folder(path), integer("opset", opset, 11)
    given = {"class_names": class_names, "preprocessing": preprocessing, "pixels": pixels}
    given = {k: getattr(model, k, None) if v is None else v for k, v in given.items()}
    exits = model.exits_of(policy)
    policy.validate_stagewise(most=model.exit_costs(input_shape=input_shape)[-1])
    with set_for_file(model, None, input_shape) as (tensors, outputs):
        inputs = inputs_of(tensors, _graph.input_keys(model))
        info = {
            "format": FORMAT,
            "version": VERSION,
            "model": model.name,
            "exits": exits,
            **_arguments.rule_of(policy, model.num_exits),
            "macs": model.exit_costs(exits=exits, input_shape=input_shape).tolist(),
            "class_names": _arguments.checked_names(given["class_names"], outputs[0].shape[-1]),
            "inputs": inputs,
            "preprocessing": _arguments.checked_preprocessing(given["preprocessing"], inputs),
            "pixels": _arguments.checked_pixels(given["pixels"], inputs),
            "policy": as_json(policy.details, "details"),
        }
        stages = renamed(_graph.minimal_stages(tensors, [outputs[k] for k in exits]), inputs)
        files = [_converted(number, stage, opset) for number, stage in enumerate(stages)]
        onnx.helper.set_model_props(files[0], {KEY: json.dumps(info)})
        contents = [file.SerializeToString() for file in files]
        sessions = [onnxruntime.InferenceSession(content) for content in contents]
        _check_answers(sessions, stages, exits, random_data(inputs, _verification.TRIALS))
    with whole_folder(path) as part:
        for number, content in enumerate(contents):
            (part / _name(number)).write_bytes(content)
    return [path / _name(number) for number in range(len(contents))]


def _name(number):
    return f"stage_{number}.onnx"


def _folder(path):
    """Returns the folder to write, checked to be new."""
    path = as_path(path)
    must = "`path` must be a folder that is not there yet, or an empty one"
    check_new_folder(path, "path", must)
    return path


def _converted(number, stage, opset):
    """Returns a stage as an ONNX model, its tensors named as in a .tflite file."""
    import onnx
    import tf2onnx

    model, reads, adds = stage
    signature = [
        tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype, name=name)
        for name, tensor in zip(reads, model.inputs, strict=True)
    ]
    function = tf.function(
        lambda *tensors: model(list(tensors), training=False),
        input_signature=signature,
        autograph=False,
    )
    try:
        with warnings.catch_warnings(), _without_inner_functions():
            warnings.simplefilter("ignore")  # of other versions of numpy and protobuf
            file, _ = tf2onnx.convert.from_function(
                function, signature, opset=opset, custom_op_handlers={"Erfc": (_erfc, [])}
            )
    except Exception as error:  # the converter's errors have no common class
        raise RuntimeError(f"Converting stage {number} to ONNX failed: {error}") from error
    unknown = [n for n in file.graph.node if not onnx.defs.has(n.op_type, n.domain)]
    if unknown:
        raise RuntimeError(
            "Every operation of `model` must be one that ONNX has. "
            f"Received: {unknown[0].op_type} at {unknown[0].name!r}"
        )
    _rename(file.graph, [one.name for one in file.graph.input], reads)
    _rename(file.graph, [one.name for one in file.graph.output], ["logits", *adds])
    return file


@contextlib.contextmanager
def _without_inner_functions():
    """Lets functions inside a network be traced as part of it, as Keras's grouped convolutions."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _erfc(graph, node, name, args):
    """Puts `1 - erf(x)`, which ONNX has, in the place of `erfc(x)`, of which GELU is made."""
    import tf2onnx

    dtype, shape = graph.get_dtype(node.output[0]), graph.get_shape(node.output[0])
    kind = {"dtypes": [dtype], "shapes": [shape]}
    ones = np.ones((), tf2onnx.utils.map_onnx_to_numpy_type(dtype))
    one = graph.make_const(tf2onnx.utils.make_name("one"), ones)
    erf = graph.make_node("Erf", node.input, **kind)
    graph.remove_node(node.name)
    graph.make_node("Sub", [one.output[0], erf.output[0]], outputs=node.output, **kind)


def _rename(graph, old, new):
    names = dict(zip(old, new, strict=True))
    for tensor in (*graph.input, *graph.output):
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        for places in (node.input, node.output):
            places[:] = [names.get(name, name) for name in places]


def _check_answers(sessions, stages, exits, data):
    """Raises a RuntimeError unless every exit's logits equal Keras's."""
    expected, known = _verification.keras_answers(stages, data)["logits"], dict(data)
    for session, (_, reads, adds), k, z in zip(sessions, stages, exits, expected, strict=True):
        found = session.run(["logits", *adds], {name: known[name] for name in reads})
        known.update(zip(["logits", *adds], found, strict=True))
        error = np.abs(known["logits"] - z).max()
        if not error <= TOLERANCE * max(1, np.abs(z).max()):
            raise RuntimeError(
                f"Exit {k} of the files must equal Keras. It differs by {error:.3g}; nothing was "
                "written."
            )
