"""The site of docs/: every public name is on a page, every link leads somewhere."""

import functools
import importlib
import inspect
import os
import re
import subprocess
import sys
import textwrap
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import griffe
import pytest

import anytime_tflite
import keras_adaptive as ka
from docs import _pages

ROOT = Path(_pages.__file__).parent.parent
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
WRITTEN = sorted((ROOT / "docs").rglob("*.md"))


@pytest.fixture(scope="module")
def api():
    return _pages.api_pages()


def entries(page):
    """Returns what a page explains, beside its module."""
    return set(re.findall(r"^::: (\S+)$(?!\n +options)", page, re.MULTILINE))


def public(module):
    """Returns the documented classes and functions of ours that a module hands out."""
    names = getattr(module, "__all__", None) or [x for x in dir(module) if x[0] != "_"]
    package = hasattr(module, "__path__")
    found = {}
    for name in names:
        value = getattr(module, name)
        place = getattr(value, "__module__", None) or ""
        ours = place.split(".")[0] in _pages.OURS if package else place == module.__name__
        if ours and (inspect.isclass(value) or inspect.isfunction(value)) and inspect.getdoc(value):
            found[name] = f"{place}.{value.__qualname__}"
    return found


def modules():
    names = [name for name in dir(ka) if name[0] != "_"]
    found = {name: getattr(ka, name) for name in names}
    ours = {x.__name__ for x in found.values() if inspect.ismodule(x)}
    return sorted(name for name in ours if name.startswith("keras_adaptive."))


def test_every_public_name_is_on_a_page(api):
    there = set().union(*map(entries, api.values()))
    assert "build_msdnet" in public(ka)
    for module in (ka, anytime_tflite, *map(importlib.import_module, modules())):
        assert {x: path for x, path in public(module).items() if path not in there} == {}, module


def test_every_public_name_is_on_one_page_only(api):
    pages = list(map(entries, api.values()))
    assert sum(map(len, pages)) == len(set().union(*pages))


def test_that_a_private_name_is_on_no_page(api):
    there = set().union(*map(entries, api.values()))
    assert not [path for path in there if path.split(".")[-1].startswith("_")]
    assert "api/layers.md" in api
    assert not [name for name in api if name.startswith("api/_")]


def test_every_module_is_in_the_index(api):
    for name in set(api) - {"api/index.md"}:
        assert f"]({name.removeprefix('api/')}) | " in api["api/index.md"]


SOURCES = {
    "__init__": """
        import importlib
        __all__ = ["Late", "add", "steps"]
        def __getattr__(name):
            return importlib.import_module("keras_adaptive.steps")
        """,
    "_late": """
        class Late:
            'Comes from a private file.'
        def other():
            'Nobody exports it.'
        """,
    "steps/__init__": "from keras_adaptive.steps.add import add as add",
    "steps/add": """
        import math
        from keras_adaptive._late import Late
        def add():
            'Has the name of its file.'
        def _private():
            'Is not for users.'
        """,
}


def test_names_imported_late_or_named_as_their_file_are_found(tmp_path):
    for name, text in SOURCES.items():
        path = tmp_path / "keras_adaptive" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    package = griffe.load("keras_adaptive", search_paths=[tmp_path], try_relative_path=False)

    def paths(module):
        return {name: found.path for name, found in _pages.exported(module).items()}

    add = "keras_adaptive.steps.add.add"
    assert paths(package) == {"Late": "keras_adaptive._late.Late", "add": add}
    assert paths(package["steps"]) == {"add": add}
    assert paths(package["steps"].modules["add"]) == {"add": add}


def test_a_docstring_becomes_google_style():
    arguments = "Call arguments:\n    a: A number."
    text = f"Adds.\n\n{arguments}\n\nExample:\n\n>>> 1 + 1\n2\n\nReference:\n    b"
    assert _pages.google_style(text) == (
        "Adds.\n\nOther Args: Call arguments\n    a: A number.\n\n"
        "**Example**\n\n```pycon\n>>> 1 + 1\n2\n```\n\nReference:\n    b"
    )


def test_tutorials_become_pages():
    pages = _pages.tutorial_pages()
    assert len(pages) == len(list((ROOT / "tutorials").glob("[0-9]*.py")))
    for name, text in pages.items():
        assert text.startswith(f"# {int(Path(name).name[:2])}. ")
        assert "```python\nimport " in text
        assert "%%" not in text


@pytest.mark.parametrize("page", WRITTEN, ids=lambda path: path.stem)
def test_a_name_in_prose_exists(page):
    names = set(_pages.NAME.findall(page.read_text()))
    assert names or page.stem == "measured"  # numbers alone
    for name in names:
        assert functools.reduce(getattr, name.split(".")[1:], ka), name


def test_a_name_in_prose_is_linked():
    entry = _pages.targets()["keras_adaptive.layers.EarlyExit"]
    assert _pages.NAME.sub(_pages._link, "see `ka.layers.EarlyExit(10)` and `ka.nothing`") == (
        f"see [`ka.layers.EarlyExit(10)`][{entry}] and `ka.nothing`"
    )


@pytest.mark.slow
@pytest.mark.tutorial
@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_the_code_of_a_guide_runs(guide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", guide.read_text(), re.DOTALL)
    assert blocks
    names = {}
    for block in blocks:
        exec(compile(block, guide.name, "exec"), names)


class Page(HTMLParser):
    """What a page of the site holds: anchors, links, and what it loads."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.loaded = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors |= {attributes.get("id"), attributes.get("name")}
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        elif tag == "link" and attributes.get("rel") != "canonical":
            self.loaded.append(attributes["href"])
        elif tag in ("script", "img") and "src" in attributes:
            self.loaded.append(attributes["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    known = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=known, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return {path: Page(path.read_text()) for path in folder.rglob("*.html")}


def broken(site, path, link):
    place, anchor = urldefrag(unquote(link))
    target = (path.parent / place).resolve() if place else path
    target = target / "index.html" if target.is_dir() else target
    return not target.exists() or (bool(anchor) and anchor not in site[target].anchors)


def test_that_a_broken_link_is_found(tmp_path):
    path = tmp_path / "index.html"
    path.write_text('<h1 id="top">a</h1>')
    pages = {path: Page(path.read_text())}
    assert not broken(pages, path, "#top")
    assert not broken(pages, path, "./")
    assert broken(pages, path, "#bottom")
    assert broken(pages, path, "other/")


@pytest.mark.slow
@pytest.mark.subprocess
def test_every_link_leads_somewhere(site):
    # those of 404.html are from the root of the server
    inside = [
        (path, link)
        for path, page in site.items()
        for link in (*page.links, *page.loaded)
        if path.name != "404.html" and not re.match(r"https?:|data:", link)
    ]
    assert len(inside) > len(site)
    assert [(path.parent.name, link) for path, link in inside if broken(site, path, link)] == []


@pytest.mark.slow
@pytest.mark.subprocess
def test_every_entry_is_in_the_site(site, api):
    anchors = set().union(*(page.anchors for page in site.values()))
    for page in api.values():
        assert entries(page) <= anchors


@pytest.mark.slow
@pytest.mark.subprocess
def test_a_page_loads_nothing_from_elsewhere(site):
    loaded = {place for page in site.values() for place in page.loaded}
    assert loaded
    assert not [place for place in loaded if re.match(r"https?:|//", place)]
