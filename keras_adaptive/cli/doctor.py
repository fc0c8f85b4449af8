"""`doctor`: what is installed here, which engine computes, and which extras are missing."""

import importlib.metadata as metadata
import platform
import re
from pathlib import Path

from packaging.requirements import Requirement

from anytime_tflite.batch import cores
from keras_adaptive import __version__
from keras_adaptive._files import shown
from keras_adaptive.cli import tables
from keras_adaptive.cli.folder import say

NAME = "keras_adaptive"
PACKAGES = ("tensorflow", "keras", "numpy", "ai-edge-litert", "jax", "torch")
USES = {
    "plot": "pictures",
    "data": "data sets by name, and folders of photos",
    "tune": "search with KerasTuner",
    "compress": "pruning, clustering, training for int8",
    "onnx": "files for ONNX Runtime",
    "beam": "scoring with Apache Beam",
    "completion": "--print-completion",
}
FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bfloat16", "amx_bf16": "AMX"}


def doctor(options):
    """Prints what is installed, and returns it."""
    found = {
        "keras_adaptive": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": cores(),
        "instructions": instructions(),
        "packages": {name: version(name) for name in PACKAGES},
        "extras": extras(),
    }
    tables.show(
        "here",
        ("what", "found"),
        [
            ("keras_adaptive", found["keras_adaptive"]),
            ("Python", f"{found['python']}, {found['system']}"),
            ("cores that may be used", found["cores"]),
            ("instructions", ", ".join(found["instructions"]) or "not known"),
            *((name, text or "not installed") for name, text in found["packages"].items()),
        ],
    )
    rows = []
    for name, missing in found["extras"].items():
        state = f"missing {', '.join(missing)}: pip install '{NAME}[{name}]'"
        rows.append((name, USES[name], state if missing else "installed"))
    tables.show("extras", ("extra", "for", "state"), rows)
    say("doctor: loading Keras")
    found |= engines()
    rows = [
        ("Keras backend", found["backend"]),
        ("computes on", ", ".join(found["devices"])),
        ("interpreter of .tflite files", found["interpreter"]),
        ("AdaptivePredictor", found["engine"]),
    ]
    tables.show("engines", ("what", "found"), rows)
    return found


def version(name):
    """Returns the version of a package that is installed, or `None`."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def instructions(path="/proc/cpuinfo"):
    """Returns which of the instructions that matter here the processor has."""
    try:
        text = Path(path).read_text()
    except OSError:
        return []
    flags = set((re.search(r"^flags\s*:(.*)$", text, re.MULTILINE) or ["", ""])[1].split())
    return [name for flag, name in FLAGS.items() if flag in flags]


def extras(requirements=None):
    """Returns what each extra misses: names of packages, with what is wrong with their version."""
    if requirements is None:
        try:
            requirements = metadata.requires(NAME) or []
        except metadata.PackageNotFoundError:  # a copy of the source that is not installed
            return {}
    found = {}
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            continue
        for name in USES:
            if not marker.evaluate({"extra": name}):
                continue
            missing = found.setdefault(name, [])
            installed = version(requirement.name)
            if installed is None:
                missing.append(requirement.name)
            elif not requirement.specifier.contains(installed, prereleases=True):
                missing.append(f"{requirement.name}{requirement.specifier} (not {installed})")
    return found


def engines():
    """Returns what computes here; what cannot be imported is said, not raised."""
    found = {"devices": ["nothing"], "engine": "neither: Keras cannot be imported"}
    try:
        from anytime_tflite.backends import interpreter_class

        found["interpreter"] = interpreter_class().__module__.partition(".")[0]
    except ImportError as error:
        found["interpreter"] = f"none ({error})"
    try:
        import keras

        from keras_adaptive.inference.predictor import accelerator

        found["backend"] = f"{keras.backend.backend()}, Keras {keras.__version__}"
        found["devices"] = [str(device) for device in keras.distribution.list_devices()]
        if keras.backend.backend() != "tensorflow":
            reason = "files come from the TensorFlow backend"
        else:
            reason = accelerator()
        litert = 'engine "litert": this is a CPU'
        found["engine"] = litert if reason is None else f'engine "keras": {reason}'
    except Exception as error:  # a broken installation is what this command is for
        found["backend"] = f"none ({type(error).__name__}: {shown(str(error))})"
    return found
