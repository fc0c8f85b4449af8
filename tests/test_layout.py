"""The data flows one way: who may import whom, what stays unloaded, and where things are."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "keras_adaptive"
# each may import what stands before it
CHAIN = [
    ["_checks", "_files", "_progress"],
    ["layers"],
    ["_graph"],
    ["costs"],
    ["policy"],
    ["calibration"],
    ["evaluation"],
    ["training"],
    ["models"],
    ["export"],
    ["inference", "compression", "tuning", "plotting", "report", "beam"],
    ["cli"],
]
BESIDE = {"data": {"_checks", "_files", "_progress"}}  # read by the command line and by users alone
HEAVY = {
    "tensorflow": {"layers", "data", "inference", "export", "compression"},
    "matplotlib": {"plotting", "cli"},
    "tensorflow_datasets": {"data", "cli"},
    "tensorflow_model_optimization": {"compression"},
    "tf_keras": {"compression"},
    "keras_tuner": {"tuning"},
    "onnx": {"export"},
    "onnxruntime": {"export"},
    "tf2onnx": {"export"},
    "apache_beam": {"beam"},
    "pyarrow": {"beam"},
    "ai_edge_litert": {"export"},
    "sklearn": {"data"},
    "jinja2": {"report"},
    "anytime_tflite": {"data", "inference", "export", "beam", "cli"},
}
NUMPY_ONLY = {"_checks", "_files", "_progress", "policy", "calibration", "evaluation"}


def may_import(module):
    """Returns the modules of ours that a module may import."""
    if module in BESIDE:
        return BESIDE[module] | {module}
    allowed = {module}
    for level in CHAIN:
        if module in level:
            return allowed | (set(BESIDE) if module == "cli" else set())
        allowed |= set(level)
    raise KeyError(module)


def imports(source):
    """Yields the full dotted names a source imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def forbidden(module, source):
    """Lists the imports of a module that the table does not allow."""
    found = []
    for name in imports(source):
        first, *rest = name.split(".")
        if first == "keras_adaptive":
            if rest[0] not in may_import(module) | {"__version__"}:
                found.append(name)
        elif module not in HEAVY.get(first, {module}) or (
            first == "keras" and module in NUMPY_ONLY
        ):
            found.append(name)
    return found


def files_of(module):
    place = PACKAGE / module
    return sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]


MODULES = [*BESIDE, *(module for level in CHAIN for module in level)]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    for file in files_of(module):
        assert forbidden(module, file.read_text()) == [], file


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("layers", "from keras_adaptive.training import AdaptiveModel"),
        ("policy", "from keras_adaptive.calibration import calibrate"),
        ("policy", "from keras_adaptive.evaluation import evaluate"),
        ("calibration", "import keras"),
        ("calibration", "import keras_adaptive.models"),
        ("data", "from keras_adaptive.layers import EarlyExit"),
        ("models", "from keras_adaptive import data"),
        ("plotting", "from keras_adaptive import report"),
        ("training", "import tensorflow as tf"),
        ("evaluation", "def f():\n    import matplotlib.pyplot"),
        ("training", "import anytime_tflite"),
        ("cli", "import apache_beam"),
        ("beam", "import tensorflow"),
    ],
)
def test_that_the_table_can_fail(module, source):
    assert forbidden(module, source)


def test_the_root_holds_what_the_table_names():
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert found - {"__init__", "__main__", "__pycache__"} == set(MODULES)


def test_the_device_knows_numpy_alone():
    known = {"anytime_tflite", "ai_edge_litert", "tflite_runtime", "numpy", "PIL"}
    files = list((ROOT / "tflite" / "python" / "anytime_tflite").glob("*.py"))
    assert files
    for file in files:
        names = {name.split(".")[0] for name in imports(file.read_text())}
        assert names <= known | set(sys.stdlib_module_names), file


def public_files():
    files = [file.relative_to(PACKAGE) for file in sorted(PACKAGE.rglob("*.py"))]
    return [file for file in files if not file.stem.startswith("_")]


# how tests reach what they do not name
THROUGH = {
    "cli/folder.py": "opened|main",
    "data/image_folder.py": "load",
    "data/splits.py": "data",
    "models/presets.py": "preset",
    "policy/policy.py": "decide",
}


def text_of_tests(file):
    """Returns the tests of a file: its own, or those of its folder and the tables."""
    folder = ROOT / "tests" / file.parent
    own = folder / f"test_{file.stem}.py"
    tables = (ROOT / "tests").glob("test_every_*.py")
    tests = [own] if own.exists() else [*folder.glob("test_*.py"), *tables]
    return "\n".join(test.read_text() for test in tests)


@pytest.mark.parametrize("file", public_files(), ids=str)
def test_every_public_file_has_its_tests(file):
    tree = ast.parse((PACKAGE / file).read_text())
    names = [n.name for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef))]
    words = "|".join(name for name in names if not name.startswith("_"))
    assert re.search(rf"\b({THROUGH.get(str(file), words)})\b", text_of_tests(file)), words


@functools.cache
def loaded_by(program, modules="sys.modules"):
    run = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}\nprint(*({modules}))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return set(run.stdout.split())


def test_importing_the_library_loads_neither_keras_nor_anything_heavy():
    loaded = loaded_by("import keras_adaptive as ka\ndir(ka)")
    assert not loaded & {"keras", "numpy", "scipy", *HEAVY}


def test_that_the_import_test_can_fail():
    loaded = loaded_by("import keras_adaptive as ka\nka.calibrate")
    assert {"numpy", "scipy"} <= loaded
    assert not loaded & {"keras", *HEAVY}


@pytest.mark.slow
@pytest.mark.subprocess
def test_what_needs_keras_loads_nothing_optional():
    optional = set(HEAVY) - {"tensorflow"} | {
        "tensorflow.lite.python.lite",
        "tensorflow.lite.python.convert",
    }
    # Keras itself looks for some of them; what counts is what we add
    added = loaded_by(
        "import keras\nbefore = set(sys.modules)\nimport keras_adaptive as ka\nka.build_msdnet",
        "set(sys.modules) - before",
    )
    assert "keras_adaptive.training" in added
    assert not added & optional
