"""Cascades: whole models, run one after the other on the same input, cheap ones first."""

import keras

from keras_adaptive import _graph
from keras_adaptive._checks import check_choice
from keras_adaptive.layers.running_mean import RunningMean
from keras_adaptive.training.adaptive_model import AdaptiveModel
from keras_adaptive.training.add_stopping import add_stopping

SMALLEST = 1e-37  # a probability whose logarithm is still finite in float32
COMBINATIONS = {"mean_logits": "logits", "mean_probs": "probs", "last": None}


def build_cascade(members, *, combine="mean_logits", stopping=None, cost_weight=0.0):
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
    A member that ends in a softmax is read by its logarithm.

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

    Returns:
        A compiled `AdaptiveModel` with one exit per member; with `stopping` a
        `training.StoppingModel`, which is experimental.

    Raises:
        ValueError: If the members do not fit together.

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
    members = _checked(members)
    sizes = [member.inputs[0].shape[1:] for member in members]
    image = keras.Input(_largest(sizes), name="image")
    logits = [
        logits_of(member, f"member_{i}")(resized(image, size))
        for i, (member, size) in enumerate(zip(members, sizes, strict=True))
    ]
    cascade = chain(image, logits, combine, "cascade")
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
            answers.append(keras.layers.Identity(name=label)(answer))
        else:
            mean = RunningMean(COMBINATIONS[combine], k + 1, name=label)
            answers.append(mean(answer, *answers[-1:]))
    model = AdaptiveModel(image, answers[every - 1 :: every], name=name)
    model.compile()
    return model


def _checked(members):
    if not isinstance(members, (list, tuple)) or not members:
        raise ValueError(
            f"`members` must be a list of at least one model. Received: members={members}"
        )
    for member in members:
        check_model(member, "members")
    for what, found in (
        ("input rank and channels", {(len(m.inputs[0].shape), _channels(m)) for m in members}),
        ("number of classes", {m.outputs[-1].shape[-1] for m in members}),
    ):
        if len(found) > 1:
            raise ValueError(
                f"`members` must have the same {what}. Received: {sorted(found, key=str)}"
            )
    return list(members)


def check_model(model, argument):
    """Raises an error unless this is a built model with one input and logits."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"`{argument}` must be keras.Model. Received: {argument}={model!r}")
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"`{argument}` must be functional or built Sequential models; wrap others as "
            "keras.Model(x, model(x)) with x = keras.Input(shape). "
            f"Received: {model.name!r} of type {type(model).__name__}"
        )
    exits = len(model.outputs) if isinstance(model, AdaptiveModel) else 1
    if len(model.inputs) != 1 or len(model.outputs) != exits:
        raise ValueError(
            f"`{argument}` must have one input and one output. Received: {model.name!r} with "
            f"{len(model.inputs)} inputs and {len(model.outputs)} outputs"
        )


def _channels(model):
    return model.inputs[0].shape[-1]


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


def logits_of(model, name):
    """Returns a model of the same layers that gives logits, under a name of its own."""
    answer = model.outputs[-1]
    if _ends_in_softmax(answer):
        # a logit and the logarithm of its probability differ by the same for all classes
        answer = keras.ops.log(keras.ops.maximum(answer, SMALLEST))
    return keras.Model(model.inputs[0], answer, name=name)


def _ends_in_softmax(tensor):
    operation = tensor._keras_history.operation
    if _graph.is_model(operation):
        return _ends_in_softmax(operation.outputs[-1])
    return is_softmax(operation)


def is_softmax(operation):
    """Returns whether an operation ends in a softmax."""
    softmax = keras.activations.softmax
    return isinstance(operation, keras.layers.Softmax) or (
        getattr(operation, "activation", None) is softmax
    )
