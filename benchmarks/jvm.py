"""The Kotlin runtime on a JVM beside the Python runtime, in turn.

    make bench-jvm

Both run the shipped CIFAR-10 network in LiteRT, one thread, image after image.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from anytime_tflite.bench import bench
from benchmarks import _rows

ANDROID = Path(__file__).parent.parent / "tflite" / "android"
FILES = ("float32_single", "dynamic")
WAYS = ("alone_ms", "staged_ms", "classify_ms")
ROUNDS, RUNS, WARM_UP = 15, 60, 400


def java():
    """Returns the command that times a file on a JVM, and its environment."""
    with tempfile.NamedTemporaryFile() as file:
        build = ["mvn", "--quiet", "--file", ANDROID, "--projects", "desktop", "--also-make"]
        goal = "org.apache.maven.plugins:maven-dependency-plugin:3.9.0:build-classpath"
        subprocess.run([*build, "test-compile", goal, f"-Dmdep.outputFile={file.name}"], check=True)
        libraries = Path(file.name).read_text().strip()
    classes = [str(ANDROID / name / "target" / "classes") for name in ("core", "desktop")]
    library = subprocess.run(
        [sys.executable, ANDROID / "litert_library.py"], check=True, capture_output=True, text=True
    ).stdout.strip()
    path = os.pathsep.join([*classes, libraries])
    main = "io.github.keras_adaptive.anytime.desktop.BenchKt"
    return ["java", "-cp", path, main], {**os.environ, "LITERT_LIBRARY": library}


def measured(name, command, environment):
    """Returns the times of a file in both languages, and the last measurement on the JVM."""
    path = ANDROID / "target" / "shipped" / f"{name}.tflite"
    found = {"python": [], "jvm": []}
    with subprocess.Popen(
        [*command, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:

        def ask(runs):
            process.stdin.write(f"{runs}\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        ask(WARM_UP)  # until the JVM has compiled what is used
        for _ in range(ROUNDS):
            found["python"].append(bench(path, runs=RUNS))
            found["jvm"].append(ask(RUNS))
        process.stdin.close()
    rows = []
    for way in WAYS:
        python, jvm = (
            np.array([[row[way]["p50"] for row in one["stages"]] for one in found[language]])
            for language in ("python", "jvm")
        )
        rows += [
            {
                "file": name,
                "way": way.removesuffix("_ms"),
                "exit": i,
                "python_ms": np.median(python[:, i]),
                "jvm_ms": np.median(jvm[:, i]),
                "ratio": np.median(jvm[:, i] / python[:, i]),
                "quartiles": np.quantile(jvm[:, i] / python[:, i], [0.25, 0.75]).tolist(),
            }
            for i in range(python.shape[1])
        ]
    return rows, found["jvm"][-1]


def measure():
    folder = ANDROID / "target" / "shipped"
    if not (folder / "dynamic.tflite").is_file():
        subprocess.run([sys.executable, ANDROID / "vectors.py", folder], check=True)
    found = java()
    files = [measured(name, *found) for name in FILES]
    return {
        "rows": [row for rows, _ in files for row in rows],
        "measurements": [last for _, last in files],
    }


def page(results):
    heads = "file | way | exit | Python, ms | JVM, ms | JVM / Python | quartiles"
    cells = "{file} | {way} | {exit} | {python_ms:.3f} | {jvm_ms:.3f} | {ratio:.3f}"
    cells += " | {quartiles[0]:.3f} to {quartiles[1]:.3f}"
    return _rows.page(
        "# The Kotlin runtime on a JVM beside the Python runtime",
        f"Medians of {ROUNDS} rounds in turn, of {RUNS} images each. `alone`: each stage, as "
        "`stream` gives it. `staged`: the stages up to the exit, nothing decided. `classify`: all "
        "that it does, of images that leave there; Python makes the single call, if there is one.",
        _rows.table(heads, results["rows"], cells),
        "The last measurement of each file on the JVM is in jvm.json, under `measurements`, in the "
        "form of tflite/README.md.",
    )


if __name__ == "__main__":
    _rows.run("jvm", __doc__, measure, page, rounds=ROUNDS, runs=RUNS)
