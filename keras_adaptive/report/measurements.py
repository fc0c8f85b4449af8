"""What was measured on devices, on phones too, for the report of a run.

The form is that of `anytime-tflite bench --out` and of the Kotlin library's `Benchmark`, which
`tflite/README.md` describes.
"""

from keras_adaptive._files import read_json, shown
from keras_adaptive.report.form import MEASUREMENT, WAYS, check_form

LARGEST, MOST = 2**18, 10  # bytes of a measurement, measurements: a report holds them all
STAGES = {
    "exit": "exit",
    "alone": "stage (ms)",
    "alone_p99": "p99 (ms)",
    "until_here": "until here (ms)",
    "staged": "stages only (ms)",
    "classify": "classify (ms)",
    "classify_p99": "classify p99 (ms)",
    "predict": "single call (ms)",
}
DEADLINES = {
    "deadline_ms": "deadline (ms)",
    "median_ms": "median (ms)",
    "p99_ms": "p99 (ms)",
    "share_late": "late",
    "mean_exit": "mean exit",
}
EXPLAINED = (
    "Random images, medians of milliseconds. Until here: an answer after every stage. Stages only: "
    "what the network costs if it is cut at the exit, in stages, and nothing is decided. Classify "
    "and single call: everything, all images leaving there."
)


def read_measurements(paths, info, file):
    """Returns what was measured on devices, from JSON files that are not trusted.

    Args:
        paths: Paths of the files. What is in two of them is returned once.
        info: Dictionary, `anytime_tflite.read_info` of the run's file.
        file: Path of the run's file, for errors.

    Raises:
        ValueError: If one is no measurement, or was measured on another file; the message
            names it.
    """
    if len(paths) > MOST:
        raise ValueError(f"At most {MOST} measurements can be given. Received: {len(paths)}")
    found = []
    for path in paths:
        given = read_json(path, "A measurement", LARGEST)
        check_form(given, MEASUREMENT, "measurement", f"path={path}")
        if given["sha256"] != info["sha256"]:
            raise ValueError(
                f"A measurement must be one of {file}, whose digest is {info['sha256'][:12]}... "
                f"Received: path={path}, measured on {shown(given['file'])}, whose digest is "
                f"{given['sha256'][:12]}..."
            )
        rows = [(row["stage"], row["exit"]) for row in given["stages"]]
        if rows != list(enumerate(info["exits"])):
            raise ValueError(
                f"`measurement.stages` must be those of {file}, with the exits {info['exits']}. "
                f"Received: path={path}, with stages and exits {shown(rows)}"
            )
        known = _known(given, MEASUREMENT)
        if known not in found:
            found.append(known)
    return found


def _known(value, form):
    """Returns what a form names; other keys are left out."""
    if isinstance(form, list):
        return [_known(item, form[0]) for item in value]
    if isinstance(form, dict):
        names = {key.rstrip("?"): inner for key, inner in form.items()}
        return {key: _known(value[key], inner) for key, inner in names.items() if key in value}
    return value


def parts(report):
    """Returns what was measured on devices as a list of parts, see `document`."""
    found = report.get("measurements")
    if not found:
        return []
    shown = [("heading", "Measured on devices"), ("text", EXPLAINED)]
    for measurement in found:
        shown += _one(measurement)
    return shown


def _one(measurement):
    rows = [_row(row) for row in measurement["stages"]]
    columns = {key: title for key, title in STAGES.items() if any(key in row for row in rows)}
    deadlines = [
        {
            **row,
            "median_ms": row["elapsed_ms"]["p50"],
            "p99_ms": row["elapsed_ms"]["p99"],
            "share_late": row["late"],
        }
        for row in measurement["deadlines"]
    ]
    return [
        ("text", _sentence(measurement)),
        ("table", [dict.fromkeys(columns) | row for row in rows], columns),
        *([("table", deadlines, DEADLINES)] if deadlines else []),
    ]


def _row(row):
    found = {"exit": row["exit"]}
    for way in WAYS:
        if way in row:
            name = way.removesuffix("_ms")
            found |= {name: float(row[way]["p50"]), f"{name}_p99": float(row[way]["p99"])}
    return found


def _sentence(measurement):
    text = (
        "{machine}, {system}: {interpreter} ({backend}), {threads} thread(s), {bytes:,} bytes, "
        "{runs:,} runs, {date}."
    ).format(**measurement)
    if "memory_mb" in measurement:
        text += f" It takes {measurement['memory_mb']:.1f} MB of memory."
    if "baseline" in measurement:
        other = measurement["baseline"]
        name = other["file"].replace("\\", "/").rpartition("/")[2]
        text += (
            f" In turn with it, {name} ({other['bytes']:,} bytes): {other['ms']['p50']:.4g} ms, "
            f"p99 {other['ms']['p99']:.4g} ms."
        )
    return text
