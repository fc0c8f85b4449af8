"""Damaged and forged files of every kind: are they all refused, and does anything crash or hang?

    make bench-fuzz

20,000 tries. Those that could end a program run in one of their own, many after one another. A row
is 250 tries of one kind, of a seed of their own, kept in `runs/fuzz`: an interrupted benchmark goes
on with the first that is missing. `--row` measures some kinds alone.
"""

import contextlib
import hashlib
import io
import json
import shutil
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from anytime_tflite import operations
from benchmarks import _rows

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "cli")]  # where tests import from

import mutants  # noqa: E402
import random_operations  # noqa: E402

FOLDER = ROOT / "runs" / "fuzz"
FILES = [
    *sorted((ROOT / "tflite" / "testdata" / "files").glob("*.tflite")),
    *sorted((ROOT / "tests" / "data" / "before_layout").glob("*.tflite")),
]
TRIES = 250  # of a row
LARGEST = 100_000  # bytes of a file that is forged: larger ones only take longer
OUTCOMES = ("refused", "accepted", "crash", "hang", "other", "unnamed")
FAULTS = OUTCOMES[2:]
NAMES = ("../out.png", "/tmp/out.png", "a/../../out.png", "a/x\x00.png", "\udc80.png", "a" * 300)
KEPT = 20  # faults whose messages a row keeps


# ---- files, of each kind: a function of the random generator, the folder and the try's number


def contents():
    return [path.read_bytes() for path in FILES if path.stat().st_size < LARGEST]


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


def damaged(rng, folder, i):
    content = mutants.mutate(_any(rng, contents()), rng)[0]
    return written(folder, f"try_{i}.tflite", content)


def resealed(rng, folder, i):
    content = mutants.reseal(mutants.mutate(_any(rng, contents()), rng)[0])
    return written(folder, f"try_{i}.tflite", content)


def forged(rng, folder, i):
    content = mutants.forge(_any(rng, contents()), rng, _options())
    return written(folder, f"try_{i}.tflite", content)


def forged_info(rng, folder, i):
    return written(folder, f"try_{i}.tflite", mutants.forge_info(_any(rng, contents()), rng))


def operation(rng, folder, i):
    content = None
    while content is None:
        content = random_operations.random_operation(rng, _any(rng, sorted(operations._KINDS)))
    return written(folder, f"try_{i}.tflite", content)


def policy(rng, folder, i):
    import keras_adaptive as ka

    layers = [(np.ones(shape), np.ones(shape[1])) for shape in ((3, 2), (2, 2), (2, 2))]
    made = _any(
        rng,
        [
            ka.ExitPolicy([0.3, 0.9, 0.0], "entropy", [1.0, 2.0, 0.5]),
            ka.PatiencePolicy(2),
            ka.AgreementPolicy(2, 0.6),
            ka.LearnedPolicy([layers, layers]),
        ],
    )
    path = folder / f"try_{i}.json"
    made.save(path)
    return _in_json(rng, path)


def run(rng, folder, i):
    """A folder of `train` with one file changed, the manifest's digest of it right."""
    whole, path = FOLDER / "whole_run", folder / f"try_{i}"
    if not whole.exists():
        import short_run

        FOLDER.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(io.StringIO()):
            short_run.make(FOLDER / "run_in_the_making")
        (FOLDER / "run_in_the_making").rename(whole)
    shutil.copytree(whole, path)
    files = [
        file for file in sorted(path.rglob("*")) if file.is_file() and file.suffix != ".tflite"
    ]
    changed = _any(rng, [f for f in files if f.suffix == ".json"] if rng.integers(4) else files)
    before = hashlib.sha256(changed.read_bytes()).hexdigest()
    _in_json(rng, changed)
    after = hashlib.sha256(changed.read_bytes()).hexdigest()
    for file in path.glob("*.json"):
        file.write_bytes(file.read_bytes().replace(before.encode(), after.encode()))
    return path


def images(rng, folder, i):
    """A tar file of images, damaged or with a member that should not be there."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for label in "ab":
            for n in range(12):
                _add(archive, f"{label}/{n}.png", _picture(rng, "PNG"))
        if rng.integers(2):
            member = tarfile.TarInfo(_any(rng, NAMES))
            member.type = _any(rng, [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, b"3", b"6"])
            member.linkname = "/etc/passwd"
            archive.addfile(member)
    content = buffer.getvalue()
    if rng.integers(4):
        content = mutants.mutate(content, rng)[0]
    return written(folder, f"try_{i}.tar", content)


def picture(rng, folder, i):
    kind = _any(rng, ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
    content = mutants.mutate(_picture(rng, kind), rng)[0]
    return written(folder, f"try_{i}.{kind.lower()}", content)


def _any(rng, items):
    return items[rng.integers(len(items))]


def _options(found=[]):  # noqa: B006  read once
    if not found:
        found.append(mutants.options_of(contents()))
    return found[0]


def _in_json(rng, path):
    """Changes a file: its bytes, or a part of the JSON that it holds."""
    content = path.read_bytes()
    if path.suffix == ".json" and rng.integers(4):
        content = json.dumps(mutants.replace_in_json(json.loads(content), rng)).encode()
    else:
        content = mutants.mutate(content, rng)[0]
    path.write_bytes(content)
    return path


def _add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _picture(rng, kind):
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (12, 12, 3), "uint8")).save(buffer, kind)
    return buffer.getvalue()


# kind: what makes a file, how it is opened, rows
KINDS = {
    "tflite_damaged": (damaged, "tflite", 12),
    "tflite_bytes_forged": (resealed, "tflite", 12),
    "tflite_structure_forged": (forged, "tflite", 20),
    "tflite_info_forged": (forged_info, "tflite", 8),
    "tflite_single_operations": (operation, "operation", 12),
    "policy": (policy, "policy", 6),
    "run_folder": (run, "run", 4),
    "tar": (images, "images", 2),
    "picture": (picture, "picture", 4),
}


def tries(kind, seed):
    """Returns what a row's tries came to."""
    make, way, _ = KINDS[kind]
    rng = np.random.default_rng([list(KINDS).index(kind), seed])
    with tempfile.TemporaryDirectory() as folder:
        paths = [make(rng, Path(folder), i) for i in range(TRIES)]
        found = mutants.outcomes(way, paths)
    counts = Counter(each["outcome"] for each in found)
    faults = [
        {"try": i, "outcome": each["outcome"], "said": each["said"]}
        for i, each in enumerate(found)
        if each["outcome"] in FAULTS
    ]
    slowest = max((each["seconds"] for each in found if each["seconds"] is not None), default=0.0)
    return {
        "kind": kind,
        "seed": seed,
        **{outcome: counts[outcome] for outcome in OUTCOMES},
        "slowest": slowest,
        "faults": faults[:KEPT],
    }


def summary(rows):
    """Returns a row of the page per kind."""
    found = []
    for kind in KINDS:
        own = [row for row in rows if row["kind"] == kind]
        if own:
            counts = {outcome: sum(row[outcome] for row in own) for outcome in OUTCOMES}
            slowest = round(max(row["slowest"] for row in own), 2)
            found.append({"kind": kind, "tries": TRIES * len(own), **counts, "slowest_s": slowest})
    whole = {key: sum(row[key] for row in found) for key in ("tries", *OUTCOMES)}
    slowest = max(row["slowest_s"] for row in found)
    return [*found, {"kind": "all", **whole, "slowest_s": slowest}]


def page(results):
    rows = results["counts"]
    return _rows.page(
        "# Damaged and forged files",
        "Files of which something is wrong, at random: bytes, the digest computed anew by whoever "
        "forges it; the structure (operations of other kinds, other shapes, types, numbers, "
        "options, constants, signatures); what `info` says; operations made at random among those "
        "that the check accepts. `refused`: by an error that names the thing and why. `accepted`: "
        "it was opened and gave an answer, as when a weight changed. `other`: an exception of "
        "another kind. `unnamed`: a message that does not name the thing, or of more than "
        f"{mutants.LETTERS:,} letters. A hang is more than {mutants.SECONDS} s of computing.",
        _rows.table(list(rows[0]), rows),
        [
            f"- {fault['kind']}, seed {fault['seed']}, try {fault['try']}, {fault['outcome']}: "
            f"`{fault['said'][:150]}`"
            for fault in results["faults"]
        ],
    )


def main():
    options = _rows.parser(__doc__, KINDS).parse_args()
    rows = _rows.Rows(FOLDER, tries=TRIES)
    names = {
        f"{kind}_{seed}": (kind, seed)
        for kind in (options.row or KINDS)
        for seed in range(KINDS[kind][2])
    }
    if not options.table:
        for name, (kind, seed) in names.items():
            rows.measure(name, tries, kind, seed)
    found = [row for name in names if (row := rows.load(name)) is not None]
    faults = [
        {"kind": row["kind"], "seed": row["seed"], **fault}
        for row in found
        for fault in row["faults"]
    ]
    results = {"counts": summary(found), "faults": faults}
    _rows.publish("fuzz", results, page(results), found)


if __name__ == "__main__":
    main()
