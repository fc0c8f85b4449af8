"""Adds a signature that runs the whole chain in one call, with its exits inside.

The subgraphs of the stages are copied, not converted again, so that they give the same
answers to the last bit and share the stages' weights; between them stand the rule, as
float operations, also in an int8 file, and an `IF`.
"""

import copy

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from keras_adaptive.export import flatbuffer
from keras_adaptive.graph import carried

SIGNATURE = "predict"
RUNTIME = "1.15.0"  # the first that knows `IF`


def add_single_call(model, stages, exits, policy):
    """Adds `predict(x, thresholds)`, which gives `logits` and `exit_index`.

    `thresholds` is float32, one a stage of the file; the last is not looked at. `exit_index`
    is int32 `[1]`, the number of the exit in the network.

    Args:
        model: `schema.ModelT` with the signatures `stage_<i>`; changed in place.
        stages: As `graph.lean_models` gives them.
        exits: Indices of the exits in the file.
        policy: An `ExitPolicy`: its confidence and temperatures are written into the file.
    """
    last = len(stages) - 1
    following = None
    for i in range(last, -1, -1):
        carried = _carried(stages, i)
        body = _Body(model, _name(i))
        for name in carried:
            body.inputs[name] = body.copy_tensor(_stage_tensor(model, stages, name))
        thresholds = flatbuffer.tensor("thresholds", [len(stages)], "float32")
        body.inputs["thresholds"] = body.add(thresholds)
        number = flatbuffer.add_buffer(model, np.array([exits[i]], "int32").tobytes())
        index = body.add(flatbuffer.tensor("this_exit", [1], "int32", number))
        tensors = body.inline_stage(i, {name: body.inputs[name] for name in stages[i][1]})
        if i == last:
            body.outputs = {"logits": tensors["logits"], "exit_index": index}
        else:
            rule = _rule(policy, exits[i], i, len(stages), stages[i][0].outputs[0].shape[-1])
            flatbuffer.raise_minimum_runtime(model, flatbuffer.minimum_runtime(rule))
            leaves = body.inline_rule(
                rule, {"logits": tensors["logits"], "thresholds": body.inputs["thresholds"]}
            )
            known = {**body.inputs, **tensors, "exit_index": index}
            # in the order in which the next body, made before, takes them
            names = [*_carried(stages, i + 1), "thresholds", "logits", "exit_index"]
            onward = {name: known[name] for name in names}
            stop = _stop(model, body, i, onward)
            if i > 0:  # what the first stage goes on to is prepared when the file is loaded
                following = _door(model, body, i, following, onward)
            body.outputs = body.choose(leaves, stop, following, onward)
        inputs = body.inputs
        if i > 0:  # the branches of an `IF` take the same tensors
            for name, dtype, shape in (
                ("logits", "float32", [1, stages[i][0].outputs[0].shape[-1]]),
                ("exit_index", "int32", [1]),
            ):
                inputs[name] = body.add(flatbuffer.tensor(f"{name}_so_far", shape, dtype))
            following = body.append()
    flatbuffer.raise_minimum_runtime(model, RUNTIME)
    inputs = {"x": inputs["input_0"], "thresholds": inputs["thresholds"]}
    flatbuffer.add_signature(model, SIGNATURE, body.subgraph(), inputs, body.outputs)


def _name(stage):
    return SIGNATURE if stage == 0 else f"{SIGNATURE}_{stage}"


def _carried(stages, i):
    """Names of the tensors that stage `i` or a later one reads, and none of them makes."""
    _, takes, gives = zip(*stages[i:], strict=True)
    return carried(takes, gives)


def _numbers(entries):
    return {flatbuffer.text(entry.name): entry.tensorIndex for entry in entries}


def _stage_tensor(model, stages, name):
    """Returns a tensor that passes between stages, as the first that takes it has it."""
    i = next(i for i, (_, takes, _) in enumerate(stages) if name in takes)
    found = flatbuffer.signature(model, f"stage_{i}")
    return model.subgraphs[found.subgraphIndex].tensors[_numbers(found.inputs)[name]]


class _Body:
    """A subgraph in the making."""

    def __init__(self, model, name):
        self.model, self.name = model, name
        self.tensors, self.operators = [], []
        self.inputs, self.outputs = {}, {}

    def append(self):
        """Adds the subgraph to the model; returns its number."""
        self.model.subgraphs.append(self.subgraph())
        return len(self.model.subgraphs) - 1

    def subgraph(self):
        return flatbuffer.subgraph(
            self.name, self.tensors, self.inputs.values(), self.outputs.values(), self.operators
        )

    def add(self, tensor):
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def copy_tensor(self, tensor):
        return self.add(copy.copy(tensor))

    def inline_stage(self, i, inputs):
        """Copies a stage's operations; returns its outputs, name to number."""
        found = flatbuffer.signature(self.model, f"stage_{i}")
        return self._inline(
            self.model.subgraphs[found.subgraphIndex],
            {_numbers(found.inputs)[name]: number for name, number in inputs.items()},
            _numbers(found.outputs),
            lambda opcode: opcode,
        )

    def inline_rule(self, rule, inputs):
        """Copies the operations of another file; returns the number of `leaves`."""
        found = flatbuffer.signature(rule, "rule")
        graph = copy.copy(rule.subgraphs[found.subgraphIndex])
        graph.tensors = [copy.copy(tensor) for tensor in graph.tensors]
        for tensor in graph.tensors:
            data = rule.buffers[tensor.buffer].data
            values = data is not None and len(data)
            tensor.buffer = flatbuffer.add_buffer(self.model, bytes(data)) if values else 0
        return self._inline(
            graph,
            {_numbers(found.inputs)[name]: number for name, number in inputs.items()},
            _numbers(found.outputs),
            lambda opcode: flatbuffer.operation_number(self.model, rule.operatorCodes[opcode]),
        )["leaves"]

    def choose(self, condition, then, otherwise, inputs):
        """Adds an `IF`; returns its outputs, name to number."""
        outputs = {
            "logits": self.copy_tensor(self.tensors[inputs["logits"]]),
            "exit_index": self.add(flatbuffer.tensor("exit_index", [1], "int32")),
        }
        self.tensors[outputs["logits"]].name = "logits"
        options = schema.IfOptionsT()
        options.thenSubgraphIndex, options.elseSubgraphIndex = then, otherwise
        self._operate("IF", [condition, *inputs.values()], list(outputs.values()), options)
        return outputs

    def prepare_rest_when_run(self, number):
        """Lets the runtime prepare the operations to come only when it comes to them.

        It makes the tensor `number`, of one element, a scalar, by a shape that is empty but
        not a constant.
        """
        shape = self.add(flatbuffer.tensor("scalar_shape", [0], "int32"))
        scalar = self.add(flatbuffer.tensor("scalar", [], "int32"))
        options = schema.ReshapeOptionsT()
        options.newShape = []
        self._operate("RESHAPE", [number, shape], [scalar], options)

    def _operate(self, name, inputs, outputs, options):
        made = schema.OperatorT()
        made.opcodeIndex = flatbuffer.operation(self.model, name)
        made.inputs, made.outputs = inputs, outputs
        made.builtinOptionsType = getattr(
            schema.BuiltinOptions, type(options).__name__.removesuffix("T")
        )
        made.builtinOptions = options
        self.operators.append(made)

    def _inline(self, graph, placed, outputs, opcode_of):
        place = dict(placed)
        for number, tensor in enumerate(graph.tensors):
            if number not in place:
                place[number] = self.copy_tensor(tensor)
        place[-1] = -1  # an optional tensor that is not there
        for operator in graph.operators:
            made = copy.copy(operator)
            made.opcodeIndex = opcode_of(operator.opcodeIndex)
            made.inputs = [place[int(n)] for n in operator.inputs]
            made.outputs = [place[int(n)] for n in operator.outputs]
            if operator.intermediates is not None:
                made.intermediates = [place[int(n)] for n in operator.intermediates]
            self.operators.append(made)
        return {name: place[number] for name, number in outputs.items()}


def _branch(model, name, body, inputs):
    """Returns a branch in the making that takes these tensors of a body."""
    branch = _Body(model, name)
    for key, number in inputs.items():
        tensor = copy.copy(body.tensors[number])
        tensor.buffer, tensor.name = 0, key
        branch.inputs[key] = branch.add(tensor)
    return branch


def _stop(model, body, i, inputs):
    """Adds the branch that leaves: it gives back the logits and the exit."""
    stop = _branch(model, f"leave_{i}", body, inputs)
    stop.outputs = {name: stop.inputs[name] for name in ("logits", "exit_index")}
    return stop.append()


def _door(model, body, i, following, inputs):
    """Adds a branch between a stage and the next: it goes on to the next, whatever comes.

    At each run of an `IF` the runtime prepares the branch anew, and with it the branches of
    an `IF` in there, and so on: the whole rest of the network, which few samples see. It goes
    no further than to an operation that gives a tensor of a shape not yet known. One stands
    here, so that who leaves after a stage does not wait for the next stage to be prepared;
    and not in the next stage itself, since the runtime goes over all tensors of a branch,
    although it prepares none of its operations.
    """
    door = _branch(model, f"go_on_{i}", body, inputs)
    door.prepare_rest_when_run(door.inputs["exit_index"])  # any tensor of one element
    yes = door.add(flatbuffer.tensor("yes", [1], "bool", flatbuffer.add_buffer(model, b"\1")))
    door.outputs = door.choose(yes, following, following, door.inputs)
    return door.append()


def _rule(policy, exit, stage, stages, classes):
    """Returns, as a file of its own, whether a sample leaves at a stage."""
    temperature = float(policy.temperatures[exit])

    @tf.function(
        input_signature=[
            tf.TensorSpec((1, classes), tf.float32, name="logits"),
            tf.TensorSpec((stages,), tf.float32, name="thresholds"),
        ]
    )
    def rule(logits, thresholds):
        if policy.confidence == "learned":
            sure = _stopping_probability(policy.networks[exit], logits)
        else:
            scaled = logits if temperature == 1 else logits / temperature
            sure = CONFIDENCES[policy.confidence](scaled)
        return {"leaves": sure >= thresholds[stage : stage + 1]}

    module = tf.Module()
    module.rule = rule
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [rule.get_concrete_function()], module
    )
    model = flatbuffer.read(converter.convert())
    graph = model.subgraphs[0]
    if not model.signatureDefs:
        raise RuntimeError("The rule must have a signature; nothing was written.")
    model.signatureDefs[0].signatureKey = "rule"
    assert model.signatureDefs[0].subgraphIndex == 0
    assert len(graph.outputs) == 1
    return model


# ---- confidence, as in `keras_adaptive.policy`, in TensorFlow: (1, classes) -> (1,)


def _margin(values):
    top = tf.math.top_k(values, k=2).values
    return top[:, 0] - top[:, 1]


def _entropy(logits):
    shifted = logits - tf.reduce_max(logits, axis=-1, keepdims=True)
    exponentials = tf.exp(shifted)
    total = tf.reduce_sum(exponentials, axis=-1)
    return tf.reduce_sum(exponentials * shifted, axis=-1) / total - tf.math.log(total)


CONFIDENCES = {
    "max_prob": lambda logits: tf.reduce_max(tf.nn.softmax(logits), axis=-1),
    "prob_margin": lambda logits: _margin(tf.nn.softmax(logits)),
    "logit_margin": _margin,
    "entropy": _entropy,
}


def _stopping_probability(network, logits):
    features = tf.nn.softmax(logits)
    for i, (kernel, bias) in enumerate(network):
        if i > 0:
            features = tf.nn.relu(features)
        features = tf.matmul(features, kernel) + bias
    return tf.nn.softmax(features)[:, 0]
