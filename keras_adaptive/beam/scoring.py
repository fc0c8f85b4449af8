"""`score`: the answers of an exported file to any number of samples, shard by shard."""

import contextlib
import hashlib
import itertools
import json
import os
import sys
import uuid
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from anytime_tflite import BatchPredictor
from keras_adaptive import _files
from keras_adaptive._checks import did_you_mean, integer, needs_extra
from keras_adaptive.beam import _samples, _shards

FORMAT, VERSION = "keras_adaptive.Scores", 1
MANIFEST, ERRORS, SUMMARY = "manifest.json", "errors.jsonl", "summary.json"
ANSWERS = "answers"  # the folder of the files of answers, which holds nothing else
SETTINGS = "settings"
METADATA = b"keras_adaptive"  # in the files of answers: what they are part of, and their summary
PORTION = 512  # samples that are given to the predictor at a time
TASK = 16  # pictures that a thread reads at a time
PIPELINE = 16  # shards of a pipeline, where the runner keeps in memory what passes through it
IN_MEMORY = ("DirectRunner", "BundleBasedDirectRunner", "FnApiRunner", "InteractiveRunner")


def score(
    pattern,
    model,
    output,
    *,
    shard_size=10_000,
    workers=None,
    image_column=None,
    label_column=None,
    key_column=None,
    options=None,
    verbose="auto",
):
    """Computes the answers to all samples of files, and writes them into a folder of Parquet files.

    The samples are divided into shards, always in the same way. The answers to a shard are one
    file, which appears when it is whole: a run that was interrupted, however it ended, goes on
    where it was when it is started again, and loses one shard at most. Of samples and answers no
    more is held in memory than a few hundred.

    The folder then holds

    - `answers/part-*.parquet`: `key` (path of a picture; path and number of a record or row, or
      what its key column says), `label`, `class_name`, `probability`, `exit`, `cost`;
    - `errors.jsonl`: `{"file": ..., "reason": ...}` of each sample that cannot be read;
    - `summary.json`: what is returned;
    - `manifest.json`: model, files and settings, whose folder this is.

    Pictures are read by the pixel rule in the file. TFRecord files hold `tf.train.Example`,
    compressed by gzip or not; in those and in Parquet files an image is the content of a picture
    file, uint8 pixels, or numbers of the network's input. A label is a class's number or name; what
    is of no class, such as -1, is no label. A picture whose folder has the name of a class is of
    that class.

    Args:
        pattern: String, or a list of strings: a file; a folder, of which all pictures, TFRecord
            and Parquet files count; or a pattern of names with `*`, `?`, `[...]`, and `**` for any
            folders.
        model: Path of a file of `export_tflite`.
        output: Path of a new folder, or of one that an earlier call has begun.
        shard_size: Integer, the most samples of a shard.
        workers: Integer, threads that compute. `None`: one per core that the process may use; on a
            runner one in each of its threads.
        image_column, label_column, key_column: Strings, features of TFRecord or columns of
            Parquet. `None`: the first of the usual names that there is: image, image/encoded,
            picture, x; label, labels; key, id, image/filename, filename.
        options: List of strings, Beam's pipeline options: `["--runner=FlinkRunner", ...]`. Then
            Beam computes the shards, on machines that must all see the files and the folder.
            `None`: this process does, on all of its cores.
        verbose: 0: silent; 1: shows the progress; `"auto"`: shows it on a terminal.

    Returns:
        Dictionary: `samples`, `errors`, `accuracy` (of the `labeled` samples; `None`: there are
        none), `exit_fractions` by exit, `mean_cost` (`None`: the file does not say), `shards`.

    Raises:
        ValueError: If an argument cannot be meant, nothing has the name, or the folder is of
            another model, other files or other settings, in use, or holds what is not of a run.
        ImportError: If pyarrow is missing, or Beam where there are options.

    Example:

    ```python
    summary = ka.beam.score("photos/**/*.jpg", "run/model.tflite", "answers")
    ```
    """
    shard_size = integer("shard_size", shard_size, 1)
    workers = None if workers is None else integer("workers", workers, 1)
    columns = _samples.Columns(image_column, label_column, key_column)
    for name, column in columns._asdict().items():
        if column is not None and not isinstance(column, str):
            raise ValueError(
                f"`{name}_column` must be a string or None. Received: {name}_column={column!r}"
            )
    if verbose not in ("auto", 0, 1):
        raise ValueError(f'`verbose` must be "auto", 0 or 1. Received: {verbose=}')
    patterns = [pattern] if isinstance(pattern, (str, os.PathLike)) else pattern
    if not isinstance(patterns, Iterable):
        raise TypeError(
            f"`pattern` must be a string or a list of strings. Received: pattern={pattern!r}"
        )
    patterns = list(patterns)
    paths = [("pattern", one) for one in patterns] + [("model", model), ("output", output)]
    for name, path in paths:
        _files.as_path(path, name)
    patterns = [os.fspath(one) for one in patterns]
    model, output = os.fspath(model), Path(output)
    places = [("pattern", pattern) for pattern in patterns]
    for name, place in (*places, ("model", model), ("output", os.fspath(output))):
        if "://" in place:
            raise ValueError(
                f"`{name}` must be on a file system of this machine; from others Beam reads with "
                f"`ka.beam.ScoreFiles`. Received: {name}={_files.shown(place)}"
            )
    options = None if options is None else _beam_options(list(options))
    with needs_extra("beam"):
        import pyarrow.parquet  # noqa: F401
    info = _samples.described(model)
    preparation = _samples.Preparation(info, model)
    settings, total = _settings(patterns, model, output, shard_size, columns, preparation)
    with _taken(output, settings) as folder:
        with _progress(total, verbose) as shown:
            shards = _shards.shards_of(_files_of(patterns, output), shard_size)
            waiting = folder.waiting(shards, shown)
            if options is None:
                with Scorer(folder.answers, folder.run, model, workers, columns) as scorer:
                    for shard in waiting:
                        scorer.score(shard, shown)
            else:
                _on_beam(waiting, folder, model, workers or 1, columns, options, shown)
        return folder.finish()


def _files_of(patterns, output):
    return itertools.chain.from_iterable(_shards.files_of(one, output) for one in patterns)


def _settings(patterns, model, output, shard_size, columns, preparation):
    """Returns what makes two runs the same, and how many samples there are."""
    digest, count, size = hashlib.sha256(), 0, 0

    def noted():
        nonlocal count, size
        for name, bytes_of in _files_of(patterns, output):
            digest.update(f"{len(name)} {bytes_of} ".encode() + os.fsencode(name))
            count, size = count + 1, size + bytes_of
            yield name, bytes_of

    total = pictures = 0
    for shard in _shards.shards_of(noted(), shard_size):
        total += shard.count
        pictures += shard.kind == "picture"
    if not total:
        raise ValueError(
            "`pattern` must name pictures, or TFRecord or Parquet files that hold samples. "
            f"Received: {_files.shown(', '.join(patterns))}, which names {count:,} files"
        )
    if pictures:
        preparation.rule()
    return {
        "model": _files.sha256(model),
        "pattern": [_samples.text(pattern) for pattern in patterns],
        "files": count,
        "bytes": size,
        "names": digest.hexdigest(),
        "shard_size": shard_size,
        **{f"{name}_column": column for name, column in columns._asdict().items()},
    }, total


@contextlib.contextmanager
def _progress(total, verbose):
    from tqdm import tqdm

    shows = verbose == 1 or (verbose == "auto" and sys.stderr is not None and sys.stderr.isatty())
    with tqdm(total=total, desc="score", unit=" samples", disable=not shows) as bar:
        yield bar


# ---- the folder


@contextlib.contextmanager
def _taken(path, settings):
    """Holds a folder for this run alone, and gives its `Folder`; makes it where there is none."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"`output` must be a folder. Received: {path}")
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise ValueError(f"`output` must be a folder that can be written. Received: {path}")
        message = "`output` must not be in use: another run is at work in it; wait for its end."
        with _files.held(path, path / f".{MANIFEST}.lock", message):
            yield Folder(path, settings)
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # where nothing was written


class Folder:
    """The folder of a run.

    Args:
        path: `Path`, of a folder that is held.
        settings: Dictionary.

    Raises:
        ValueError: If it is another run's.
    """

    def __init__(self, path, settings):
        self.path = Path(path)
        manifest = {"format": FORMAT, "version": VERSION, SETTINGS: settings}
        text = json.dumps(manifest, indent=1) + "\n"
        self.run = hashlib.sha256(text.encode()).hexdigest()
        if (self.path / MANIFEST).exists():
            self._check(_files.read_json(self.path / MANIFEST, "The manifest of a run"), settings)
        else:
            others = [name for name in os.listdir(self.path) if not _is_temporary(name)]
            if others:
                raise ValueError(
                    "`output` must be a new folder, an empty one, or one of a run of `score`. "
                    f"Received: {self.path}, which holds {_files.shown(sorted(others)[:3])}"
                )
        self.answers = self.path / ANSWERS
        self._parts = set(self._names())
        for name in self._parts:
            self._facts(name)
        for folder in (self.path, self.answers):
            for name in os.listdir(folder) if folder.exists() else ():
                if _is_temporary(name):
                    (folder / name).unlink(missing_ok=True)
        if not (self.path / MANIFEST).exists():
            _files.write_whole(self.path / MANIFEST, text)
        self.answers.mkdir(exist_ok=True)

    def _check(self, found, settings):
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(
                "`output` must be a new folder or one of a run of `score`. Received: "
                f"{self.path}, whose {MANIFEST} is of something else"
            )
        theirs = found.get(SETTINGS)
        theirs = theirs if isinstance(theirs, dict) else {}
        if found.get("version") != VERSION:
            theirs = {"version": found.get("version")}
            settings = {"version": VERSION}
        names = [key for key in {**theirs, **settings} if theirs.get(key) != settings.get(key)]
        if names:
            difference = "; ".join(
                f"{key}: {_files.shown(theirs.get(key))}, not {_files.shown(settings.get(key))}"
                for key in names
            )
            raise ValueError(
                "`output` must be a new folder or one of this very run. It holds answers of "
                f"another, {difference}. Received: {self.path}"
            )

    def _names(self):
        if self.answers.is_symlink():
            raise ValueError(f"{ANSWERS} must be a folder, not a link. Received: {self.answers}")
        names = os.listdir(self.answers) if self.answers.exists() else ()
        return sorted(n for n in names if n.startswith("part-") and n.endswith(".parquet"))

    def _facts(self, name):
        """Returns what a file of answers says of itself.

        Raises:
            ValueError: If it is no file of this run.
        """
        import pyarrow
        import pyarrow.parquet

        path, facts = self.answers / name, None
        with contextlib.suppress(pyarrow.ArrowException, OSError, TypeError, KeyError, ValueError):
            facts = json.loads(pyarrow.parquet.read_schema(path).metadata[METADATA])
        if not isinstance(facts, dict) or facts.get("run") != self.run:
            raise ValueError(
                f"The files {ANSWERS}/part-*.parquet of `output` must be of this run, and whole. "
                f"One that is removed is computed again. Received: {path}"
            )
        return facts

    def waiting(self, shards, shown):
        """Yields the shards whose answers are not there yet."""
        for shard in shards:
            if shard.name not in self._parts:
                yield shard
            else:
                if not shown.disable:
                    shown.initial += shard.count  # not part of the rate
                shown.update(shard.count)

    def finish(self):
        """Writes the errors and the summary, and returns it."""
        names = self._names()
        total, exits, cost, known = Counter(), Counter(), 0.0, True
        temporary = self.path / f".{ERRORS}.{uuid.uuid4().hex}"
        try:
            with open(temporary, "x", encoding="utf-8") as file:
                for name in names:
                    facts = self._facts(name)
                    for error in facts["errors"]:
                        file.write(json.dumps(error) + "\n")
                    total["errors"] += len(facts["errors"])
                    total.update({key: facts[key] for key in ("samples", "labeled", "right")})
                    exits.update({int(exit): count for exit, count in facts["exits"].items()})
                    known = known and facts["cost"] is not None
                    cost += facts["cost"] or 0.0
            os.replace(temporary, self.path / ERRORS)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        samples, labeled = total["samples"], total["labeled"]
        summary = {
            "samples": samples,
            "errors": total["errors"],
            "labeled": labeled,
            "accuracy": total["right"] / labeled if labeled else None,
            "exit_fractions": {str(k): exits[k] / samples for k in sorted(exits)},
            "mean_cost": cost / samples if known and samples else None,
            "shards": len(names),
        }
        _files.write_whole(self.path / SUMMARY, json.dumps(summary, indent=1) + "\n")
        return summary


def _is_temporary(name):
    """Whether a file is one that `write_whole` was about to rename when it was killed."""
    return name.startswith((".part-", f".{ERRORS}.", f".{SUMMARY}.", f".{MANIFEST}."))


def write_answers(folder, run, shard, columns, facts):
    """Writes the answers to a shard, with what is to be known of them, whole."""
    import pyarrow
    import pyarrow.parquet

    facts = json.dumps({"run": run, **facts})
    schema = answers_schema().with_metadata({METADATA: facts.encode()})
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(columns, schema=schema), sink)
    _files.write_whole(Path(folder) / shard.name, sink.getvalue().to_pybytes())


def answers_schema():
    """Returns the columns of answers."""
    import pyarrow

    return pyarrow.schema(
        {
            "key": pyarrow.string(),
            "label": pyarrow.int64(),
            "class_name": pyarrow.string(),
            "probability": pyarrow.float32(),
            "exit": pyarrow.int64(),
            "cost": pyarrow.float64(),
        }
    )


# ---- the work


class Scorer:
    """Computes shards with one predictor, while threads read the pictures that come next.

    Args:
        folder: Path of the folder of answers.
        run: String, which run that is.
        model: Path of the exported file.
        workers: Integer, or `None`.
        columns: `Columns`.
    """

    def __init__(self, folder, run, model, workers, columns):
        self._folder, self._run = folder, run
        self._predictor = BatchPredictor(model, workers)
        self._names = self._predictor.info.get("class_names")
        self._classes = 0  # known from the first answer on
        self._preparation = _samples.Preparation(_samples.described(model), model)
        self._reading = _shards.Reading(columns)
        self._threads = ThreadPoolExecutor(self._predictor.workers)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        self._threads.shutdown(cancel_futures=True)
        self._predictor.close()

    def score(self, shard, shown=None):
        """Writes the answers to a shard."""
        keys, labels, answers, errors = [], [], [], []
        for items, arrays in self._read_ahead(self._reading.items(shard)):
            good = []
            for item, array in zip(items, arrays, strict=True):
                if isinstance(array, Exception):
                    errors.append((item.key, array))
                else:
                    good.append((item, array))
            for item, answer in self._answered(good, errors):
                keys.append(item.key)
                labels.append(self._preparation.label(item.label, self._classes))
                answers.append(answer)
            if shown is not None:
                shown.update(len(items))
        self._write(shard, keys, labels, answers, errors)

    def _write(self, shard, keys, labels, answers, errors):
        found, best, exits, costs = (
            np.array([answer[i] for answer in answers], dtype)
            for i, dtype in enumerate(("int64", "float32", "int64", "float64"))
        )
        names = [None if self._names is None else self._names[label] for label in found]
        columns = {
            "key": keys,
            "label": found,
            "class_name": names,
            "probability": best,
            "exit": exits,
            "cost": [None if np.isnan(cost) else cost for cost in costs],
        }
        of_a_class = [i for i, label in enumerate(labels) if label is not None]
        facts = {
            "samples": len(keys),
            "errors": [{"file": key, "reason": reason(error)} for key, error in errors],
            "labeled": len(of_a_class),
            "right": int(sum(found[i] == labels[i] for i in of_a_class)),
            "exits": {int(exit): int(count) for exit, count in Counter(exits.tolist()).items()},
            "cost": None if np.isnan(costs).any() else float(costs.sum()),
        }
        write_answers(self._folder, self._run, shard, columns, facts)

    def _read_ahead(self, items):
        """Yields portions of items, with their arrays or errors, which threads read meanwhile."""
        waiting = None
        while portion := list(itertools.islice(items, PORTION)):
            tasks = [portion[i : i + TASK] for i in range(0, len(portion), TASK)]
            coming = portion, [self._threads.submit(self._arrays, task) for task in tasks]
            if waiting is not None:
                yield waiting[0], [array for task in waiting[1] for array in task.result()]
            waiting = coming
        if waiting is not None:
            yield waiting[0], [array for task in waiting[1] for array in task.result()]

    def _arrays(self, items):
        return [self._array(item) for item in items]

    def _array(self, item):
        try:
            return self._preparation.array(item.content)
        except ValueError as error:
            return error

    def _answered(self, good, errors):
        """Yields items with label, probability, exit and cost; what cannot be computed is kept."""
        if not good:
            return
        try:
            yield from zip((item for item, _ in good), self._answers(good), strict=True)
        except (ValueError, RuntimeError) as error:
            if len(good) == 1:
                errors.append((good[0][0].key, error))
                return
            half = len(good) // 2
            yield from self._answered(good[:half], errors)
            yield from self._answered(good[half:], errors)

    def _answers(self, good):
        arrays = [array for _, array in good]
        kinds = {array.dtype for array in arrays}
        x = np.stack(arrays) if len(kinds) == 1 else arrays  # of pixels and floats, one by one
        found = self._predictor.predict(x, verbose=0)
        self._classes = found.probabilities.shape[1]
        best = found.probabilities[np.arange(len(good)), found.labels]
        columns = (found.labels, best, found.exits, found.costs)
        return list(zip(*(column.tolist() for column in columns), strict=True))


def reason(error):
    return _files.shown(str(error) or type(error).__name__, 500)


# ---- on Beam


def _beam_options(options):
    """Returns Beam's options, checked to be known to it."""
    with needs_extra("beam"):
        from apache_beam.options.pipeline_options import PipelineOptions
    if options and not options[0].startswith("-"):
        raise ValueError(
            f"`options` must be Beam's pipeline options. Received: {_files.shown(options[0])}"
        )
    made = PipelineOptions(options)
    known = made.get_all_options()
    every = made.get_all_options(retain_unknown_options=True)
    unknown = [f"--{name}" for name in every if name not in known]
    if unknown:
        names = [f"--{name}" for name in known]
        raise ValueError(
            "`options` must be Beam's pipeline options. "
            f"Received: {_files.shown(unknown[0])}{did_you_mean(unknown[0], names)}"
        )
    return made


def _on_beam(waiting, folder, model, workers, columns, options, shown):
    """Lets a runner compute shards; each is written by the process that has computed it."""
    import apache_beam
    from apache_beam.options.pipeline_options import StandardOptions

    from keras_adaptive.beam._score_shards import ScoreShards

    runner = (options.view_as(StandardOptions).runner or "DirectRunner").rpartition(".")[2]
    in_memory = runner in IN_MEMORY
    step = ScoreShards(folder.answers, folder.run, str(model), workers, columns)
    while shards := list(itertools.islice(waiting, PIPELINE if in_memory else None)):
        with apache_beam.Pipeline(options=options) as pipeline:
            (
                pipeline
                | apache_beam.Create(shards)
                | apache_beam.Reshuffle()
                | apache_beam.ParDo(step)
            )
        shown.update(sum(shard.count for shard in shards))
