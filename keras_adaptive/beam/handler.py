"""`AdaptiveModelHandler`: an exported file as a model of Beam's RunInference."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from anytime_tflite import BatchPredictor, pixels, read_info
from keras_adaptive._checks import integer, needs_extra
from keras_adaptive.beam._samples import described, picture_rule

with needs_extra("beam"):
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.ml.inference.base import ModelHandler, PredictionResult

ARGUMENTS = (
    "thresholds",
    "log_odds",
)  # of `BatchPredictor.predict`, that `inference_args` may hold


class Inference(NamedTuple):
    """The answer to one sample.

    Attributes:
        label: Integer, the most probable class.
        probability: Float, its probability.
        exit: Integer, the exit at which the sample left.
        cost: Float, multiply-accumulates that it has cost; NaN if the file does not say.
    """

    label: int
    probability: float
    exit: int
    cost: float


class AdaptiveModelHandler(ModelHandler):
    """Lets Beam's `RunInference` compute the answers to samples with an exported file.

    Batching, sharing of the model, metrics, new versions of the file and error outputs are
    Beam's own. In the workers `anytime_tflite.BatchPredictor` computes each sample by itself, so
    that the answers do not depend on how Beam makes batches. No worker loads TensorFlow.

    An element is one sample: an array of the network's input (uint8 pixels, if the file says how
    they are standardized); a dictionary of arrays, of a network with several inputs; or the
    content of a picture file as `bytes`, which is read by the pixel rule of the file. With keys,
    the way of Beam: `KeyedModelHandler(AdaptiveModelHandler(path))` takes `(key, sample)`. The
    `inference` of each `PredictionResult` is an `Inference`.

    Args:
        path: String, a file of `export_tflite`, on any file system that Beam knows.
        workers: Integer, the threads of each process. `None`: one per core that the process may
            use; give 1 where the runner starts a process per core.
        **kwargs: Of Beam's `ModelHandler`: `min_batch_size`, `max_batch_size`, `large_model`
            (one copy for all processes of a machine), `model_copies` and others.

    Raises:
        TypeError, ValueError: If `path` is no file of `export_tflite`, or `workers` no positive
            integer.

    Example:

    ```python
    with beam.Pipeline() as pipeline:
        answers = (
            pipeline
            | beam.Create(images)
            | RunInference(ka.beam.AdaptiveModelHandler("model.tflite"))
            | beam.Map(lambda result: (result.inference.label, result.inference.exit))
        )
    ```
    """

    def __init__(self, path, workers=None, **kwargs):
        super().__init__(**kwargs)
        self._path = path if isinstance(path, str) else str(path)
        self._workers = None if workers is None else integer("workers", workers, 1)
        read_info(reachable(self._path))
        self._rule = None

    def update_model_path(self, model_path=None):
        """Computes with another file from now on, as Beam's automatic refresh asks for."""
        if model_path and model_path != self._path:
            self._path, self._rule = model_path, None

    def load_model(self):
        return BatchPredictor(reachable(self._path), self._workers)

    def validate_inference_args(self, inference_args):
        """Accepts `thresholds` or `log_odds`, as `BatchPredictor.predict` takes them."""
        unknown = sorted(set(inference_args or {}) - set(ARGUMENTS))
        if unknown:
            raise ValueError(f"`inference_args` must be among {ARGUMENTS}. Received: {unknown}")

    def run_inference(self, batch, model, inference_args=None):
        answers = self._answers(batch, model, inference_args)
        for example, inference in zip(batch, inferences(*answers), strict=True):
            yield PredictionResult(example, inference, self._path)

    def _answers(self, samples, model, inference_args=None):
        samples = self._read(samples)
        if isinstance(samples[0], dict):
            x = {name: stacked([sample[name] for sample in samples]) for name in samples[0]}
        else:
            x = stacked(samples)
        return model.predict(x, verbose=0, **(inference_args or {}))

    def _read(self, samples):
        """Returns samples with what are pictures read; not in `load_model`, which may run in
        another process than this."""
        if not any(isinstance(sample, bytes) for sample in samples):
            return samples
        if self._rule is None:
            self._rule = picture_rule(described(reachable(self._path)), self._path)

        def read(sample):
            return pixels.read(sample, self._rule) if isinstance(sample, bytes) else sample

        with ThreadPoolExecutor(self._workers) as pool:
            return list(pool.map(read, samples))

    def get_num_bytes(self, batch):
        return sum(size(sample) for sample in batch)

    def get_metrics_namespace(self):
        return "keras_adaptive"


def reachable(path):
    """Returns a path of this machine as it is, and the content of a file from elsewhere."""
    if "://" not in path:
        return path
    with FileSystems.open(path) as file:
        return file.read()


def stacked(samples):
    """Returns samples as one array; as a list, of which errors name the sample, if none can be."""
    arrays = [np.asarray(sample) for sample in samples]
    same = len({(array.shape, array.dtype) for array in arrays}) == 1
    return np.stack(arrays) if same else arrays


def inferences(probabilities, labels, exits, costs):
    """Returns the answers to many samples as a list of `Inference`."""
    most = probabilities[np.arange(len(labels)), labels]
    columns = (labels, most, exits, costs)
    return [Inference(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]


def size(sample):
    """Returns how many bytes a sample takes, about."""
    if isinstance(sample, dict):
        return sum(map(size, sample.values()))
    return len(sample) if isinstance(sample, bytes) else np.asarray(sample).nbytes
