"""The logits behind a model's answer, whatever the model ends in."""

import keras
import numpy as np

from keras_adaptive import _graph
from keras_adaptive._checks import check_choice
from keras_adaptive.layers.combined_exit import CombinedExit
from keras_adaptive.layers.early_exit import EarlyExit
from keras_adaptive.layers.running_mean import RunningMean

SMALLEST = float(np.finfo("float32").tiny)  # a probability whose logarithm float32 can tell
ROWS = 4  # samples of a draw
SCALES = (0.1, 1.0, 3.0, 10.0, 30.0, 100.0)  # of numbers that tell functions apart
SIZES = (8, 32, 64, 224)  # tried in the place of open ones

KERNELS = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
OWN = (CombinedExit, EarlyExit, RunningMean)  # give logits
POOLS = tuple(
    getattr(keras.layers, f"Global{kind}Pooling{n}D") for kind in ("Average", "Max") for n in "123"
)


def logits_of(inputs, answer, from_logits=None, *, argument="model", stated=False):
    """Returns the logits behind a symbolic answer, made of the same layers.

    The softmax of the logits is the answer. What the graph shows counts first: a softmax by any
    name is left out, also one in a model inside or before what changes nothing (reshapes,
    casts, dropout); what a dense layer gives is logits. Else the network answers random input:
    rows of at least 0 that sum to 1 are probabilities `p`, and `log(p)` is their logits. One
    number with a sigmoid, `sigmoid(z)`, has the logits `[0, z]`.

    Args:
        inputs: List of the network's symbolic inputs.
        answer: Symbolic tensor.
        from_logits: Boolean: whether the answer is logits, or probabilities. `None`: found out.
        argument: String, the name of the network in errors.
        stated: Boolean, whether somebody says that the answer has one number per class.

    Raises:
        ValueError: If it cannot be found out, or the answer is neither.
    """
    check_choice((None, True, False), from_logits=from_logits)
    single = answer.shape[-1] == 1
    if from_logits:
        return _two(answer) if single else answer
    kind, behind = _behind(answer)
    if kind == ("sigmoid" if single else "softmax"):
        return _two(behind) if single else behind
    if kind == "logits" and from_logits is None and (stated or not single):
        return _two(answer) if single else answer
    rows = random_answers(inputs, answer)
    if single:
        if from_logits is False and (rows is None or _are_within_0_and_1(rows)):
            return log_of(keras.ops.concatenate([1 - answer, answer], axis=-1))
    elif rows is None:
        if from_logits is False:
            return log_of(answer)
    elif _are_probabilities(rows, answer.dtype):
        return log_of(answer)
    elif from_logits is None and _are_logits(rows, inputs, answer, stated):
        return answer
    raise ValueError(_refusal(answer, kind, rows, from_logits, argument))


def _refusal(answer, kind, rows, from_logits, argument):
    layer = _graph.node_of(answer).operation
    received = f"output of shape {tuple(answer.shape)} of {layer.name!r} ({type(layer).__name__})"
    if rows is not None:
        received += (
            f", on random input numbers from {rows.min():.3g} to {rows.max():.3g} in rows that sum "
            f"to {rows.sum(axis=-1).min():.3g} to {rows.sum(axis=-1).max():.3g}"
        )
    else:
        received += ", which could not be tried on random input"
    if answer.shape[-1] == 1:
        hint = "One number is a regression's, unless `classes=2` is given or a sigmoid ends it."
    elif kind == "sigmoid":
        hint = "Answers with several labels for one input (sigmoids) are not supported."
    elif isinstance(layer, POOLS):
        hint = "Features are no answer: give the model without its pooling (`pooling=None`)."
    else:
        hint = "Features are no answer: put keras.layers.Dense(classes) behind them."
    given = "" if from_logits is None else f" with from_logits={from_logits}"
    return (
        f"`{argument}` must end in logits or in probabilities that sum to 1. {hint} If these are "
        f"logits, give `from_logits=True`; if probabilities, False. Received: {received}{given}"
    )


def log_of(probabilities):
    """Returns the logarithms of probabilities, finite also where they are 0."""
    if is_half(probabilities):
        probabilities = keras.ops.cast(probabilities, "float32")
    return keras.ops.log(keras.ops.maximum(probabilities, SMALLEST))


def is_half(tensor):
    """Returns whether a tensor is of half precision."""
    return keras.backend.standardize_dtype(tensor.dtype) in ("float16", "bfloat16")


def in_float32(logits, name):
    """Returns logits in float32: those of half precision through a layer of this name."""
    return keras.layers.Identity(dtype="float32", name=name)(logits) if is_half(logits) else logits


def _two(logit):
    """Returns the logits of no and yes from the one of yes."""
    return keras.ops.concatenate([keras.ops.zeros_like(logit), logit], axis=-1)


# ---- what the graph shows


def kind_of(answer):
    """Returns what an answer is by the graph: "softmax", "sigmoid", "logits" or `None`."""
    return _behind(answer)[0]


def _behind(answer):
    """Walks back from an answer over what changes nothing.

    Returns:
        What is found, "softmax", "sigmoid", "logits" or `None`, and in the first two cases
        what they are applied to, in the shape of the answer.
    """
    tensor = answer
    while True:
        node = _graph.node_of(tensor)
        operation = node.operation
        if node.is_input:
            return None, None
        if _graph.is_model(operation):
            inner = operation.outputs[tensor._keras_history.tensor_index]
            kind, behind = _behind(inner)
            if kind in ("softmax", "sigmoid"):
                bare = keras.Model(list(operation.inputs), behind, name=operation.name)
                read = keras.tree.flatten(node.arguments.args)
                behind = _like(bare(read, **node.arguments.kwargs), answer)
            return kind, behind
        if isinstance(operation, OWN):
            return "logits", None
        if isinstance(operation, KERNELS):
            kind = _kind_of_activation(operation, tensor)
            if kind in ("same", "log_softmax"):
                return "logits", None
            behind = _without_activation(node) if kind else None
            return (kind, _like(behind, answer)) if behind is not None else (None, None)
        read = _graph.reads(node)
        if getattr(operation, "weights", ()) or len(read) != 1 or len(node.outputs) != 1:
            return None, None
        kind = _kind_of_node(node)
        if kind == "log_softmax":
            return "logits", None
        if kind != "same":
            return kind, kind and _like(read[0], answer)
        tensor = read[0]


def _like(tensor, answer):
    """Returns a tensor in the shape and precision of another."""
    if tensor.dtype != answer.dtype:
        tensor = keras.ops.cast(tensor, answer.dtype)
    if tensor.shape != answer.shape:
        tensor = keras.layers.Reshape(answer.shape[1:])(tensor)
    return tensor


def _kind_of_activation(layer, tensor):
    """Returns what a layer's activation does: "same", "softmax", "sigmoid", "log_softmax"."""
    shape = (len(SCALES), *(n or 2 for n in tensor.shape[1:]))
    if layer.activation is None:
        return "same"
    return _kind(layer.activation, _numbers(shape), layer.compute_dtype, tensor.shape[-1])


def _kind_of_node(node):
    """Returns what a call of an operation does, as `_kind_of_activation`."""
    (tensor,) = node.input_tensors
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if "float" not in dtype:
        return None
    shape = (len(SCALES), *(n or 2 for n in tensor.shape[1:]))

    def call(value):
        args, kwargs = node.arguments.fill_in({id(tensor): value})
        return node.operation(*args, **kwargs)

    return _kind(call, _numbers(shape), dtype, node.outputs[0].shape[-1])


def _kind(function, z, dtype, width):
    try:
        found = _float64(function(keras.ops.convert_to_tensor(z.astype("float32"), dtype)))
    except Exception:  # whatever a function raises for numbers that are not its own
        return None
    if found.size != z.size or not width:
        return None
    z, found = (values.reshape(-1, width) for values in (z, found))
    logarithm = z - _log_sum_exp(z)[:, None]
    kinds = {
        "same": z,
        "sigmoid": 1 / (1 + np.exp(-np.clip(z, -500, 500))),
        "softmax": np.exp(logarithm),
        "log_softmax": logarithm,
    }
    # half precision is told apart all the same
    exact = 1e-2 if dtype in ("float16", "bfloat16") else 1e-5
    for kind, expected in kinds.items():
        if np.allclose(found, expected, rtol=exact, atol=exact):
            return kind
    return None


def _float64(tensor):
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")).astype("float64")


def _numbers(shape):
    """Returns numbers small and large, the same each time."""
    scales = np.reshape(SCALES, (-1, *(1,) * (len(shape) - 1)))
    return np.random.default_rng(0).normal(size=shape) * scales


def _log_sum_exp(z):
    highest = z.max(axis=-1)
    return highest + np.log(np.exp(z - highest[..., None]).sum(axis=-1))


def _without_activation(node):
    """Returns what a layer gives before its activation; `None` if that cannot be had.

    The layer in its place has the same variables, not equal ones.
    """
    layer = node.operation
    changed = getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None)
    if changed or "activation" not in vars(layer):
        return None
    activation = vars(layer)["activation"]
    vars(layer)["activation"] = keras.activations.linear  # some cannot be written down
    try:
        bare = type(layer).from_config(layer.get_config())
    except Exception:  # whatever the class of somebody else raises
        return None
    finally:
        vars(layer)["activation"] = activation
    for name, value in vars(layer).items():
        if isinstance(value, keras.Variable) or name not in vars(bare):
            setattr(bare, name, value)
    bare.built = True
    return bare(*node.arguments.args, **node.arguments.kwargs) if _is_before(bare, node) else None


def _is_before(bare, node):
    """Returns whether the layer's answer is its activation of what the other one gives."""
    layer, (tensor,) = node.operation, node.input_tensors
    shape = (ROWS, *(n or SIZES[0] for n in tensor.shape[1:]))
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    try:
        x = keras.ops.cast(x, tensor.dtype)
        expected, found = layer(x), layer.activation(bare(x))
        return bool(np.allclose(*map(_float64, (expected, found)), atol=1e-3))
    except Exception:  # as above
        return False


# ---- what random input shows


def random_answers(inputs, answer):
    """Returns the answers to random input, `(rows, classes)`, or `None` if there are none."""
    rng = np.random.default_rng(0)
    is_open = any(None in tensor.shape[1:] for tensor in inputs)
    for size in SIZES if is_open else SIZES[:1]:
        try:
            model = keras.Model(list(inputs), answer)
            draws = [[_draw(t, size, k, rng) for t in inputs] for k in range(3)]
            found = [_float64(model(draw, training=False)) for draw in draws]
        except Exception:  # whatever a network raises for what it cannot take
            continue
        rows = np.concatenate(found).reshape(-1, answer.shape[-1])
        return rows if np.isfinite(rows).all() else None
    return None


def _draw(tensor, size, k, rng):
    """Returns random input: numbers around 0, from 0 to 1, and pixels."""
    shape = (tensor.shape[0] or ROWS, *(size if n is None else n for n in tensor.shape[1:]))
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if "float" in dtype:
        x = rng.normal(size=shape) if k == 0 else rng.uniform(0, (1, 255)[k - 1], shape)
        return keras.ops.cast(x.astype("float32"), dtype)
    # token 1 is in every vocabulary, and one that masks keep is in every row
    x = rng.integers(0, 256 if dtype == "uint8" else 2, shape)
    if x.ndim > 1:
        x[:, 0] = 1
    return x.astype(dtype)


def _are_probabilities(rows, dtype):
    half = keras.backend.standardize_dtype(dtype) in ("float16", "bfloat16")
    return bool(
        (rows >= 0).all() and np.abs(rows.sum(axis=-1) - 1).max() < (1e-2 if half else 1e-4)
    )


def _are_within_0_and_1(rows):
    return bool((rows >= 0).all() and (rows <= 1).all())


def _are_logits(rows, inputs, answer, stated):
    if not (rows < 0).any():
        return False
    logarithms_of_probabilities = np.abs(_log_sum_exp(rows)).max() < 1e-3
    return logarithms_of_probabilities or _is_linear(inputs, answer, stated)


def _is_linear(inputs, answer, stated):
    """Returns whether the answer is made of dense layers' by sums, means and the like alone."""
    inputs, answer = _graph.opened(inputs, answer)
    read, beside, pooled, todo, seen = {}, {}, False, [answer], set()
    while todo:
        tensor = todo.pop()
        node = _graph.node_of(tensor)
        if id(node) in seen:
            continue
        operation = node.operation
        if node.is_input:
            beside[id(tensor)] = tensor
            continue
        normalizes = isinstance(operation, keras.layers.BatchNormalization)
        if getattr(operation, "weights", ()) and not normalizes:
            known = type(operation).__module__.partition(".")[0] == "keras"
            if isinstance(operation, KERNELS):
                if _kind_of_activation(operation, tensor) != "same":
                    return False
            elif known or not (stated or isinstance(operation, OWN)):
                return False
            read[id(tensor)] = tensor
            continue
        seen.add(id(node))
        pooled = pooled or isinstance(operation, POOLS)
        todo.extend(_graph.reads(node))
    if pooled and not stated:  # a mean of features as well as one of answers
        return False
    return bool(read) and _is_affine(list(read.values()), list(beside.values()), answer)


def _is_affine(read, beside, answer):
    """Returns whether `f(a) + f(b) = f(a + b) + f(0)` for what is made of some tensors.

    Those beside are what they are: an image, to whose size something is enlarged.
    """
    rng = np.random.default_rng(0)
    nodes = _graph.nodes_between([*read, *beside], [answer])
    fixed = {id(t): keras.ops.convert_to_tensor(_draw(t, SIZES[0], 1, rng)) for t in beside}

    def values(k):
        return [rng.normal(size=(ROWS, *(n or SIZES[0] for n in t.shape[1:]))) * k for t in read]

    def answers(given):
        tensors = {
            id(t): keras.ops.cast(x.astype("float32"), t.dtype)
            for t, x in zip(read, given, strict=True)
        }
        (found,) = _graph.call_again(nodes, {**fixed, **tensors}, [answer])
        return _float64(found)

    a, b, zero = values(10), values(10), values(0)
    both = [x + y for x, y in zip(a, b, strict=True)]
    try:
        difference = answers(a) + answers(b) - answers(both) - answers(zero)
        return bool(np.abs(difference).max() <= 1e-3 * max(1, np.abs(answers(both)).max()))
    except Exception:  # as above
        return False
