"""Adds what is generated to the site: pages of the API, tutorials, and links to names.

mkdocs calls `on_files` and `on_page_markdown`; mkdocstrings loads `KerasDocstrings`. Sources are
read, not imported: the site needs neither TensorFlow nor any extra of the package.
"""

import functools
import re
from pathlib import Path

import griffe
import jupytext
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PLACES = (ROOT, ROOT / "tflite" / "python")
OURS = ("keras_adaptive", "anytime_tflite")
DOCSTRING_ALONE = """
    options:
      members: false
      show_root_heading: false
      show_root_toc_entry: false
"""
NAME = re.compile(r"`(ka(?:\.\w+)+)[^`\n]*`")


def on_files(files, config):
    """Adds the generated pages, and puts all pages in the order of reading."""
    for name, text in {**tutorial_pages(), **api_pages()}.items():
        files.append(File.generated(config, name, content=text))
    names = sorted(file.src_uri for file in files.documentation_pages())
    parts = {"Guides": "guides/", "Tutorials": "tutorials/", "API": "api/"}
    menu = [{title: [x for x in names if x.startswith(place)]} for title, place in parts.items()]
    config.nav = ["index.md", *menu, "measured.md", "papers.md"]
    return files


def on_page_markdown(markdown, page, **_):
    """Links every `ka.name` in prose to its entry."""
    return markdown if page.file.src_uri.startswith("api/") else NAME.sub(_link, markdown)


def _link(found):
    target = targets().get("keras_adaptive" + found[1].removeprefix("ka"))
    return f"[{found[0]}][{target}]" if target else found[0]


def tutorial_pages():
    """Returns the tutorials as Markdown: file name to text."""
    pages = {}
    for path in (ROOT / "tutorials").glob("[0-9]*.py"):
        cells = [
            cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```"
            for cell in jupytext.read(path).cells
        ]
        pages[f"tutorials/{path.stem}.md"] = "\n\n".join(cells) + "\n"
    return pages


def api_pages():
    """Returns an index and one page per public module: file name to text."""
    modules, exports, homes = _api()
    pages, rows = {}, ["| module | what it is |", "|---|---|"]
    for module in modules[1:]:
        here = [path for path, home in homes.items() if home == module.path]
        if here:
            file = f"{module.path.removeprefix('keras_adaptive.')}.md"
            pages[f"api/{file}"] = _page(module.path, module, here)
            rows.append(f"| [`{module.path}`]({file}) | {_summary(module)} |")
    root = modules[0]
    rows += ["", "| name | what it is |", "|---|---|"]
    for name, found in sorted(exports[root.path].items()):
        rows.append(f"| [`{root.path}.{name}`][{found.path}] | {_summary(found)} |")
    here = [path for path, home in homes.items() if home == root.path]
    pages["api/index.md"] = _page("API", root, here) + "\n" + "\n".join(rows) + "\n"
    return pages


@functools.cache
def targets():
    """Returns where every public name is explained: name to the anchor of its entry."""
    modules, exports, homes = _api()
    found = {path: path for path in (module.path for module in modules) if path in homes.values()}
    for path, names in exports.items():
        found |= {f"{path}.{name}": definition.path for name, definition in names.items()}
    return found


@functools.cache
def _api():
    """Returns the public modules, what each exports, and the module whose page explains it.

    That is the one that exports a definition and holds its file; where there is none, the
    first that exports it. The package itself comes first in the list, and is asked last.
    """
    loader = griffe.GriffeLoader(search_paths=PLACES)
    root, device = (loader.load(name, try_relative_path=False) for name in OURS)
    loader.resolve_aliases()
    inner = [x for x in root.modules.values() if not (x.is_alias or x.name.startswith("_"))]
    modules = [root, *sorted(inner, key=lambda module: module.name), device]
    exports = {module.path: exported(module) for module in modules}
    homes = {}
    for inside in (True, False):
        for module in [*modules[1:], root]:
            for found in exports[module.path].values():
                if not inside or (module is not root and found.path.startswith(module.path + ".")):
                    homes.setdefault(found.path, module.path)
    return modules, exports, homes


def exported(module):
    """Returns what a module exports and documents: name to class or function."""
    names = module.exports
    if names is None:
        ours = [name for name, path in module.imports.items() if path.split(".")[0] in OURS]
        own = [name for name, x in module.members.items() if not (x.is_alias or x.is_module)]
        names = [*(ours if module.is_init_module else []), *own]
        names = [name for name in names if not name.startswith("_")]
    found = {str(name): _definition(module, str(name)) for name in names}
    return {name: definition for name, definition in found.items() if definition is not None}


def _definition(module, name):
    """Returns the documented class or function of ours that a name stands for, or `None`."""
    # a file may have the name of what it holds, and a package may import late
    inner = module.modules
    for place in (module, *([inner[name]] if name in inner else []), *inner.values()):
        member = place.members.get(name)
        if member is not None and member.is_alias:
            ours = member.target_path.split(".")[0] in OURS
            member = member.final_target if ours else None
        if member is not None and member.is_attribute and isinstance(member.value, griffe.ExprName):
            return _definition(member.parent, member.value.name)  # an old name: `old = new`
        if member is not None and (member.is_class or member.is_function) and member.docstring:
            return member
    deeper = (_definition(place, name) for place in inner.values())
    return next((found for found in deeper if found is not None), None)


def _page(title, module, entries):
    """Returns the page of a module: its docstring, then what it holds."""
    head = [f"# {title} {{#{module.path}}}", f"::: {module.path}{DOCSTRING_ALONE}"]
    return "\n\n".join([*head, *(f"::: {entry}" for entry in entries)]) + "\n"


def _summary(found):
    text = found.docstring.value if found.docstring else ""
    return " ".join(text.partition("\n\n")[0].split())


class KerasDocstrings(griffe.Extension):
    """Makes Google style out of what Keras writes otherwise: examples, and call arguments."""

    def on_object(self, *, obj, **_):
        if obj.docstring:
            obj.docstring.value = google_style(obj.docstring.value)


def google_style(text):
    """Returns a docstring in Google style: examples as code, every title known."""
    text = re.sub(r"^(Examples?|References?):\n\n(?! )", r"**\1**\n\n", text, flags=re.M)
    text = re.sub(r"^>>> .+(?:\n.+)*", r"```pycon\n\g<0>\n```", text, flags=re.M)
    return re.sub(r"^Call arguments:$", "Other Args: Call arguments", text, flags=re.M)
