"""The way of the data is one way: who may import whom, and what stays unloaded."""

import ast
import configparser
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {
    "tensorflow",
    "matplotlib",
    "tensorflow_datasets",
    "tensorflow_model_optimization",
    "tf_keras",
    "keras_tuner",
    "apache_beam",
    "ai_edge_litert",
    "sklearn",
}
# module: modules of ours and heavy libraries it may import
MAY_IMPORT = {
    "files": set(),
    "version": set(),
    "layers": {"layers", "tensorflow"},
    "graph": set(),
    "energy": set(),
    "costs": {"layers", "graph", "energy"},
    "gated_costs": {"layers", "graph", "costs"},
    "confidence": set(),
    "policy": {"confidence", "files", "thresholds"},
    "thresholds": set(),
    "temperature": {"policy"},
    "risk": {"policy", "thresholds"},
    "calibration": {"policy", "thresholds", "temperature", "risk", "version"},
    "evaluation": {"calibration", "policy"},
    "selection": {"policy", "thresholds"},
    "video": set(),
    "stopping": {"policy"},
    "sweep": {"evaluation", "files", "stopping", "training"},
    "training": {
        "layers",
        "graph",
        "costs",
        "gated_costs",
        "calibration",
        "evaluation",
        "files",
        "stopping",
    },
    "models": {"layers", "graph", "costs", "training", "policy", "models"},
    "segmentation": {"graph", "costs", "policy"},
    "inference": {
        "inference",
        "graph",
        "gated_costs",
        "training",
        "policy",
        "files",
        "tensorflow",
    },
    "plotting": {"plotting", "matplotlib", "temperature"},
    "data": {"tensorflow", "tensorflow_datasets", "sklearn"},
    "export": {
        "layers",
        "graph",
        "training",
        "policy",
        "stopping",
        "thresholds",
        "files",
        "tensorflow",
        "ai_edge_litert",
    },
    "report": {"report", "calibration", "evaluation", "policy", "files"},
    "cli": {
        "cli",
        "anytime_tflite",
        "calibration",
        "data",
        "evaluation",
        "export",
        "inference",
        "matplotlib",
        "models",
        "plotting",
        "policy",
        "report",
        "risk",
        "training",
        "version",
    },
    "compression": {
        "graph",
        "layers",
        "training",
        "tensorflow",
        "tensorflow_model_optimization",
        "tf_keras",
    },
    "tuning": {
        "tuning",
        "training",
        "calibration",
        "evaluation",
        "policy",
        "keras_tuner",
    },
}
NUMPY_ONLY = {
    "calibration",
    "confidence",
    "evaluation",
    "files",
    "policy",
    "risk",
    "selection",
    "stopping",
    "temperature",
    "thresholds",
    "version",
    "video",
}


def modules():
    return {
        path.relative_to(ROOT / "keras_adaptive").with_suffix("").parts[0]: []
        for path in (ROOT / "keras_adaptive").rglob("*.py")
    }


def imports(source):
    """Yields the full dotted names a source imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def forbidden(module, source, allowed=None):
    """Lists the imports of a module that the table does not allow."""
    allowed = MAY_IMPORT[module] if allowed is None else allowed
    found = []
    for name in imports(source):
        first, *rest = name.split(".")
        if first == "keras_adaptive":
            ours = rest[0] if rest else ""
            if ours not in allowed | {module}:
                found.append(name)
        elif (
            (first in HEAVY and first not in allowed)
            or (first == "keras" and module in NUMPY_ONLY)
            or (first == "anytime_tflite" and first not in allowed)
        ):
            found.append(name)
    return found


@pytest.mark.parametrize("module", MAY_IMPORT)
def test_imports_go_one_way(module):
    place = ROOT / "keras_adaptive" / module
    files = list(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    assert files
    for file in files:
        assert forbidden(module, file.read_text()) == [], file


def test_every_module_is_in_the_table():
    assert set(modules()) - {"__init__", "__main__"} == set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("layers", "from keras_adaptive.training import AdaptiveModel"),
        ("calibration", "import keras"),
        ("calibration", "import keras_adaptive.models"),
        ("training", "import tensorflow as tf"),
        ("evaluation", "def f():\n    import matplotlib.pyplot"),
        ("export", "import anytime_tflite"),
    ],
)
def test_that_the_table_can_fail(module, source):
    assert forbidden(module, source)


def test_the_device_knows_numpy_alone():
    own = {"anytime_tflite", "ai_edge_litert", "tflite_runtime", "numpy"}
    for file in (ROOT / "tflite" / "python" / "anytime_tflite").glob("*.py"):
        known = own | set(sys.stdlib_module_names)
        assert {name.split(".")[0] for name in imports(file.read_text())} <= known


@functools.cache
def loaded_by(program):
    run = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return set(run.stdout.split())


OPTIONAL = HEAVY - {"tensorflow"} | {
    "tensorflow.lite.python.lite",
    "tensorflow.lite.python.convert",
}


def test_importing_the_library_loads_nothing_optional():
    # Keras itself looks for some of them; what counts is what we add
    added = loaded_by("import keras_adaptive") - loaded_by("import keras")
    assert "keras_adaptive.training" in added
    assert not added & OPTIONAL


def test_that_the_import_test_can_fail():
    program = "import keras_adaptive\nkeras_adaptive.export_tflite\nkeras_adaptive.data"
    assert (loaded_by(program) - loaded_by("import keras")) & OPTIONAL


@pytest.mark.parametrize("name", ["export_tflite", "plotting", "data", "tuning", "compression"])
def test_what_is_loaded_late_is_there(name):
    import keras_adaptive

    assert getattr(keras_adaptive, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = keras_adaptive.nothing


def test_every_module_has_its_tests():
    for module in set(MAY_IMPORT) - {"version", "layers", "models"}:
        assert (ROOT / "tests" / f"test_{module}.py").exists(), module


def test_every_package_is_installed():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = setup["options"]["packages"].split()
    folders = {path.parent for path in (ROOT / "keras_adaptive").rglob("__init__.py")}
    ours = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(listed) == ours | {"anytime_tflite"}
