"""The two packages that carry anytime_tflite, and what each says where an extra is missing."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

import anytime_tflite
import keras_adaptive as ka
from anytime_tflite import AnytimeModel, read_info
from anytime_tflite.backends import BACKENDS, interpreter_class
from keras_adaptive.compression import to_tf_keras
from keras_adaptive.compression._libraries import tfmot
from keras_adaptive.data.image_folder import datasets

ROOT = Path(__file__).parent.parent
SOURCES = {
    "keras_adaptive": ("keras_adaptive", "tflite/python/anytime_tflite", "setup.py", "setup.cfg")
    + ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"),
    "anytime_tflite": ("tflite/python",),
}
OTHER = {"keras_adaptive": "anytime_tflite", "anytime_tflite": "keras_adaptive"}
CLASSIFY = """
import importlib.util, json, sys
import numpy as np
import anytime_tflite
with anytime_tflite.AnytimeModel(sys.argv[1], num_threads=1) as model:
    answer = model.classify(np.load(sys.argv[2]))
heavy = ("tensorflow", "keras", "keras_adaptive")
print(json.dumps({
    "label": answer.label,
    "exit": answer.exit,
    "folder": anytime_tflite.__path__[0],
    "heavy": [name for name in heavy if importlib.util.find_spec(name)],
}))
"""
LOST = """
import importlib.metadata, sys
files = importlib.metadata.files(sys.argv[1])
assert files
print([str(file) for file in files if not file.locate().exists()])
"""


def run(*command):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def pip(*arguments, python=sys.executable):
    run(sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", *arguments)


def new_environment(folder):
    """Makes a virtual environment; returns its Python."""
    venv.create(folder, with_pip=False)
    return folder / "bin" / "python"


def classify(python, file, image):
    return json.loads(run(python, "-c", CLASSIFY, file, image))


def lost_files(python, package):
    """Returns the files that a package installed and that are gone."""
    return run(python, "-c", LOST, package).strip()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Builds the wheels from copies of their sources, where nothing is left of other builds."""
    found = {}
    ignore = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    for package, sources in SOURCES.items():
        folder = tmp_path_factory.mktemp(package)
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, folder / source, ignore=ignore)
            else:
                shutil.copy(ROOT / source, folder)
        project = folder / "tflite" / "python" if package == "anytime_tflite" else folder
        pip("wheel", "--quiet", "--no-deps", "--wheel-dir", folder / "wheels", project)
        (found[package],) = (folder / "wheels").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def image(test_images, tmp_path_factory):
    """One image, as the path of a file."""
    path = tmp_path_factory.mktemp("image") / "image.npy"
    np.save(path, test_images[0][0])
    return path


@pytest.fixture(scope="module")
def expected(exported, image):
    with AnytimeModel(exported, num_threads=1) as model:
        answer = model.classify(np.load(image))
    return {"label": answer.label, "exit": answer.exit}


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A Python with numpy and an interpreter, in which tests install and remove the wheels."""
    python = new_environment(tmp_path_factory.mktemp("both"))
    pip("install", "--quiet", "numpy", "ai-edge-litert>=2.1", python=python)
    return python


def test_versions_agree():
    assert anytime_tflite.__version__ == ka.__version__


def test_the_command_is_installed():
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="keras-adaptive")
    from keras_adaptive.cli import main

    assert command.load() is main


@pytest.fixture
def without(monkeypatch):
    """Function that makes modules missing, as if they were not installed."""

    def remove(*modules):
        for name in list(sys.modules):
            if name.split(".")[0] in modules:
                monkeypatch.delitem(sys.modules, name)
        for module in modules:
            monkeypatch.setitem(sys.modules, module, None)

    return remove


def imported(name):
    """Function that imports a module of ours anew, which other tests go on without."""

    def use():
        kept = sys.modules.pop(name)
        try:
            importlib.import_module(name)
        finally:
            sys.modules[name] = kept

    return use


def normalized(name):
    return name.lower().replace("_", "-")


@pytest.mark.parametrize(
    ("module", "extra", "use"),
    [
        ("matplotlib", "plot", imported("keras_adaptive.plotting._style")),
        ("tensorflow_datasets", "data", datasets),
        ("keras_tuner", "tune", imported("keras_adaptive.tuning.hyper_model")),
        ("tensorflow_model_optimization", "compress", tfmot),
        ("tf_keras", "compress", lambda: to_tf_keras(None)),
    ],
)
def test_a_missing_module_names_the_extra_that_installs_it(without, module, extra, use):
    assert ka.plotting
    assert ka.tuning
    installs = {
        normalized(re.match(r"[\w.-]+", requirement)[0])
        for requirement in importlib.metadata.requires("keras_adaptive")
        if re.search(rf"extra == ['\"]{extra}['\"]", requirement)
    }
    distributions = importlib.metadata.packages_distributions()[module]
    assert installs & {normalized(name) for name in distributions}
    without(module)
    command = rf"The module {module} is missing: pip install 'keras_adaptive\[{extra}\]'"
    with pytest.raises(ImportError, match=command):
        use()


@pytest.mark.parametrize(
    "use",
    [interpreter_class, lambda: BACKENDS["compiled_model"]("model.tflite", None, 1, ["image"])],
)
def test_a_missing_interpreter_names_the_extra_that_installs_it(without, use):
    without("ai_edge_litert", "tflite_runtime")
    with pytest.raises(ImportError, match=r"missing: pip install 'anytime-tflite\[litert\]'"):
        use()


@pytest.mark.slow
@pytest.mark.subprocess
def test_the_device_needs_neither_tensorflow_nor_keras(wheels, exported, image, expected, tmp_path):
    python = new_environment(tmp_path)
    pip("install", "--quiet", f"{wheels['anytime_tflite']}[litert]", python=python)
    answer = classify(python, exported, image)
    assert answer["heavy"] == []
    assert {key: answer[key] for key in expected} == expected
    command = python.parent / "anytime-tflite"
    assert json.loads(run(command, "info", exported)) == read_info(exported)
    assert run(command, "--version").strip() == anytime_tflite.__version__


@pytest.mark.slow
@pytest.mark.subprocess
def test_no_file_belongs_to_both(wheels):
    names = [set(zipfile.ZipFile(wheel).namelist()) for wheel in wheels.values()]
    assert len(names) == 2
    assert not names[0] & names[1]
    assert {"anytime_tflite/py.typed", "keras_adaptive/_bundled/anytime_tflite/py.typed"} <= set(
        names[0] | names[1]
    )


@pytest.mark.slow
@pytest.mark.subprocess
def test_the_source_package_makes_the_same_wheel(wheels, tmp_path):
    """Neither holds tests or benchmarks."""
    build = "from setuptools import build_meta as b; b.build_sdist('{}')"
    copy = shutil.copytree(
        ROOT,
        tmp_path / "copy",
        ignore=shutil.ignore_patterns(
            ".*", "runs", "node_modules", "target", "build", "*.egg-info"
        ),
    )
    done = subprocess.run(
        [sys.executable, "-c", build.format(tmp_path / "dist")], cwd=copy, capture_output=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (source,) = (tmp_path / "dist").glob("*.tar.gz")
    pip("wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path / "wheels", source)
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert names == set(zipfile.ZipFile(wheels["keras_adaptive"]).namelist())
    with tarfile.open(source) as archive:
        names |= {name.partition("/")[2] for name in archive.getnames()}
    for name in names:
        assert not {"tests", "benchmarks", "tutorials"} & set(name.split("/")), name


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.parametrize("removed", OTHER)
@pytest.mark.parametrize("first", OTHER)
def test_either_may_come_first_and_either_may_go(
    wheels, python, exported, image, expected, first, removed
):
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    folders = {
        "anytime_tflite": site / "anytime_tflite",
        "keras_adaptive": site / "keras_adaptive" / "_bundled" / "anytime_tflite",
    }

    def check(folder):
        answer = classify(python, exported, image)
        assert {key: answer[key] for key in expected} == expected
        assert Path(answer["folder"]) == folder

    pip("install", "--quiet", "--no-deps", wheels[first], python=python)
    check(folders[first])
    pip("install", "--quiet", "--no-deps", wheels[OTHER[first]], python=python)
    check(folders["anytime_tflite"])
    assert lost_files(python, first) == lost_files(python, OTHER[first]) == "[]"
    pip("uninstall", "--quiet", "--yes", removed, python=python)
    check(folders[OTHER[removed]])
    assert lost_files(python, OTHER[removed]) == "[]"
    pip("uninstall", "--quiet", "--yes", OTHER[removed], python=python)
    program = "import importlib.util; print(importlib.util.find_spec('anytime_tflite'))"
    assert run(python, "-c", program).strip() == "None"
