"""The Kotlin runtime on a JVM beside the Python runtime, in turn.

    make bench-jvm

Both run the shipped CIFAR-10 network in LiteRT, one thread, image after image.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from anytime_tflite import AnytimeModel
from benchmarks import _rows

ANDROID = Path(__file__).parent.parent / "tflite" / "android"
FILES = ("float32_single", "dynamic")
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


def stage_ms(device, images):
    """Returns the median time of each stage in Python."""
    rows = []
    for image in images:
        times = [time.perf_counter()]
        times += [time.perf_counter() for _ in device.stream(image)]
        rows.append(1000 * np.diff(times))
    return np.median(rows, axis=0)


def measured(name, command, environment):
    """Returns the times of a file in both languages."""
    path = ANDROID / "target" / "shipped" / f"{name}.tflite"
    rows = {"python": [], "jvm": []}
    device = AnytimeModel(path, num_threads=1)
    images = np.random.default_rng(0).normal(0, 0.5, (RUNS, *device.input_shape)).astype("float32")
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
            rows["python"].append(stage_ms(device, images))
            rows["jvm"].append(ask(RUNS)["stage_ms"])
    python, jvm = np.array(rows["python"]), np.array(rows["jvm"])
    return [
        {
            "file": name,
            "exit": i,
            "python_ms": np.median(python[:, i]),
            "jvm_ms": np.median(jvm[:, i]),
            "ratio": np.median(jvm[:, i] / python[:, i]),
            "quartiles": np.quantile(jvm[:, i] / python[:, i], [0.25, 0.75]).tolist(),
        }
        for i in range(python.shape[1])
    ]


def measure():
    folder = ANDROID / "target" / "shipped"
    if not (folder / "dynamic.tflite").is_file():
        subprocess.run([sys.executable, ANDROID / "vectors.py", folder], check=True)
    found = java()
    return {"rows": [row for name in FILES for row in measured(name, *found)]}


def page(results):
    heads = "file | exit | Python, ms | JVM, ms | JVM / Python | quartiles"
    cells = "{file} | {exit} | {python_ms:.3f} | {jvm_ms:.3f} | {ratio:.3f}"
    cells += " | {quartiles[0]:.3f} to {quartiles[1]:.3f}"
    return _rows.page(
        "# The Kotlin runtime on a JVM beside the Python runtime",
        f"Each stage alone, as `stream` gives it; medians of {ROUNDS} rounds in turn, of {RUNS} "
        "images each.",
        _rows.table(heads, results["rows"], cells),
    )


if __name__ == "__main__":
    _rows.run("jvm", __doc__, measure, page, rounds=ROUNDS, runs=RUNS)
