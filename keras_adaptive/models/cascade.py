"""Cascades: whole models, run one after the other on the same input, cheap ones first."""

import keras

from keras_adaptive import _graph
from keras_adaptive._checks import check_choice
from keras_adaptive.layers._data_format import check_channels_last
from keras_adaptive.layers.running_mean import RunningMean
from keras_adaptive.training._logits import logits_of
from keras_adaptive.training.adaptive_model import AdaptiveModel, keeping
from keras_adaptive.training.add_stopping import add_stopping

COMBINATIONS = {"mean_logits": "logits", "mean_probs": "probs", "last": None}
EXACT = ("int32", "int64", "uint32", "uint64", "string")  # float32 does not hold them
LOOKS = ("class_names", "preprocessing")  # what members have in common at every size of an image


def build_cascade(
    members, *, combine="mean_logits", stopping=None, cost_weight=0.0, from_logits=None
):
    """Chains models into one network with an exit after each of them.

    Exit `k` combines the logits `z_0, ..., z_k` of the members asked so far:

    - `"mean_logits"`: `mean_i z_i`;
    - `"mean_probs"`: `log(mean_i softmax(z_i))`, whose softmax is the mean of the
      members' probabilities;
    - `"last"`: `z_k` alone. `AgreementPolicy` can then compare the members' answers.

    The result is an `AdaptiveModel` like any other: calibrate it, predict and export
    with it. A policy whose thresholds are all `+inf` but the last (`ExitPolicy([inf,
    inf, -inf])`) makes it an ensemble. With `"last"` a closed member is not computed.

    Members are used as they are. They share their weights with the cascade, and their
    preprocessing must be part of them, as layers: `keras.Sequential([keras.Input(shape),
    keras.layers.Rescaling(1 / 255), model])`. Where they take images of different size,
    the cascade takes the largest and shrinks it for the others by bilinear interpolation.
    Of a member that ends in a softmax, what it is applied to counts; other probabilities are
    read by their logarithm. Gates inside a member decide as before, but skip nothing: its blocks
    are computed, and counted, whole.

    With `stopping`, small networks read the probabilities of every exit but the last and
    learn when to stop, together with the members or after them; see `training.StoppingLoss`
    and the regime `"stopping"` of `training.fit`. Without, `calibrate` chooses thresholds. Try
    that first: it did at least as well in our benchmark (benchmarks/results/stopping.md).

    Args:
        members: List of built `keras.Model`s with one input and the same number of
            classes, cheap ones first. Of an `AdaptiveModel`, the last exit counts.
        combine: `"mean_logits"`, `"mean_probs"` or `"last"`.
        stopping: A `layers.StoppingPolicy`, of which every exit but the last gets a copy with
            weights of its own, or `None`.
        cost_weight: Number, the weight of cost against accuracy; see `training.StoppingLoss`,
            with which the cascade is then compiled. Other arguments of it: `compile` again.
        from_logits: Boolean, whether the members' outputs are logits, or probabilities.
            `None`: as their layers and their answers to random input show, or refused. A
            list has one for each member.

    Returns:
        A compiled `AdaptiveModel` with one exit per member; with `stopping` a
        `training.StoppingModel`, which is experimental.

    Raises:
        ValueError: If the members do not fit together, or it is unclear what one gives.

    Example:

    >>> from keras_adaptive import build_msdnet
    >>> size = {"input_shape": (8, 8, 1), "classes": 10, "blocks": 1, "growth_rate": 2}
    >>> small, large = build_msdnet(**size, channels=4), build_msdnet(**size, channels=8)
    >>> cascade = build_cascade([small, large])
    >>> own = [member.exit_costs()[-1] for member in (small, large)]
    >>> cascade.exit_costs().tolist() == [own[0], own[0] + own[1]]
    True

    References:
        [Wisdom of Committees (Wang et al., 2022)](https://arxiv.org/abs/2012.01988);
        `"last"` with agreement: [Agreement-Based Cascading (Kolawole et al., 2024)](
        https://arxiv.org/abs/2407.02348);
        learned stopping: [Energy-efficient Amortized Inference with Cascaded Deep Classifiers
        (Guan et al., 2018)](https://arxiv.org/abs/1710.03368), whose classifiers answer
        alone: `"last"`.
    """
    check_choice(tuple(COMBINATIONS), combine=combine)
    if stopping is None and cost_weight != 0:
        raise ValueError(
            "`cost_weight` must be 0 without `stopping`, which alone uses it. "
            f"Received: cost_weight={cost_weight}"
        )
    given, members = members, checked_members(members, from_logits)
    sizes = [member.inputs[0].shape[1:] for member in members]
    image = keras.Input(_largest(sizes), dtype=_dtype(members), name="image")
    logits = [member(resized(image, size)) for member, size in zip(members, sizes, strict=True)]
    cascade = keeping(chain(image, logits, combine, "cascade"), given, LOOKS)
    return cascade if stopping is None else add_stopping(cascade, stopping, cost_weight)


def chain(image, logits, combine, name, every=1):
    """Returns the compiled `AdaptiveModel` of some models' logits, in the order given.

    Args:
        image: Symbolic input.
        logits: List of symbolic logits.
        combine: As in `build_cascade`.
        name: String.
        every: Integer: there is an exit after so many models, and after the next as many.
    """
    answers = []
    for k, answer in enumerate(logits):
        number, inside = divmod(k + 1, every)
        label = f"inside_{k}" if inside else f"exit_{number - 1}"
        if combine == "last":
            answers.append(keras.layers.Identity(dtype="float32", name=label)(answer))
        else:
            mean = RunningMean(COMBINATIONS[combine], k + 1, dtype="float32", name=label)
            answers.append(mean(answer, *answers[-1:]))
    model = AdaptiveModel(image, answers[every - 1 :: every], name=name)
    model.compile()
    return model


def checked_members(members, from_logits):
    """Returns the members, giving logits, under names of their own.

    Args:
        members, from_logits: As in `build_cascade`.

    Raises:
        TypeError, ValueError: As `build_cascade`.
    """
    if not isinstance(members, (list, tuple)) or not members:
        raise ValueError(
            f"`members` must be a list of at least one model. Received: members={members}"
        )
    for member in members:
        check_model(member, "members")
    each = from_logits if isinstance(from_logits, (list, tuple)) else [from_logits] * len(members)
    if len(each) != len(members):
        raise ValueError(
            "`from_logits` must be None, True or False, or a list of one for each member. "
            f"Received: from_logits={from_logits} for {len(members)} members"
        )
    same = {}  # a member that is given twice is called twice
    for i, (member, known) in enumerate(zip(members, each, strict=True)):
        if (id(member), known) not in same:
            same[id(member), known] = with_logits(member, f"member_{i}", known, "members")
    members = [same[id(member), known] for member, known in zip(members, each, strict=True)]
    _check_own_layers(list(same.values()))
    for what, found in (
        ("input rank and channels", {(len(m.inputs[0].shape), _channels(m)) for m in members}),
        ("number of classes", {m.outputs[-1].shape[-1] for m in members}),
    ):
        if len(found) > 1:
            raise ValueError(
                f"`members` must have the same {what}. Received: {sorted(found, key=str)}"
            )
    return members


def _check_own_layers(members):
    """Raises an error if members share layers: loaded again they would have each their own."""
    owners = {}
    for member in members:
        for weight in member.weights:
            other = owners.setdefault(id(weight), member)
            if other is not member:
                raise ValueError(
                    "`members` must not share layers, since they could not be saved and loaded "
                    "again: `add_exits` gives one network several exits, and the same member may "
                    f"be given twice. Received: {other.name!r} and {member.name!r}, which share "
                    f"{weight.path!r}"
                )


def check_model(model, argument, several_inputs=False):
    """Raises an error unless this is a built model with one output.

    Args:
        model: What should be a `keras.Model`.
        argument: String, its name in errors.
        several_inputs: Boolean, whether it may have more than one input.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`{argument}` must be keras.Model. Received: {argument}={model!r}")
    check_channels_last()
    if not getattr(model, "inputs", None) or not _graph.is_model(model):
        raise ValueError(
            f"`{argument}` must be functional or built Sequential models; wrap others as "
            "keras.Model(x, model(x)) with x = keras.Input(shape). "
            f"Received: {model.name!r} of type {type(model).__name__}"
        )
    exits = len(model.outputs) if isinstance(model, AdaptiveModel) else 1
    inputs = 1 if not several_inputs else len(model.inputs)
    if len(model.inputs) != inputs or len(model.outputs) != exits:
        wanted = "one output" if several_inputs else "one input and one output"
        raise ValueError(
            f"`{argument}` must have {wanted}. Received: {model.name!r} with "
            f"{len(model.inputs)} inputs and {len(model.outputs)} outputs"
        )
    _graph.check_channels_last(model.inputs, model.outputs, argument)
    for layer in model._flatten_layers(include_self=False):
        if getattr(layer, "quantization_mode", None) is not None:
            raise ValueError(
                f"`{argument}` must not be quantized by Keras: give the model as it was before "
                '`quantize`, and quantize its file, export_tflite(quantize="int8"). '
                f"Received: layer {layer.name!r} with {layer.quantization_mode!r}"
            )


def _channels(model):
    return model.inputs[0].shape[-1]


def _dtype(members):
    """Returns the dtype of a cascade's input: float32, except for numbers too large for it."""
    inputs = [member.inputs[0] for member in members]
    dtypes = {keras.backend.standardize_dtype(tensor.dtype) for tensor in inputs}
    if "string" in dtypes and len(dtypes) > 1:
        raise ValueError(
            f"`members` must all take text, or none of them. Received: inputs of {sorted(dtypes)}"
        )
    is_image = len(inputs[0].shape) == 4
    together = dtypes.pop() if len(dtypes) == 1 else keras.backend.result_type(*dtypes)
    return together if together in EXACT and not is_image else "float32"


def _largest(sizes):
    """The element-wise largest input shape; axes that no member fixes stay open."""
    return tuple(
        max((n for n in axis if n is not None), default=None) for axis in zip(*sizes, strict=True)
    )


def resized(image, size):
    """Returns the image at the size a member takes; `size` is an input shape."""
    if all(want in (None, have) for want, have in zip(size, image.shape[1:], strict=True)):
        return image
    if len(size) != 3:
        raise ValueError(
            "`members` must take inputs of the same size, unless they are images. "
            f"Received: sizes {tuple(image.shape[1:])} and {tuple(size)}"
        )
    height, width = (
        have if want is None else want
        for want, have in zip(size[:2], image.shape[1:3], strict=True)
    )
    # a `keras.layers.Resizing` would switch the layers after it to training
    return keras.ops.image.resize(image, (height, width), interpolation="bilinear")


def with_logits(model, name, from_logits=None, argument="model"):
    """Returns a model of the same layers that gives logits, under a name of its own."""
    answer = model.outputs[-1]
    if len(answer.shape) != 2:
        raise ValueError(
            f"`{argument}` must give logits or probabilities (batch, classes). Received: "
            f"{model.name!r} with output of shape {tuple(answer.shape)}"
        )
    logits = logits_of(model.inputs, answer, from_logits, argument=argument)
    return keras.Model(model.inputs[0], logits, name=name)
