"""Damaged files and policies: are they all refused, and does anything crash?

    make bench-fuzz

2,000 mutants of an exported file as they are; 2,000 with the digest computed anew, each opened
in a process of its own, with and without the check of the file's structure; and 2,000 of a
policy's JSON file, which has no digest: a digit that changed is another policy.
"""

import tempfile
from collections import Counter
from pathlib import Path

import keras
import numpy as np

import keras_adaptive as ka
from anytime_tflite import read_info
from benchmarks import _rows
from tests import mutants

MUTANTS = 2000


def make(folder):
    """Writes a small float32 and a small int8 file, one with a single call."""
    keras.utils.set_random_seed(0)
    model = ka.build_msdnet((8, 8, 1), 10, blocks=3, channels=4, growth_rate=2, head_channels=8)
    policy = ka.ExitPolicy([0.3, 0.3, 0.0])
    images = np.random.default_rng(0).normal(size=(50, 8, 8, 1)).astype("float32")
    plain, small = folder / "plain.tflite", folder / "int8.tflite"
    ka.export_tflite(model, plain, policy)
    ka.export_tflite(
        model, small, policy, quantize="int8", calibration_data=images, single_call=True
    )
    policy.save(folder / "policy.json")
    return plain.read_bytes(), small.read_bytes(), (folder / "policy.json").read_bytes()


def unchanged_digest(files, path, rng):
    found = Counter()
    for i in range(MUTANTS):
        path.write_bytes(mutants.mutate(files[i % len(files)], rng)[0])
        try:
            read_info(path)
        except ValueError as error:
            found["refused" if "`path` must be" in str(error) else f"unclear: {error}"] += 1
        else:
            found["accepted"] += 1
    return found


def new_digest(files, path, rng, check):
    found = Counter()
    for i in range(MUTANTS):
        path.write_bytes(mutants.reseal(mutants.mutate(files[i % len(files)], rng)[0]))
        found[mutants.outcome(path, check)] += 1
    return found


def policies(content, path, rng):
    found = Counter()
    for _ in range(MUTANTS):
        path.write_bytes(mutants.mutate(content, rng)[0])
        try:
            ka.ExitPolicy.load(path)
        except ValueError:
            found["refused"] += 1
        except Exception as error:
            found[f"unclear: {error!r}"] += 1
        else:
            found["another policy"] += 1
    return found


def measure():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        *files, policy = make(folder)
        path = folder / "mutant"
        counts = {"file, its own digest": unchanged_digest(files, path, np.random.default_rng(0))}
        for check, name in ((True, "with"), (False, "without")):
            counts[f"file, digest computed anew, {name} the check"] = new_digest(
                files, path, np.random.default_rng(1), check
            )
        counts["policy.json"] = policies(policy, path, np.random.default_rng(2))
    outcomes = ["refused", "accepted", "runs", "crash", "hang", "another policy"]
    outcomes += sorted({key for found in counts.values() for key in found} - set(outcomes))
    rows = [
        {"mutants of": name, **{o: found[o] for o in outcomes}} for name, found in counts.items()
    ]
    return {"counts": rows}


def page(results):
    rows = results["counts"]
    return _rows.page(
        "# Damaged files",
        f"{MUTANTS:,} mutants a row: a bit, a byte or a number changed, or a part cut off, put in, "
        "taken out, zeroed or copied. `refused`: by a `ValueError` that names the thing. `runs`: "
        "the file was opened and gave an answer, as when a weight changed. The digest sees damage, "
        "not forgery; whoever computes it anew meets the check of the structure.",
        _rows.table(list(rows[0]), rows),
    )


if __name__ == "__main__":
    _rows.run("fuzz", __doc__, measure, page, mutants=MUTANTS)
