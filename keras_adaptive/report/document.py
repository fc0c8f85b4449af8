r"""A document as a list of parts, written as Markdown or as one HTML file.

A part is a tuple of its kind and what it holds:

    ("title", text), ("heading", text), ("text", text), ("note", text)
    ("links", [(text, file), ...]): files beside the document
    ("list", [item, ...]): an item is a text, or a pair of a name and what is shown as code
    ("table", rows, columns): as in `tables.table`
    ("picture", title, file)

Texts are plain: class names and file names may hold any character, and none of it is read
as Markdown or HTML; what is no visible character is shown as one that stands for it.
"""

import base64
import re
import unicodedata
import urllib.parse
from pathlib import Path

import jinja2

from keras_adaptive._files import shown
from keras_adaptive.report.tables import aligned, table_cells

TEMPLATES = jinja2.Environment(loader=jinja2.PackageLoader(__package__, "."), autoescape=True)
LARGEST = 16 * 2**20  # bytes of a picture
MARKS = {"title": "# ", "heading": "## ", "text": "", "note": "> **Note:** "}
UNITS = re.compile(r"(?<=\d) (?=(?:ms|MACs|MB|bytes|images|threads?)\b|%)")  # no line ends there
MINUS = re.compile(r"(?<![\w-])-(?=inf\b|\d)")  # and none after a hyphen that is a minus


def markdown(parts):
    """Returns a document as Markdown; pictures are named, not contained."""
    blocks = []
    for kind, *content in _visible(parts):
        if kind == "table":
            rows = [content[1].values(), *table_cells(*content)]
            blocks.append("\n".join(aligned([[escape(cell) for cell in row] for row in rows])))
        elif kind == "list":
            blocks.append("\n".join(f"- {_item(item)}" for item in content[0]))
        elif kind == "links":
            lines = (f"- [{escape(text)}]({urllib.parse.quote(file)})" for text, file in content[0])
            blocks.append("\n".join(lines))
        elif kind == "picture":
            blocks.append(f"![{escape(content[0])}]({urllib.parse.quote(content[1])})")
        else:
            blocks.append(MARKS[kind] + escape(content[0]))
    return "\n\n".join(blocks) + "\n"


def html(parts, folder):
    """Returns a document as one HTML page that needs no other file.

    Args:
        parts: List of parts.
        folder: Where the folder `pictures` is, the only one that is read from; a picture
            that is missing is left out.

    Raises:
        ValueError: If a picture is not a .png file in that folder, or a link out of it.
    """

    def encoded(file):
        content = _picture(Path(folder), file)
        return content and base64.b64encode(content).decode()

    template = TEMPLATES.get_template("document.html")
    return template.render(
        parts=_visible(parts),
        table_cells=table_cells,
        encoded=encoded,
        whole=lambda text: MINUS.sub("\u2212", UNITS.sub("\u00a0", text)),
    )


def _picture(folder, file):
    """Returns the content of a picture, `None` where there is none."""
    place, name = folder / "pictures", file.removeprefix("pictures/")
    path = place / name
    if not re.fullmatch(r"\w[\w-]*\.png", name, re.ASCII) or name == file:
        raise ValueError(f"A picture must be a .png file in pictures/. Received: {shown(file)}")
    if place.is_symlink() or path.is_symlink():
        raise ValueError(f"A picture must be a file, not a link. Received: {path}")
    if not path.is_file():
        return None
    with open(path, "rb") as opened:
        content = opened.read(LARGEST + 1)
    if not content.startswith(b"\x89PNG") or len(content) > LARGEST:
        raise ValueError(
            f"A picture must be a PNG file of at most {LARGEST:,} bytes. Received: {path}"
        )
    return content


def escape(text):
    r"""Returns a text as one line of Markdown that shows it as it stands.

    Example:

    >>> print(escape("<b> | *C#* max_prob\n# [x](y)"))
    &lt;b&gt; \| \*C\#\* max_prob \# \[x\](y)
    """
    line = re.sub(r"([\\`*\[\]|#~]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split()))
    return re.sub(r"&(?=\w+;)", "&amp;", line).replace("<", "&lt;").replace(">", "&gt;")


def _visible(value):
    """Returns parts without characters that steer a terminal or reverse the text after them."""
    if isinstance(value, str):
        hidden = ("Cc", "Cf", "Cs")
        return "".join(
            "\ufffd" if unicodedata.category(c) in hidden and not c.isspace() else c for c in value
        )
    if isinstance(value, dict):
        return {key: _visible(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_visible, value))
    return value


def _item(item):
    if isinstance(item, str):  # what would begin a list inside the list
        return re.sub(r"^(\d*)([-+.)])", r"\1\\\2", escape(item))
    name, code = item[0], " ".join(item[1].split())
    fence = "`" * (1 + max(map(len, re.findall("`+", code)), default=0))
    space = " " if "`" in code else ""
    return f"{escape(name)}: {fence}{space}{code}{space}{fence}"
