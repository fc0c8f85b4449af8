"""Writes the pages of this folder from the docstrings: one page a module.

make docs
"""

import ast
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent
# what others build on, not users
INNER = {"__init__", "__main__", "cli", "files", "gated_costs", "graph", "thresholds", "version"}
LISTED = ("Args", "Attributes", "Call arguments", "Raises")
SECTION = re.compile(
    rf"^({'|'.join(LISTED)}|Returns|Yields|Examples?|References?|Input shape|Output shape):$"
)
NOTE = "<!-- Written by `make docs` from the docstrings: change those. -->"


def pages():
    """Returns every page: file name to text."""
    package = ROOT / "keras_adaptive"
    modules = {
        path.stem: path
        for path in sorted(package.iterdir())
        if (path / "__init__.py").exists() or path.suffix == ".py"
    }
    found = {name: path for name, path in modules.items() if name not in INNER}
    result = {f"{name}.md": _page(f"keras_adaptive.{name}", path) for name, path in found.items()}
    device = ROOT / "tflite" / "python" / "anytime_tflite"
    result["anytime_tflite.md"] = _page("anytime_tflite", device)
    rows = [
        f"| [{name.removesuffix('.md')}]({name}) | {text.split(chr(10))[4]} |"
        for name, text in result.items()
    ]
    index = ["# API", "", NOTE, "", "| module | what it is |", "|---|---|", *rows, ""]
    return {"README.md": "\n".join(index), **result}


def _page(name, path):
    source = path / "__init__.py" if path.is_dir() else path
    tree = ast.parse(source.read_text())
    summary, _, rest = (ast.get_docstring(tree) or "").partition("\n\n")
    parts = [f"# {name}", NOTE, " ".join(summary.split()), *([_prose(rest)] if rest else [])]
    names = _exported(tree, path) if path.is_dir() else _defined(tree)
    for node in names:
        parts += _entry(node)
    return "\n\n".join(parts) + "\n"


def _defined(tree):
    """Returns the public functions and classes of a module that say what they are."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [
        node
        for node in tree.body
        if isinstance(node, kinds) and not node.name.startswith("_") and ast.get_docstring(node)
    ]


def _exported(tree, folder):
    """Returns the definitions of the names a package hands out."""
    found = []
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom):
            continue
        file = folder.joinpath(*node.module.split(".")[len(folder.relative_to(ROOT).parts) :])
        if folder.name == "anytime_tflite":
            file = folder / node.module.split(".")[-1]
        inside = _defined(ast.parse(file.with_suffix(".py").read_text()))
        wanted = {alias.name for alias in node.names}
        found += [definition for definition in inside if definition.name in wanted]
    return found


def _entry(node):
    parts = [f"## {node.name}", f"```python\n{_signature(node)}\n```"]
    parts.append(_prose(ast.get_docstring(node)))
    if isinstance(node, ast.ClassDef):
        for method in _defined(node):
            parts += [f"### {node.name}.{method.name}"]
            if not any(_name(d) == "property" for d in method.decorator_list):
                parts.append(f"```python\n{_signature(method)}\n```")
            parts.append(_prose(ast.get_docstring(method)))
    return parts


def _name(node):
    return getattr(node, "id", None)


def _signature(node):
    if isinstance(node, ast.ClassDef):
        made = [x for x in node.body if isinstance(x, ast.FunctionDef) and x.name == "__init__"]
        if made:
            return _call(node.name, made[0].args)
        fields = [x for x in node.body if isinstance(x, ast.AnnAssign)]
        values = [
            x.target.id + (f"={ast.unparse(x.value)}" if x.value is not None else "")
            for x in fields
        ]
        return f"{node.name}({', '.join(values)})" if fields else node.name
    return _call(node.name, node.args)


def _call(name, arguments):
    if arguments.args and arguments.args[0].arg in ("self", "cls"):
        arguments.args = arguments.args[1:]
    line = f"{name}({ast.unparse(arguments)})"
    if len(line) <= 88:
        return line
    parts = _split(ast.unparse(arguments))
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), ")"])


def _split(text):
    """Cuts at the commas that are in no bracket."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _prose(text):
    """Returns a docstring as Markdown."""
    lines, section, inside = [], None, False
    for line in text.split("\n"):
        title = SECTION.match(line)
        example = line.lstrip().startswith(">>>") or (inside and bool(line.strip()))
        if example != inside:
            lines.append("```python" if example else "```")
            inside = example
        if title:
            section = title.group(1)
            lines += [f"**{section}**", ""]
        elif inside:
            lines.append(line)
        elif section in LISTED and re.match(r"^    \S[^:]*: ?", line):
            name, _, rest = line.strip().partition(":")
            lines.append(f"- `{name}`:{rest}")
        elif section in LISTED and line.startswith("        "):
            lines.append(f"  {line.strip()}")
        else:
            lines.append(textwrap.dedent(line) if section else line)
    if inside:
        lines.append("```")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def main():
    for name, text in pages().items():
        (ROOT / "docs" / name).write_text(text)
    for path in (ROOT / "docs").glob("*.md"):
        if path.name not in pages():
            path.unlink()


if __name__ == "__main__":
    main()
