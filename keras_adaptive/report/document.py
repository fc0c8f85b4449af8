r"""A document as a list of parts, written as Markdown or as one HTML file.

A part is a tuple of its kind and what it holds:

    ("title", text), ("heading", text), ("text", text)
    ("list", [item, ...]): an item is a text, or a pair of a name and what is shown as code
    ("table", rows, columns): as in `tables.table`
    ("picture", title, file)

Texts are plain: class names and file names may hold any character, and none of it is read
as Markdown or HTML.
"""

import base64
import re
import urllib.parse
from pathlib import Path

import jinja2

from keras_adaptive.report.tables import aligned, table_cells

TEMPLATES = jinja2.Environment(loader=jinja2.PackageLoader(__package__, "."), autoescape=True)
MARKS = {"title": "# ", "heading": "## ", "text": ""}


def markdown(parts):
    """Returns a document as Markdown; pictures are named, not contained."""
    blocks = []
    for kind, *content in parts:
        if kind == "table":
            rows = [content[1].values(), *table_cells(*content)]
            blocks.append("\n".join(aligned([[escape(cell) for cell in row] for row in rows])))
        elif kind == "list":
            blocks.append("\n".join(f"- {_item(item)}" for item in content[0]))
        elif kind == "picture":
            blocks.append(f"![{escape(content[0])}]({urllib.parse.quote(content[1])})")
        else:
            blocks.append(MARKS[kind] + escape(content[0]))
    return "\n\n".join(blocks) + "\n"


def html(parts, folder):
    """Returns a document as one HTML page that needs no other file.

    Args:
        parts: List of parts.
        folder: Where the pictures are; one that is missing is left out.
    """

    def encoded(file):
        path = Path(folder) / file
        return base64.b64encode(path.read_bytes()).decode() if path.is_file() else None

    template = TEMPLATES.get_template("document.html")
    return template.render(parts=parts, table_cells=table_cells, encoded=encoded)


def escape(text):
    r"""Returns a text as one line of Markdown that shows it as it stands.

    Example:

    >>> print(escape("<b> | *C#* max_prob\n# [x](y)"))
    &lt;b&gt; \| \*C\#\* max_prob \# \[x\](y)
    """
    line = re.sub(r"([\\`*\[\]|#~]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split()))
    return re.sub(r"&(?=\w+;)", "&amp;", line).replace("<", "&lt;").replace(">", "&gt;")


def _item(item):
    if isinstance(item, str):  # what would begin a list inside the list
        return re.sub(r"^(\d*)([-+.)])", r"\1\\\2", escape(item))
    name, code = item[0], " ".join(item[1].split())
    fence = "`" * (1 + max(map(len, re.findall("`+", code)), default=0))
    space = " " if "`" in code else ""
    return f"{escape(name)}: {fence}{space}{code}{space}{fence}"
