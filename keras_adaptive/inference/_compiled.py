"""Compiled stages: weights are constants, shapes are traced once, no Python at run time."""

import functools
import time

import keras
import numpy as np

from keras_adaptive._graph import external_inputs
from keras_adaptive.inference import _timings
from keras_adaptive.inference._conditional import leaving_at, nested
from keras_adaptive.inference._memory import aligned, is_aligned

LARGEST = 10_000_000  # numbers in the weights; above, XLA takes long and gains nothing


def compiled(stages, classes=None, single=None):
    """Compiles the stages of a network, and their combinations, with the current weights.

    Args:
        stages: List of `(model, inputs, outputs)`, see `_graph.minimal_stages`.
        classes: Integer, if more numbers follow the logits (see `spending`). `None`: the
            logits are all.
        single: The same stages in the form that is best for single samples, for
            `conditional`; only for TensorFlow. `None`: the same as `stages`.

    Returns:
        `Stages`, of the kind that suits Keras's backend.
    """
    if keras.backend.backend() == "tensorflow":
        return TensorFlowStages(stages, classes, single)
    return (JaxStages if keras.backend.backend() == "jax" else Stages)(stages, classes)


class Stages:
    """The stages as Keras runs them: for backends that have no class of their own below.

    Attributes:
        inputs, outputs: One list of tensor names per stage.
        specs: Dictionary: tensor name to the shape of one sample and the dtype's name.
        classes: Integer; answers may be wider.
    """

    conditional = None

    def __init__(self, stages, classes=None):
        self.classes = stages[0][0].outputs[0].shape[-1] if classes is None else classes
        self.models = [model for model, _, _ in stages]
        self.inputs = [inputs for _, inputs, _ in stages]
        self.outputs = [outputs for _, _, outputs in stages]
        self.specs = {}
        for model, inputs, outputs in stages:
            tensors = zip(inputs + outputs, model.inputs + model.outputs[1:], strict=True)
            for name, tensor in tensors:
                dtype = keras.backend.standardize_dtype(tensor.dtype)
                self.specs[name] = (tuple(tensor.shape[1:]), dtype)

    def __len__(self):
        return len(self.models)

    def stage(self, k, tensors):
        """Runs stage `k`: a list of its input tensors to `[answer, *features]`."""
        return self.models[k].predict_on_batch(tensors)

    def carried(self, k):
        """Names of the tensors that the stages from `k` on read and none of them computes."""
        return external_inputs(self.inputs[k:], self.outputs[k:])

    def first(self, count, images):
        """Runs the first stages on the same samples, in one function.

        Returns:
            The answers of each, and what `carried(count)` names.
        """
        return chain(self.stage, self, images, count)

    def together(self, images):
        """Runs all stages on the same samples; returns the answers of each."""
        return self.first(len(self), images)[0]


def chain(apply, stages, images, count):
    """Applies one stage after the other; returns the answers of each, and what is carried on."""
    tensors, found = {stages.inputs[0][0]: images}, []
    for k in range(count):
        logits, *features = apply(k, [tensors[name] for name in stages.inputs[k]])
        tensors.update(zip(stages.outputs[k], features, strict=True))
        found.append(logits)
    return found, [tensors[name] for name in stages.carried(count)]


class TensorFlowStages(Stages):
    """Frozen graphs, which TensorFlow folds and fuses; the batch size stays open.

    Frozen functions are imported into new ones, because calling one as users do makes
    TensorFlow write an error message with all its arguments, at every call.
    """

    def __init__(self, stages, classes=None, single=None):
        super().__init__(stages, classes)
        self._single = single and [model for model, _, _ in single]
        # branches of conditionals are functions by name, which TensorFlow forgets with the
        # function they were traced in; what is imported from its graph still calls them
        self._alive = []
        self._frozen = [self._freeze(model) for model in self.models]
        self.functions = [
            self._function(self._applying(k), inputs) for k, inputs in enumerate(self.inputs)
        ]
        self._direct = [_direct(function) for function in self.functions]
        self._first = {}

    def stage(self, k, tensors):
        return self._direct[k](*map(_tensor, tensors))

    def first(self, count, images):
        if count not in self._first:
            self._first[count] = _direct(
                self._function(
                    lambda images: chain(self._apply, self, images, count), self.inputs[0]
                )
            )
        return self._first[count](_tensor(images))

    def conditional(self, policy, exits):
        """Returns a function of one sample and thresholds: the answer and where it leaves."""
        import tensorflow as tf

        function = self.for_one(
            lambda apply: nested(apply, self, policy, exits),
            [tf.TensorSpec((len(self),), tf.float32)],
            [[leaving_at(k, len(self))] for k in range(len(self))],
        )

        def run(image, thresholds):
            logits, stage = function(image, thresholds)
            return logits.numpy(), int(stage)

        return run

    def for_one(self, make, more=(), values=((),)):
        """Returns a function of one sample, compiled by XLA if that is faster here.

        For so small a batch TensorFlow spends more on going from operation to operation than
        on most operations. XLA makes one program of all, but has slower convolutions.

        Args:
            make: Function: a function `(k, tensors) -> [answer, *features]` that computes stage
                `k` to the function wanted, of the first stage's input and more, which
                returns several tensors.
            more: Specifications of further inputs.
            values: Sequence of values of the further inputs; each is measured once.
        """
        import tensorflow as tf

        ways = [self._interpreted(make, more), self._by_xla(make, more)]
        ways = [way and _direct(way) for way in ways]
        shape, dtype = self.specs[self.inputs[0][0]]
        image = tf.zeros((1, *shape), dtype)
        fastest = _fastest(ways, [[image, *map(_tensor, further)] for further in values])
        return lambda *given: fastest(*map(_tensor, given))

    def _interpreted(self, make, more):
        frozen = self._frozen
        if self._single is not None:
            frozen = [self._freeze(model, batch=1) for model in self._single]
        apply = functools.partial(self._apply, frozen=frozen)
        traced = self._function(make(apply), self.inputs[0], more, batch=1)
        self._alive.append(traced)
        return self._with_calls_for_branches(traced)

    def _by_xla(self, make, more):
        models = self._single or self.models
        if sum(model.count_params() for model in models) > LARGEST:
            return None
        frozen = [self._freeze(model, batch=1, lower=False) for model in models]
        apply = functools.partial(self._apply, frozen=frozen)
        return self._function(make(apply), self.inputs[0], more, batch=1, jit_compile=True)

    def _with_calls_for_branches(self, traced):
        """Returns the function with each branch a function that is called.

        TensorFlow would rather mix the branches' operations with the others and mark
        those not taken as dead, one by one, which takes a tenth more time.
        """
        import tensorflow as tf

        graph = traced.graph.as_graph_def()
        for nodes in (graph.node, *(f.node_def for f in graph.library.function)):
            for node in nodes:
                if "_lower_using_switch_merge" in node.attr:
                    node.attr["_lower_using_switch_merge"].b = False
        inputs, outputs = ([t.name for t in side] for side in (traced.inputs, traced.outputs))

        def call(*tensors):
            feeds = dict(zip(inputs, tensors, strict=True))
            return tf.graph_util.import_graph_def(graph, feeds, outputs, name="conditional")

        specs = [tf.TensorSpec(t.shape, t.dtype) for t in traced.inputs]
        return tf.function(call, input_signature=specs, autograph=False).get_concrete_function()

    def _freeze(self, model, batch=None, lower=True):
        import tensorflow as tf
        from tensorflow.python.framework.convert_to_constants import (
            convert_variables_to_constants_v2 as freeze,
        )

        specs = [
            tf.TensorSpec((batch, *t.shape[1:]), t.dtype, name=f"input_{i}")
            for i, t in enumerate(model.inputs)
        ]
        function = tf.function(lambda *x: model(list(x), training=False), autograph=False)
        concrete = function.get_concrete_function(*specs)
        frozen = freeze(concrete, lower_control_flow=lower)
        self._alive += [concrete, frozen]
        names = [[t.name for t in side] for side in (frozen.inputs, frozen.outputs)]
        graph = frozen.graph.as_graph_def()
        nodes = [node for node in graph.node if node.op != "Placeholder"]  # XLA knows none
        del graph.node[:]
        graph.node.extend(nodes)
        return graph, *names

    def _applying(self, k):
        # not a lambda with `k=k`: TensorFlow takes `k` for an argument it misses in each call
        return lambda *tensors: self._apply(k, tensors)

    def _apply(self, k, tensors, frozen=None):
        """Puts the frozen stage `k` into the graph that is being traced."""
        import tensorflow as tf

        graph, inputs, outputs = (frozen or self._frozen)[k]
        here = [tf.identity(tensor) for tensor in tensors]  # inside a conditional: its own
        feeds = dict(zip(inputs, here, strict=True))
        return tf.graph_util.import_graph_def(graph, feeds, outputs, name=f"stage_{k}")

    def _function(self, function, inputs, more=(), batch=None, jit_compile=False):
        import tensorflow as tf

        specs = [
            tf.TensorSpec((batch, *shape), dtype) for shape, dtype in map(self.specs.get, inputs)
        ]
        specs = [*specs, *more]
        traced = tf.function(
            function, input_signature=specs, autograph=False, jit_compile=jit_compile
        )
        return traced.get_concrete_function()


def _fastest(functions, examples):
    """Returns the function that is fastest on all examples, of those that can be compiled.

    They are measured in turn, so that other load of the machine affects all of them alike.

    Args:
        functions: Sequence of functions; `None` entries are left out.
        examples: Sequence of lists of arguments.
    """
    import tensorflow as tf

    def answer_all(function):
        for given in examples:
            function(*given)

    seconds = {}
    for function in filter(None, functions):
        try:
            answer_all(function)
            seconds[function] = []
        except tf.errors.OpError:  # something that XLA cannot compile
            if function is functions[0]:
                raise
    end = time.perf_counter() + _timings.CHOOSING
    while time.perf_counter() < end or not all(seconds.values()):
        for function, taken in seconds.items():
            start = time.perf_counter()
            answer_all(function)
            taken.append(time.perf_counter() - start)
    return min(seconds, key=lambda function: np.median(seconds[function]))


def _direct(function):
    """Returns the function of tensors without TensorFlow's checks of their types and shapes.

    TensorFlow does them in Python, at every call: a tenth of what a first exit takes.
    """
    call = getattr(function, "_call_flat", None)
    if call is None:
        return function
    captured = function.captured_inputs
    return lambda *tensors: call(list(tensors), captured)


def _tensor(array):
    """Returns a tensor that reads our memory, or an aligned copy: TensorFlow's take longer."""
    import tensorflow as tf

    if isinstance(array, tf.Tensor):
        return array
    if not isinstance(array, np.ndarray) or array.dtype != "float32":
        return tf.convert_to_tensor(array)
    if not (array.flags.writeable and is_aligned(array)):
        array, given = aligned(array.shape, array.dtype), array
        array[...] = given
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


class JaxStages(Stages):
    """Jitted functions; each new batch size compiles once."""

    def __init__(self, stages, classes=None):
        import jax

        super().__init__(stages, classes)
        # copies: Keras hands its own arrays to the functions it compiles, which delete them
        self._weights = [
            tuple(
                [jax.numpy.array(v.value, copy=True) for v in variables]
                for variables in (m.trainable_variables, m.non_trainable_variables)
            )
            for m in self.models
        ]
        self._jitted = [
            jax.jit(lambda weights, tensors, k=k: self._pure(k, weights, tensors))
            for k in range(len(stages))
        ]
        self._first = jax.jit(
            lambda weights, images, count: chain(
                lambda k, tensors: self._pure(k, weights[k], tensors), self, images, count
            ),
            static_argnums=2,
        )

    def stage(self, k, tensors):
        return self._jitted[k](self._weights[k], list(tensors))

    def first(self, count, images):
        return self._first(self._weights, images, count)

    def conditional(self, policy, exits):
        """Returns a function of one sample and thresholds: the answer and where it leaves."""
        import jax

        def function(weights, images, thresholds):
            def apply(k, tensors):
                return self._pure(k, weights[k], tensors)

            return nested(apply, self, policy, exits)(images, thresholds)

        jitted = jax.jit(function)

        def run(image, thresholds):
            logits, stage = jitted(self._weights, image, thresholds)
            return np.asarray(logits), int(stage)

        return run

    def _pure(self, k, weights, tensors):
        outputs, _ = self.models[k].stateless_call(*weights, list(tensors), training=False)
        return outputs
