"""The backends that can run a stage: the TFLite interpreter and LiteRT's CompiledModel."""

import os
from typing import Any, Protocol

import numpy as np

from anytime_tflite.rule import Array

Path = str | os.PathLike[str]


class Backend(Protocol):
    """Runs the stages of one file.

    Attributes:
        signatures: Set of the names of the file's signatures.
        input_shape: Tuple of integers, the shape of an image.
    """

    signatures: set[str]
    input_shape: tuple[int, ...]

    def __init__(self, path: Path, num_threads: int | None, stages: int) -> None: ...

    @property
    def direct(self) -> bool:
        """Whether features pass from stage to stage without the public runners' copies."""

    def start(self, image: Array) -> None:
        """Begins an image, of the network's input shape with a batch of one."""

    def run(self, stage: int) -> Array:
        """Runs a stage, whose earlier ones must have run; returns its logits `(classes,)`."""

    def predict(self, image: Array, thresholds: Array) -> tuple[Array, int]:
        """Runs the single call; returns logits `(classes,)` and the exit."""

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
    stage that computes them to those that read them.

    Args:
        path: Path of the file.
        num_threads: Integer, or `None`.
        stages: Integer, how many the file has.
    """

    def __init__(self, path: Path, num_threads: int | None, stages: int) -> None:
        self._interpreter = interpreter_class()(model_path=str(path), num_threads=num_threads)
        # before any signature runner is made, or old runtimes leave XNNPACK out
        self._interpreter.allocate_tensors()
        self.signatures = set(self._interpreter.get_signature_list())
        keys = [f"stage_{i}" for i in range(stages)]
        missing = sorted({"info", *keys} - self.signatures)
        if missing:
            raise ValueError(f"there is no signature {missing[0]!r}")
        self._runners = [self._interpreter.get_signature_runner(key) for key in keys]
        self._inputs = [sorted(runner.get_input_details()) for runner in self._runners]
        details = self._runners[0].get_input_details()["input_0"]
        self.input_shape = tuple(int(n) for n in details["shape"][1:])
        self.input_dtype = np.dtype(details["dtype"])
        self._tensors: dict[str, Array] = {}
        self._single: tuple[Any, ...] | None = None
        self._steps: list[Any] | None = self._direct()

    @property
    def direct(self) -> bool:
        return self._steps is not None

    def start(self, image: Array) -> None:
        self._tensors = {"input_0": image}

    def run(self, stage: int) -> Array:
        if self._steps is None:
            runner, names = self._runners[stage], self._inputs[stage]
            self._tensors.update(runner(**{name: self._tensors[name] for name in names}))
            return _logits(self._tensors)
        wrapper, graph, inputs, outputs = self._steps[stage]
        for name, target in inputs:
            np.copyto(target, self._tensors[name])
        wrapper.Invoke(graph)
        for name, number in outputs:  # anew: where a block can be skipped, they may move
            self._tensors[name] = wrapper.tensor(wrapper, number, graph)
        return _logits(self._tensors)

    def predict(self, image: Array, thresholds: Array) -> tuple[Array, int]:
        if self._single is None:
            runner = self._interpreter.get_signature_runner("predict")
            answer = runner(x=image, thresholds=thresholds)  # allocates
            if self._steps is not None:
                self._single = runner._interpreter_wrapper, runner._subgraph_index, runner
        else:
            wrapper, graph, runner = self._single
            wrapper.SetTensor(runner._inputs["x"], image, graph)
            wrapper.SetTensor(runner._inputs["thresholds"], thresholds, graph)
            wrapper.Invoke(graph)
            numbers = dict(runner._outputs)
            answer = {name: wrapper.GetTensor(number, graph) for name, number in numbers.items()}
        return _logits(answer), int(answer["exit_index"][0])

    def close(self) -> None:
        self._steps = self._interpreter = self._single = None
        self._runners = []
        self._tensors = {}

    def _direct(self) -> list[Any] | None:
        """Returns how to run each stage on the interpreter's own memory, or `None`."""
        image = np.random.default_rng(0).normal(size=(1, *self.input_shape))
        image = image.astype(self.input_dtype)
        self._steps = None
        self.start(image)
        expected = [self.run(i) for i in range(len(self._runners))]  # allocates every stage
        try:
            steps = []
            for runner, names in zip(self._runners, self._inputs, strict=True):
                wrapper, graph = runner._interpreter_wrapper, runner._subgraph_index
                inputs = {n: wrapper.tensor(wrapper, runner._inputs[n], graph) for n in names}
                outputs = list(dict(runner._outputs).items())
                steps.append((wrapper, graph, list(inputs.items()), outputs))
            self._steps = steps
            self.start(image)
            found = [self.run(i) for i in range(len(steps))]
        except (AttributeError, KeyError, TypeError):  # another version, with other insides
            found = None
        self._steps = None
        same = found is not None and np.array_equal(expected, found)
        return steps if same else None


def _logits(tensors: dict[str, Array]) -> Array:
    """Returns the logits `(classes,)` of a batch of one."""
    logits: Array = tensors["logits"][0].astype("float64")
    return logits


class CompiledModelBackend:
    """Runs stages in LiteRT's CompiledModel; features stay in its buffers, uncopied.

    Args:
        path: Path of the file.
        num_threads: Integer, or `None`.
        stages: Integer, how many the file has.
    """

    direct = True

    def __init__(self, path: Path, num_threads: int | None, stages: int) -> None:
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
        self._model = model = CompiledModel.from_file(str(path), options=options)
        signatures = model.get_signature_list()
        self.signatures = set(signatures)
        missing = sorted({"info", *(f"stage_{i}" for i in range(stages))} - self.signatures)
        if missing:
            raise ValueError(f"there is no signature {missing[0]!r}")
        details = model.get_input_tensor_details("stage_0")["input_0"]
        self.input_shape = tuple(int(n) for n in details["shape"][1:])
        self.input_dtype = np.dtype("float32")
        self._buffers = {"input_0": model.create_input_buffer_by_name("stage_0", "input_0")}
        self._steps: list[Any] = []
        for i in range(stages):
            key = f"stage_{i}"
            outputs = {
                name: model.create_output_buffer_by_name(key, name)
                for name in signatures[key]["outputs"]
            }
            self._buffers.update(outputs)
            inputs = {name: self._buffers[name] for name in signatures[key]["inputs"]}
            classes = int(model.get_output_tensor_details(key)["logits"]["shape"][-1])
            self._steps.append((key, inputs, outputs, classes))

    def start(self, image: Array) -> None:
        self._buffers["input_0"].write(image)

    def run(self, stage: int) -> Array:
        key, inputs, outputs, classes = self._steps[stage]
        self._model.run_by_name(key, inputs, outputs)
        return np.asarray(outputs["logits"].read(classes, np.float32), "float64")

    def predict(self, image: Array, thresholds: Array) -> tuple[Array, int]:
        raise ValueError('The single call must be run with `backend="interpreter"`')

    def close(self) -> None:
        self._steps, self._buffers, self._model = [], {}, None


BACKENDS: dict[str, type[Backend]] = {
    "interpreter": InterpreterBackend,
    "compiled_model": CompiledModelBackend,
}
