"""Writes the tutorials as notebooks beside them, each with a badge that opens it in Colab.

python -m docs.notebooks          (or: make notebooks)
"""

from pathlib import Path

import jupytext
import nbformat

from benchmarks.readme import home

ROOT = Path(__file__).parent.parent
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def notebook(path):
    """Returns a tutorial as a notebook: the badge, what to install, then the tutorial.

    Args:
        path: Path of a tutorial, a program in cells.
    """
    project = home().removeprefix("https://github.com/")
    place = (
        f"https://colab.research.google.com/github/{project}/blob/main/tutorials/{path.stem}.ipynb"
    )
    picture = "https://colab.research.google.com/assets/colab-badge.svg"
    made = jupytext.read(path)
    first = [
        nbformat.v4.new_markdown_cell(f"[![Open in Colab]({picture})]({place})"),
        nbformat.v4.new_code_cell('%pip install --quiet "keras_adaptive[plot,tune,compress]"'),
    ]
    made.cells = first + made.cells
    for number, cell in enumerate(made.cells):
        cell["id"] = f"cell-{number}"  # the same each time
    made.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    nbformat.validate(made)
    return made


if __name__ == "__main__":
    for program in sorted((ROOT / "tutorials").glob("[0-9]*.py")):
        nbformat.write(notebook(program), program.with_suffix(".ipynb"))
