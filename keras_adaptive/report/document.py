"""A document as a list of parts, written as Markdown or as one HTML file.

A part is a tuple of its kind and what it holds:

    ("title", text), ("heading", text), ("text", text): text with `code` in it
    ("list", [text, ...])
    ("table", rows, columns): as in `tables.table`
    ("picture", name, file)
"""

import base64
import html as escape
import re
from pathlib import Path

from keras_adaptive.report.tables import table, table_cells

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.2rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #8885; }
th { border-bottom: 2px solid #888; }
td:first-child, th:first-child { text-align: left; }
code { background: #8882; padding: .1em .3em; border-radius: 3px; overflow-wrap: anywhere; }
img { max-width: 100%; background: white; }
""".strip()


def markdown(parts):
    """Returns a document as Markdown; pictures are named, not contained."""
    blocks = []
    for kind, *content in parts:
        if kind == "table":
            blocks.append("\n".join(table(*content)))
        elif kind == "list":
            blocks.append("\n".join(f"- {item}" for item in content[0]))
        elif kind == "picture":
            blocks.append(f"![{content[0]}]({content[1]})")
        else:
            blocks.append({"title": "# ", "heading": "## ", "text": ""}[kind] + content[0])
    return "\n\n".join(blocks) + "\n"


def html(parts, folder):
    """Returns a document as one HTML page that needs no other file.

    Args:
        parts: List of parts.
        folder: Where the pictures are; one that is missing is left out.
    """
    title = next(content[0] for kind, *content in parts if kind == "title")
    body = [_html(Path(folder), kind, *content) for kind, *content in parts]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_inline(title)}</title>",
            f"<style>\n{STYLE}\n</style></head><body>",
            *(block for block in body if block),
            "</body></html>",
            "",
        ]
    )


def _html(folder, kind, *content):
    if kind == "list":
        return "<ul>\n" + "\n".join(f"<li>{_inline(x)}</li>" for x in content[0]) + "\n</ul>"
    if kind == "table":
        rows, columns = content
        lines = [_row("th", columns.values()), *(_row("td", r) for r in table_cells(rows, columns))]
        return '<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>"
    if kind == "picture":
        name, file = content
        if not (folder / file).is_file():
            return None
        data = base64.b64encode((folder / file).read_bytes()).decode()
        return f'<p><img alt="{_inline(name)}" src="data:image/png;base64,{data}"></p>'
    tag = {"title": "h1", "heading": "h2", "text": "p"}[kind]
    return f"<{tag}>{_inline(content[0])}</{tag}>"


def _row(tag, cells):
    return "<tr>" + "".join(f"<{tag}>{_inline(cell)}</{tag}>" for cell in cells) + "</tr>"


def _inline(text):
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape.escape(text))
