"""`ScoreFiles`: from files of pictures to the answers, as a part of any Beam pipeline."""

import json
import os

from keras_adaptive._checks import needs_extra
from keras_adaptive.beam import _samples
from keras_adaptive.beam.handler import AdaptiveModelHandler, reachable
from keras_adaptive.beam.scoring import answers_schema, reason

with needs_extra("beam"):
    import apache_beam
    from apache_beam.io import fileio
    from apache_beam.ml.inference.base import KeyedModelHandler, RunInference


class ScoreFiles(apache_beam.PTransform):
    """Reads the samples in files, computes the answers with an exported file, and writes them.

    It is applied to a pipeline. The files may be on any file system that Beam knows. They are
    read as `ka.beam.score` reads them, and the answers have the same columns, in Parquet; what
    cannot be read is not lost, but in the errors. Sizes and names of the files of answers are
    Beam's.

    Args:
        pattern: String, or a list of strings: patterns of pictures, TFRecord or Parquet files.
        model: String, a file of `export_tflite`.
        output: String, the folder of the answers, `part-*.parquet`, and of the errors,
            `errors-*.jsonl`. `None`: nothing is written.
        image_column, label_column, key_column: As in `score`.
        **kwargs: Of `AdaptiveModelHandler`.

    Returns:
        Dictionary of two PCollections: `"answers"`, dictionaries with `key`, `label`,
        `class_name`, `probability`, `exit` and `cost`; and `"errors"`, with `file` and `reason`.

    Raises:
        TypeError, ValueError: If `model` is no file of `export_tflite` with one input.

    Example:

    ```python
    with apache_beam.Pipeline(options=options) as pipeline:
        pipeline | ka.beam.ScoreFiles("gs://bucket/*.jpg", "model.tflite", "gs://bucket/answers")
    ```
    """

    def __init__(
        self,
        pattern,
        model,
        output=None,
        *,
        image_column=None,
        label_column=None,
        key_column=None,
        **kwargs,
    ):
        super().__init__()
        alone = isinstance(pattern, (str, os.PathLike))
        self.patterns = [str(pattern)] if alone else list(map(str, pattern))
        self.model, self.output = str(model), output
        self.columns = _samples.Columns(image_column, label_column, key_column)
        self.handler = AdaptiveModelHandler(self.model, **kwargs)
        self.info = _samples.described(reachable(self.model))
        _samples.Preparation(self.info, self.model)

    def expand(self, pipeline):
        read = (
            pipeline
            | "patterns" >> apache_beam.Create(self.patterns)
            | fileio.MatchAll()
            | "files" >> apache_beam.Reshuffle()
            | fileio.ReadMatches()
            | apache_beam.ParDo(ReadSamples(self.info, self.model, self.columns)).with_outputs(
                "errors", main="samples"
            )
        )
        answers = (
            read.samples
            | "samples" >> apache_beam.Reshuffle()
            | RunInference(KeyedModelHandler(self.handler))
            | apache_beam.Map(answer, self.info.get("class_names"))
        )
        if self.output is not None:
            folder = str(self.output).rstrip("/")
            answers | apache_beam.io.WriteToParquet(
                f"{folder}/part", answers_schema(), file_name_suffix=".parquet"
            )
            lines = read.errors | apache_beam.Map(json.dumps)
            lines | apache_beam.io.WriteToText(f"{folder}/errors", file_name_suffix=".jsonl")
        return {"answers": answers, "errors": read.errors}


class ReadSamples(apache_beam.DoFn):
    """Reads the samples in files, as pairs of key and array; errors have an output of their own.

    Args:
        info, name: Of `Preparation`.
        columns: `Columns`.
    """

    def __init__(self, info, name, columns):
        self._made, self._columns = (info, name), columns

    def setup(self):
        self._preparation = _samples.Preparation(*self._made)

    def process(self, file):
        for item in self._items(file):
            try:
                array = self._preparation.array(item.content)
                self._preparation.check(array)  # behind, one would end the whole pipeline
                yield item.key, array
            except ValueError as error:
                found = {"file": item.key, "reason": reason(error)}
                yield apache_beam.pvalue.TaggedOutput("errors", found)

    def _items(self, file):
        name = file.metadata.path
        kind = _samples.kind_of(name)
        try:
            with file.open(compression_type="uncompressed") as opened:
                if kind == "picture":
                    content = opened.read(_samples.pixels.BYTES + 1)
                    yield _samples.picture(name)._replace(content=content)
                else:
                    read = _samples.records if kind == "tfrecord" else _samples.rows
                    yield from read(opened, name, self._columns)
        except OSError as error:
            yield _samples.Item(_samples.text(name), None, error)


def answer(keyed, class_names):
    """Returns a row of the answers."""
    key, result = keyed
    found = result.inference
    return {
        "key": key,
        "label": found.label,
        "class_name": None if class_names is None else class_names[found.label],
        "probability": found.probability,
        "exit": found.exit,
        "cost": None if found.cost != found.cost else found.cost,
    }
