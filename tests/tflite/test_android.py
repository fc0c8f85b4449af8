"""What the build files of the Kotlin runtime say; its own tests are `make test-android`."""

import importlib.util
import re
from pathlib import Path

import anytime_tflite

ANDROID = Path(__file__).parents[2] / "tflite" / "android"


def test_the_library_is_of_the_version_that_is_tried():
    path = ANDROID / "litert_library.py"
    spec = importlib.util.spec_from_file_location("litert_library", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.find().is_file()
    assert f"ai-edge-litert {module.VERSION}" in (ANDROID / "README.md").read_text()


def test_its_parts_are_of_one_version():
    parent = (ANDROID / "pom.xml").read_text()
    version = re.search(r"-parent</artifactId>\s*<version>([\d.]+)<", parent)[1]
    files = [*ANDROID.glob("*/pom.xml"), *ANDROID.glob("publish/*.xml")]
    own = re.compile(r"<artifactId>anytime-tflite-\w+</artifactId>\s*<version>([\d.]+)<")
    found = {str(path): set(own.findall(path.read_text())) for path in files}
    assert sum(map(len, found.values())) >= 8
    assert all(versions <= {version} for versions in found.values()), found
    assert version == anytime_tflite.__version__
    for name in ("sample/build.gradle.kts", "publish/publish.sh", "apk.sh", "README.md"):
        assert version in (ANDROID / name).read_text(), name


def test_what_is_published_depends_on_what_was_built_with():
    parent = (ANDROID / "pom.xml").read_text()
    kotlin = re.search(r"<kotlin.version>([\d.]+)<", parent)[1]
    jna = re.search(r"<artifactId>jna</artifactId>\s*<version>([\d.]+)<", parent)[1]
    named = re.compile(r"<artifactId>(kotlin-stdlib|jna)</artifactId>\s*<version>([\d.]+)<")
    published = [named.findall(p.read_text()) for p in ANDROID.glob("publish/*.xml")]
    assert dict(sum(published, [])) == {"kotlin-stdlib": kotlin, "jna": jna}
    assert f'version "{kotlin}"' in (ANDROID / "sample" / "build.gradle.kts").read_text()


def test_the_runtime_that_the_app_names_is_that_of_the_build():
    version = re.search(r"<tensorflow-lite.version>([\d.]+)<", (ANDROID / "pom.xml").read_text())[1]
    for name in ("sample/build.gradle.kts", "README.md"):
        assert f"org.tensorflow:tensorflow-lite:{version}" in (ANDROID / name).read_text(), name
    (models,) = ANDROID.glob("sample/src/main/**/Models.kt")
    assert f'"tensorflow-lite {version}"' in models.read_text()


def test_every_module_is_described():
    text = (ANDROID / "README.md").read_text()
    for pom in ANDROID.glob("*/pom.xml"):
        assert f"`{pom.parent.name}`" in text, pom


def test_no_file_is_long():
    sources = [p for p in ANDROID.rglob("*.kt") if "target" not in p.parts]
    assert len(sources) > 20
    for path in sources:
        lines = path.read_text().splitlines()
        assert len(lines) <= 500, path
        assert max(map(len, lines)) <= 100, path
