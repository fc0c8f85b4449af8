"""The backends that can run a stage: the TFLite interpreter and LiteRT's CompiledModel."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from anytime_tflite.rule import Array

Source = str | bytes
"""Path of a file, or its content."""
_ANSWERS = ("logits", "exit_index", "cost")


class Backend(Protocol):
    """Runs the stages of one file.

    Attributes:
        signatures: Set of the names of the file's signatures.
        inputs: Dictionary: name of each input of the network to its shape, without the batch,
            and its dtype.
        cost: Number, what the answer of the latest run has cost; `None` if the file does not
            say.
    """

    signatures: set[str]
    inputs: dict[str, tuple[tuple[int, ...], Any]]
    cost: float | None

    def __init__(
        self, source: Source, num_threads: int | None, stages: int, inputs: Sequence[str]
    ) -> None: ...

    @property
    def direct(self) -> bool:
        """Whether features pass from stage to stage without the public runners' copies."""

    def start(self, tensors: dict[str, Array]) -> None:
        """Begins an image: the network's inputs by name, each a batch of one."""

    def run(self, stage: int) -> Array:
        """Runs a stage, whose earlier ones must have run; returns its logits `(classes,)`."""

    def predict(self, tensors: dict[str, Array]) -> tuple[Array, int]:
        """Runs the single call; returns logits `(classes,)` and the exit.

        Args:
            tensors: Its inputs by name.
        """

    def close(self) -> None:
        """Frees the memory."""


def interpreter_class() -> Any:
    """Returns the class of the interpreter that is installed.

    Raises:
        ImportError: If there is none.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        try:
            from tflite_runtime.interpreter import Interpreter
        except ImportError as error:
            raise ImportError(
                "A TFLite interpreter is missing: pip install 'anytime-tflite[litert]' "
                "(or tflite-runtime)"
            ) from error
    return Interpreter


class InterpreterBackend:
    """Runs stages in the interpreter of `ai_edge_litert` or of `tflite_runtime`.

    The public way to run a signature allocates its tensors anew and copies every output
    each time, which costs up to a third of a small stage. Where the interpreter's own
    wrapper can be reached, and gives the same logits, features are copied once, from the
    stage that computes them to those that read them. What runs is allocated when it first does:
    the stages together, and the single call.

    Args:
        source: Path of the file, or its content.
        num_threads: Integer, or `None`.
        stages: Integer, how many the file has.
        inputs: Names of the network's inputs.
    """

    def __init__(
        self, source: Source, num_threads: int | None, stages: int, inputs: Sequence[str]
    ) -> None:
        which = {"model_path" if isinstance(source, str) else "model_content": source}
        self._interpreter = interpreter_class()(**which, num_threads=num_threads)
        # before any signature runner is made, or old runtimes leave XNNPACK out
        self._interpreter.allocate_tensors()
        self.signatures = set(self._interpreter.get_signature_list())
        keys = _stage_keys(stages, self.signatures)
        self._runners = [self._interpreter.get_signature_runner(key) for key in keys]
        details = [runner.get_input_details() for runner in self._runners]
        self._inputs = [sorted(names) for names in details]
        self.inputs = _inputs_of(details, inputs)
        self.cost: float | None = None
        self._tensors: dict[str, Array] = {}
        self._single: Callable[[dict[str, Array]], dict[str, Array]] | None = None
        self._steps: list[Any] | None = None
        self._known = False  # whether it was found out how stages run

    @property
    def direct(self) -> bool:
        self._find_out()
        return self._steps is not None

    def start(self, tensors: dict[str, Array]) -> None:
        self._find_out()
        self._tensors = dict(tensors)

    def run(self, stage: int) -> Array:
        if self._steps is None:
            runner, names = self._runners[stage], self._inputs[stage]
            self._tensors.update(runner(**{name: self._tensors[name] for name in names}))
            return self._answer(self._tensors)
        wrapper, graph, inputs, outputs = self._steps[stage]
        # no view is kept: where a shape depends on values, or a block can be skipped, what a
        # run needs may be more than the last had, and then all tensors move
        for name, number in inputs:
            wrapper.SetTensor(number, self._tensors[name], graph)
        wrapper.Invoke(graph)
        for name, number in outputs:
            self._tensors[name] = wrapper.tensor(wrapper, number, graph)
        return self._answer(self._tensors)

    def predict(self, tensors: dict[str, Array]) -> tuple[Array, int]:
        if self._single is None:
            self._single = self._single_call(tensors)
        answer = self._single(tensors)
        return self._answer(answer), int(answer["exit_index"][0])

    def _single_call(
        self, tensors: dict[str, Array]
    ) -> Callable[[dict[str, Array]], dict[str, Array]]:
        """Returns how to run the single call: on the interpreter's own memory, if that works."""
        runner = self._interpreter.get_signature_runner("predict")
        expected = runner(**tensors)  # allocates
        try:
            wrapper, graph = runner._interpreter_wrapper, runner._subgraph_index
            inputs, outputs = dict(runner._inputs), list(dict(runner._outputs).items())

            def call(tensors: dict[str, Array]) -> dict[str, Array]:
                for name, values in tensors.items():
                    wrapper.SetTensor(inputs[name], values, graph)
                wrapper.Invoke(graph)
                return {name: wrapper.GetTensor(number, graph) for name, number in outputs}

            found = call(tensors)
            same = all(np.array_equal(expected[name], found[name]) for name in expected)
        except (AttributeError, KeyError, TypeError):  # another version, with other insides
            same = False
        return call if same else lambda tensors: runner(**tensors)

    def _answer(self, tensors: dict[str, Array]) -> Array:
        """Returns the logits `(classes,)` of a batch of one, and keeps the cost."""
        cost = tensors.get("cost")
        self.cost = None if cost is None else float(cost[0])
        logits: Array = tensors["logits"][0].astype("float64")
        return logits

    def close(self) -> None:
        self._steps = self._interpreter = self._single = None
        self._runners = []
        self._tensors = {}

    def _find_out(self) -> None:
        """Allocates every stage, and finds out whether they can run without the runners."""
        if not self._known:
            self._known = True
            self._steps = self._direct()

    def _direct(self) -> list[Any] | None:
        """Returns how to run each stage on the interpreter's own memory, or `None`."""
        tensors = random_inputs(self.inputs, np.random.default_rng(0))
        self._steps = None
        self.start(tensors)
        expected = [self.run(i) for i in range(len(self._runners))]  # allocates every stage
        try:
            steps = []
            for runner, names in zip(self._runners, self._inputs, strict=True):
                wrapper, graph = runner._interpreter_wrapper, runner._subgraph_index
                inputs = [(name, runner._inputs[name]) for name in names]
                steps.append((wrapper, graph, inputs, list(dict(runner._outputs).items())))
            self._steps = steps
            self.start(tensors)
            found = [self.run(i) for i in range(len(steps))]
        except (AttributeError, KeyError, TypeError):  # another version, with other insides
            found = None
        self._steps = None
        same = found is not None and np.array_equal(expected, found)
        return steps if same else None


def random_inputs(
    inputs: dict[str, tuple[tuple[int, ...], Any]], rng: np.random.Generator
) -> dict[str, Array]:
    """Returns a batch of one of random inputs, whose shapes and dtypes are as in `Backend`.

    Integers may be indices, of a table of any length: only 0 and 1 fit them all.
    """
    found = {}
    for name, (shape, dtype) in inputs.items():
        size = (1, *shape)
        values = rng.normal(size=size) if dtype.kind == "f" else rng.integers(2, size=size)
        found[name] = values.astype(dtype)
    return found


def _stage_keys(stages: int, signatures: set[str]) -> list[str]:
    keys = [f"stage_{i}" for i in range(stages)]
    missing = [key for key in keys if key not in signatures]
    if missing:
        raise ValueError(f"there is no signature {missing[0]!r}")
    return keys


def _inputs_of(
    details: Sequence[dict[str, Any]], names: Sequence[str]
) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Returns shape and dtype of the network's inputs, from those of every stage's inputs."""
    known = {name: each for stage in reversed(details) for name, each in stage.items()}
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(f"no stage reads the input {missing[0]!r}")
    return {
        name: (tuple(int(n) for n in known[name]["shape"][1:]), np.dtype(known[name]["dtype"]))
        for name in names
    }


class CompiledModelBackend:
    """Runs stages in LiteRT's CompiledModel; features stay in its buffers, uncopied.

    Args:
        source, num_threads, stages, inputs: As in `InterpreterBackend`.
    """

    direct = True

    def __init__(
        self, source: Source, num_threads: int | None, stages: int, inputs: Sequence[str]
    ) -> None:
        try:
            from ai_edge_litert.compiled_model import CompiledModel
            from ai_edge_litert.hardware_accelerator import HardwareAccelerator
            from ai_edge_litert.options import CpuOptions, Options
        except ImportError as error:
            raise ImportError(
                "The compiled model of LiteRT is missing: pip install 'anytime-tflite[litert]'"
            ) from error
        cpu = CpuOptions() if num_threads is None else CpuOptions(num_threads=num_threads)
        options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=cpu)
        make = CompiledModel.from_file if isinstance(source, str) else CompiledModel.from_buffer
        self._model = model = make(source, options=options)
        signatures = model.get_signature_list()
        self.signatures = set(signatures)
        keys = _stage_keys(stages, self.signatures)
        details = [model.get_input_tensor_details(key) for key in keys]
        self.inputs = _inputs_of(details, inputs)
        self.cost: float | None = None
        self._buffers: dict[str, Any] = {}
        self._steps: list[Any] = []
        for key in keys:
            step = self._step(key, signatures[key])
            self._steps.append(step)
        self._single = (
            self._step("predict", signatures["predict"]) if "predict" in signatures else None
        )

    def _step(self, key: str, names: dict[str, list[str]]) -> tuple[Any, ...]:
        """Returns a signature with the buffers it reads and writes, and how long its logits are."""
        for name in names["inputs"]:
            if name not in self._buffers:  # no stage has computed it
                self._buffers[name] = self._model.create_input_buffer_by_name(key, name)
        inputs = {name: self._buffers[name] for name in names["inputs"]}
        outputs = {
            name: self._model.create_output_buffer_by_name(key, name) for name in names["outputs"]
        }
        self._buffers.update((n, b) for n, b in outputs.items() if n not in _ANSWERS)
        classes = int(self._model.get_output_tensor_details(key)["logits"]["shape"][-1])
        return key, inputs, outputs, classes

    def start(self, tensors: dict[str, Array]) -> None:
        for name, values in tensors.items():
            self._buffers[name].write(values)

    def run(self, stage: int) -> Array:
        return self._run(self._steps[stage])

    def predict(self, tensors: dict[str, Array]) -> tuple[Array, int]:
        self.start(tensors)
        logits = self._run(self._single)
        return logits, int(self._single[2]["exit_index"].read(1, np.int32)[0])

    def _run(self, step: tuple[Any, ...]) -> Array:
        key, inputs, outputs, classes = step
        self._model.run_by_name(key, inputs, outputs)
        cost = outputs.get("cost")
        self.cost = None if cost is None else float(cost.read(1, np.float32)[0])
        return np.asarray(outputs["logits"].read(classes, np.float32), "float64")

    def close(self) -> None:
        self._steps, self._buffers, self._model, self._single = [], {}, None, None


BACKENDS: dict[str, type[Backend]] = {
    "interpreter": InterpreterBackend,
    "compiled_model": CompiledModelBackend,
}
