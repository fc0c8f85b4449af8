"""Adds a signature that runs all stages in one call and chooses the exit inside the graph.

The subgraphs of the stages are copied, not converted again, so that they compute the same
answers to the last bit and share the stages' weights; between them stand the decision rule,
as float operations, also in an int8 file, and an `IF`.
"""

import copy

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from keras_adaptive.costs._beside import NAME
from keras_adaptive.export import _writer

SIGNATURE = "predict"
RUNTIME = "2.14.0"  # the oldest one tested; the first with `IF` would copy unwritten tensors
SIZES = {  # bytes of a number
    schema.TensorType.FLOAT32: 4,
    schema.TensorType.INT32: 4,
    schema.TensorType.INT64: 8,
    schema.TensorType.INT8: 1,
    schema.TensorType.BOOL: 1,
}
_ANSWER = ("logits", "exit_index")


def add_single_call(model, stages, inputs, exits, policy):
    """Adds `predict(<inputs>, thresholds)`, which returns `logits` and `exit_index`.

    `thresholds` is float32, in log-odds, one per stage of the file; the last is not used.
    `exit_index` is int32 `[1]`, the number of the exit in the network. Where the stages give
    `cost`, it is returned too.

    Each stage after the first is a branch of an `IF`, whose other branch passes the answer on.
    They follow one another and are not nested: at each run of an `IF` the runtime prepares
    the branch anew, and with it all branches inside it, so that a sample that continues after
    the first exit would wait until the whole rest of the network is prepared.

    Args:
        model: `schema.ModelT` with the signatures `stage_<i>`; changed in place.
        stages: As `_graph.minimal_stages` returns them.
        inputs: Names of the network's inputs.
        exits: Indices of the exits in the file.
        policy: A policy: its rule is written into the file, but not its thresholds.
    """
    body = _Body(model, SIGNATURE)
    for name in inputs:
        body.inputs[name] = body.place(name, _stage_tensor(model, stages, name))
    thresholds = _writer.tensor("thresholds", [len(stages)], "float32")
    body.inputs["thresholds"] = body.add(thresholds)
    # the answer so far, whether it is the last, and what the policy knows of earlier answers
    answer = [*_ANSWER, NAME] if NAME in stages[0][2] else list(_ANSWER)
    carried = [*answer, "leaves", *_state_names(policy)]
    known = {**body.inputs, **_stage(body, 0, stages, exits, policy)}
    for i in range(1, len(stages)):
        reads = stages[i][1]
        names = [*reads, "thresholds", *carried]
        branch = _Body(model, f"{SIGNATURE}_{i}")
        for name in names:
            is_read = name in reads
            like = _stage_tensor(model, stages, name) if is_read else body.tensors[known[name]]
            branch.inputs[name] = branch.place(name, like)
        found = _stage(branch, i, stages, exits, policy)
        branch.outputs = {name: found[name] for name in (*carried, *found) if name in found}
        read = [known[name] for name in names]
        known |= body.choose(known["leaves"], _past(branch, carried), branch, read)
    body.outputs = {name: known[name] for name in answer}
    _writer.raise_minimum_runtime(model, RUNTIME)
    _writer.add_signature(model, SIGNATURE, body.subgraph(), body.inputs, body.outputs)


def _stage(body, i, stages, exits, policy):
    """Adds a stage and, unless it is the last, its rule; returns its outputs, name to number."""
    given = body.inline_stage(i, {name: body.inputs[name] for name in stages[i][1]})
    number = _writer.add_buffer(body.model, np.array([exits[i]], "int32").tobytes())
    given["exit_index"] = body.add(_writer.tensor("this_exit", [1], "int32", number))
    if i < len(stages) - 1:
        classes = stages[i][0].outputs[0].shape[-1]
        rule = _rule(policy, exits[i], i, len(stages), classes)
        _writer.raise_minimum_runtime(body.model, _writer.minimum_runtime(rule))
        known = {**body.inputs, "logits": given["logits"]}
        read = _numbers(_writer.signature(rule, "rule").inputs)
        given |= body.inline_rule(rule, {name: known[name] for name in read})
    return given


def _state_names(policy):
    return [f"state_{j}" for j in range(len(policy.start(1, 2)))]


def _past(branch, carried):
    """Returns the other branch: it passes on the answer of a sample that has left.

    The stage's features have a place in memory, but nothing writes or reads it: all later
    stages are skipped, too. Beside a branch with a loop, whose outputs get their memory at run
    time, the runtime copies them all the same, so that they must be there: zeros.
    """
    loops = any(
        _writer.code_of(branch.model, operator) == schema.BuiltinOperator.WHILE
        for operator in branch.operators
    )
    past = _Body(branch.model, f"past_{branch.name}")
    for name, number in branch.inputs.items():
        past.inputs[name] = past.place(name, branch.tensors[number])
    for name, number in branch.outputs.items():
        if name in carried:
            past.outputs[name] = past.inputs[name]
        else:
            past.outputs[name] = past.place(name, branch.tensors[number])
            if loops:
                past.fill(past.outputs[name])
    return past


def _numbers(entries):
    return {_writer.text(entry.name): entry.tensorIndex for entry in entries}


def _stage_tensor(model, stages, name):
    """Returns a tensor that passes between stages, as the first stage that reads it has it."""
    i = next(i for i, (_, inputs, _) in enumerate(stages) if name in inputs)
    found = _writer.signature(model, f"stage_{i}")
    return model.subgraphs[found.subgraphIndex].tensors[_numbers(found.inputs)[name]]


class _DeviceOps:
    """`keras.ops` in operations that a device has: Keras's `argmax` looks at bits of floats."""

    def __getattr__(self, name):
        return getattr(keras.ops, name)

    @staticmethod
    def argmax(x, axis):
        return tf.argmax(x, axis, output_type=tf.int32)


class _Body:
    """A subgraph under construction."""

    def __init__(self, model, name):
        self.model, self.name = model, name
        self.tensors, self.operators = [], []
        self.inputs, self.outputs = {}, {}

    def append(self):
        """Adds the subgraph to the model; returns its number."""
        self.model.subgraphs.append(self.subgraph())
        return len(self.model.subgraphs) - 1

    def subgraph(self):
        return _writer.subgraph(
            self.name, self.tensors, self.inputs.values(), self.outputs.values(), self.operators
        )

    def add(self, tensor):
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def place(self, name, like):
        """Adds a tensor like another, whose values come at run time."""
        made = copy.copy(like)
        made.name, made.buffer = name, 0
        return self.add(made)

    def fill(self, number):
        """Adds an operation that writes zeros into a tensor."""
        tensor = self.tensors[number]
        shape = np.array(tensor.shape, "int32")
        shape = _writer.tensor(
            "shape", [len(shape)], "int32", _writer.add_buffer(self.model, shape.tobytes())
        )
        zero = copy.copy(tensor)
        zero.name, zero.shape = "zero", []
        zero.buffer = _writer.add_buffer(self.model, bytes(SIZES[tensor.type]))
        made = schema.OperatorT()
        version = 2 if tensor.type == schema.TensorType.INT8 else 1
        made.opcodeIndex = _writer.operation(self.model, "FILL", version)
        made.inputs, made.outputs = [self.add(shape), self.add(zero)], [number]
        self.operators.append(made)

    def inline_stage(self, i, inputs):
        """Copies a stage's operations; returns its outputs, name to number."""
        found = _writer.signature(self.model, f"stage_{i}")
        return self._inline(
            self.model.subgraphs[found.subgraphIndex],
            {_numbers(found.inputs)[name]: number for name, number in inputs.items()},
            _numbers(found.outputs),
            lambda opcode: opcode,
        )

    def inline_rule(self, rule, inputs):
        """Copies the operations of another file; returns its outputs, name to number."""
        found = _writer.signature(rule, "rule")
        graph = copy.copy(rule.subgraphs[found.subgraphIndex])
        graph.tensors = [copy.copy(tensor) for tensor in graph.tensors]
        for tensor in graph.tensors:
            data = rule.buffers[tensor.buffer].data
            values = data is not None and len(data)
            tensor.buffer = _writer.add_buffer(self.model, bytes(data)) if values else 0
        return self._inline(
            graph,
            {_numbers(found.inputs)[name]: number for name, number in inputs.items()},
            _numbers(found.outputs),
            lambda opcode: _writer.operation_number(self.model, rule.operatorCodes[opcode]),
        )

    def choose(self, condition, then, otherwise, inputs):
        """Adds an `IF` between two bodies; returns its outputs, name to number.

        What several names share, as logits that are a feature too, is one output, under the
        first name: the runtime moves an output out of its branch, and does not find it again.
        """
        numbers = dict(otherwise.outputs)
        first = {number: name for name, number in reversed(numbers.items())}
        for body in (then, otherwise):
            body.outputs = {n: t for n, t in body.outputs.items() if n in first.values()}
        outputs = {
            name: self.place(name, otherwise.tensors[number])
            for name, number in otherwise.outputs.items()
        }
        made = schema.OperatorT()
        made.opcodeIndex = _writer.operation(self.model, "IF")
        made.inputs, made.outputs = [condition, *inputs], list(outputs.values())
        made.builtinOptionsType = schema.BuiltinOptions.IfOptions
        made.builtinOptions = options = schema.IfOptionsT()
        options.thenSubgraphIndex, options.elseSubgraphIndex = then.append(), otherwise.append()
        self.operators.append(made)
        return {name: outputs[first[number]] for name, number in numbers.items()}

    def _inline(self, graph, placed, outputs, opcode_of):
        place = dict(placed)
        for number, tensor in enumerate(graph.tensors):
            if number not in place:
                place[number] = self.add(copy.copy(tensor))
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


def _rule(policy, exit, stage, stages, classes):
    """Returns, as a file of its own, whether a sample leaves at a stage, and the state after.

    Its state before the first stage is a constant, and that before the last is not needed.
    """
    ops = _DeviceOps()
    specs = {
        "logits": tf.TensorSpec((1, classes), tf.float32, name="logits"),
        "thresholds": tf.TensorSpec((stages,), tf.float32, name="thresholds"),
    }
    names = _state_names(policy)
    if stage > 0:
        specs |= {
            name: tf.TensorSpec(value.shape, value.dtype, name=name)
            for name, value in zip(names, policy.start(1, classes, ops), strict=True)
        }

    def rule(logits, thresholds, **state):
        before = tuple(state[name] for name in names if stage > 0)
        if stage == 0:
            before = policy.start(1, classes, ops)
        threshold = thresholds[stage : stage + 1]
        leaves, after = policy.step(exit, logits, before, ops, thresholds=threshold)
        return {"leaves": leaves, **dict(zip(names, after, strict=True))}

    module = tf.Module()
    module.rule = tf.function(rule, autograph=False)
    concrete = module.rule.get_concrete_function(**specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    model = _writer.read(converter.convert())
    if not model.signatureDefs:
        raise RuntimeError("The rule must have a signature; nothing was written.")
    model.signatureDefs[0].signatureKey = "rule"
    assert model.signatureDefs[0].subgraphIndex == 0
    return model
