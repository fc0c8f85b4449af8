"""The programs that can run a stage: one class each, with the same three methods."""

import numpy as np


def interpreter_class():
    """Returns the class of the interpreter that is installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        try:
            from tflite_runtime.interpreter import Interpreter
        except ImportError as error:
            raise ImportError(
                "A TFLite interpreter is needed: pip install ai-edge-litert (or tflite-runtime)"
            ) from error
    return Interpreter


class InterpreterBackend:
    """Runs stages in the interpreter of `ai_edge_litert` or of `tflite_runtime`.

    The public way to run a signature allocates its tensors anew and copies every output
    each time, which costs up to a third of a small stage. Where the interpreter's own
    wrapper can be reached, and gives the same logits, features are copied once, from the
    stage that gives them to those that take them.

    Args:
        path: Path of the file.
        num_threads: Integer, or `None`.
        stages: Integer, how many the file has.
    """

    def __init__(self, path, num_threads, stages):
        self._interpreter = interpreter_class()(model_path=str(path), num_threads=num_threads)
        # before any signature runner is made, or old runtimes leave XNNPACK out
        self._interpreter.allocate_tensors()
        self.signatures = set(self._interpreter.get_signature_list())
        keys = [f"stage_{i}" for i in range(stages)]
        missing = sorted({"info", *keys} - self.signatures)
        if missing:
            raise ValueError(f"there is no signature {missing[0]!r}")
        self._runners = [self._interpreter.get_signature_runner(key) for key in keys]
        self._takes = [sorted(runner.get_input_details()) for runner in self._runners]
        details = self._runners[0].get_input_details()["input_0"]
        self.input_shape = tuple(int(n) for n in details["shape"][1:])
        self.input_dtype = np.dtype(details["dtype"])
        self._tensors = {}
        self._single = None
        self._steps = self._direct()

    @property
    def direct(self):
        """Whether tensors are reached without the public runners."""
        return self._steps is not None

    def start(self, image):
        """Takes the image, of the network's input shape with a batch of one."""
        self._tensors = {"input_0": image}

    def run(self, stage):
        """Runs a stage, whose earlier ones must have run; returns its logits `(classes,)`."""
        if self._steps is None:
            runner, takes = self._runners[stage], self._takes[stage]
            self._tensors.update(runner(**{name: self._tensors[name] for name in takes}))
            return self._tensors["logits"][0].astype("float64")
        wrapper, graph, inputs, outputs = self._steps[stage]
        for name, target in inputs:
            np.copyto(target, self._tensors[name])
        wrapper.Invoke(graph)
        for name, number in outputs:  # anew: where a block can be skipped, they may move
            self._tensors[name] = wrapper.tensor(wrapper, number, graph)
        return self._tensors["logits"][0].astype("float64")

    def predict(self, image, thresholds):
        """Runs the single call; returns logits `(classes,)` and the exit."""
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
        return answer["logits"][0].astype("float64"), int(answer["exit_index"][0])

    def close(self):
        self._steps = self._runners = self._interpreter = self._single = None
        self._tensors = {}

    def _direct(self):
        """Returns how to run each stage on the interpreter's own memory, or `None`."""
        image = np.random.default_rng(0).normal(size=(1, *self.input_shape))
        image = image.astype(self.input_dtype)
        self._steps = None
        self.start(image)
        expected = [self.run(i) for i in range(len(self._runners))]  # allocates every stage
        try:
            steps = []
            for runner, takes in zip(self._runners, self._takes, strict=True):
                wrapper, graph = runner._interpreter_wrapper, runner._subgraph_index
                inputs = {n: wrapper.tensor(wrapper, runner._inputs[n], graph) for n in takes}
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


class CompiledModelBackend:
    """Runs stages in LiteRT's CompiledModel; features stay in its buffers, uncopied.

    Args:
        path: Path of the file.
        num_threads: Integer, or `None`.
        stages: Integer, how many the file has.
    """

    direct = True

    def __init__(self, path, num_threads, stages):
        try:
            from ai_edge_litert.compiled_model import CompiledModel
            from ai_edge_litert.hardware_accelerator import HardwareAccelerator
            from ai_edge_litert.options import CpuOptions, Options
        except ImportError as error:
            raise ImportError(
                "The compiled model needs LiteRT: pip install 'ai-edge-litert>=2.1'"
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
        self._steps = []
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

    def start(self, image):
        self._buffers["input_0"].write(image)

    def run(self, stage):
        key, inputs, outputs, classes = self._steps[stage]
        self._model.run_by_name(key, inputs, outputs)
        return np.asarray(outputs["logits"].read(classes, np.float32), "float64")

    def predict(self, image, thresholds):
        raise ValueError('The single call must be run with `backend="interpreter"`')

    def close(self):
        self._steps, self._buffers, self._model = None, {}, None


BACKENDS = {"interpreter": InterpreterBackend, "compiled_model": CompiledModelBackend}
