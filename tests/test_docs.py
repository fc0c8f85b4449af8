"""The pages in docs/ say what the docstrings say."""

import inspect
from pathlib import Path

import pytest

import keras_adaptive as ka
from docs import write

DOCS = Path(write.__file__).parent
PAGES = write.pages()


def test_pages_are_up_to_date():
    there = {path.name: path.read_text() for path in DOCS.glob("*.md")}
    assert there == PAGES, "run `make docs`"


@pytest.mark.parametrize("name", ["models", "layers", "policy", "inference", "data"])
def test_a_page_names_everything_public(name):
    module = getattr(ka, name, None) or __import__(f"keras_adaptive.{name}")
    for public in (n for n in dir(module) if not n.startswith("_")):
        value = getattr(module, public)
        own = getattr(value, "__module__", "").startswith(f"keras_adaptive.{name}")
        if own and (inspect.isclass(value) or inspect.isfunction(value)) and value.__doc__:
            assert f"\n## {public}\n" in PAGES[f"{name}.md"]


def test_every_page_says_what_its_module_is():
    for name, text in PAGES.items():
        assert len(text.split("\n")[4]) > 10, name
        assert text.count("```") % 2 == 0, name


def test_an_example_and_its_arguments_become_markdown():
    arguments = "Args:\n    a: A number,\n        any."
    text = write._prose(f"Adds.\n\n{arguments}\n\nExample:\n\n>>> 1 + 1\n2\n\nReturns:\n    b")
    assert "- `a`: A number,\n  any." in text
    assert "```python\n>>> 1 + 1\n2\n```" in text
    assert text.endswith("**Returns**\n\nb")
