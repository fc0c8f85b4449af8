"""Small defects put into the library one at a time: which of them do the tests find?

    python -m benchmarks.defects draw --commit COMMIT     (once: a seed draws the list)
    python -m benchmarks.defects run --suite fast         (hours: a row is kept when it is done)
    python -m benchmarks.defects table

A defect changes one place in one file: a sign, a number off by one, a swapped axis, a check
that is gone, or a wrong comparison. Each is put into a fresh copy of the last commit, by the
text of its line inside the function of its name, in whatever file that now is, and the tests
run there up to their first failure. Those that know the changed file come first, which changes
the time, not the verdict. A defect that no input can show is replaced by the next of the draw:

    python -m benchmarks.defects replace NUMBER "why nothing can show it"
"""

import argparse
import ast
import json
import random
import re
import subprocess
import sys
import textwrap

from benchmarks import common

ROOT = common.ROOT.parent
LIST = common.RESULTS / "defects.json"
PACKAGES = ("keras_adaptive/", "tflite/")
EACH = 6  # defects of every operator


class Source:
    """A file as bytes, which is how `ast` counts columns."""

    def __init__(self, text):
        self.bytes = text.encode()
        self.tree = ast.parse(text)
        self.lines = self.bytes.splitlines(keepends=True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))
        self.functions = list(self._functions())

    def start(self, node):
        return self.starts[node.lineno - 1] + node.col_offset

    def end(self, node):
        return self.starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node):
        return self.bytes[self.start(node) : self.end(node)]

    def operator(self, left, right):
        """Returns where the operator between two nodes starts and ends."""
        found = re.compile(rb"[-+<>=!]+").search(self.bytes, self.end(left), self.start(right))
        return found.span() if found else (0, 0)

    def _functions(self):
        """Yields the qualified name and the node of every function."""
        todo = [("", self.tree)]
        while todo:
            prefix, parent = todo.pop()
            for node in ast.iter_child_nodes(parent):
                name = prefix
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    name = f"{prefix}{node.name}."
                    if isinstance(node, ast.FunctionDef):
                        yield name[:-1], node
                todo.append((name, node))


# ---- operators: each yields the changes of a node as start, end, new text


def sign(node, source):
    """`a + b` for `a - b` and the reverse, `x` for `-x`; not for texts, lists and sets."""
    other = {b"+": b"-", b"-": b"+"}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        if not isinstance(node.operand, ast.Constant):
            yield source.start(node), source.start(node) + 1, b""
    elif (
        isinstance(node, ast.BinOp | ast.AugAssign)
        and isinstance(node.op, ast.Add | ast.Sub)
        and not joins(node)
    ):
        sides = (
            (node.left, node.right) if isinstance(node, ast.BinOp) else (node.target, node.value)
        )
        start, _ = source.operator(*sides)
        yield start, start + 1, other[source.bytes[start : start + 1]]


def joins(node):
    """Tells whether texts, lists or sets are joined, as far as the source shows it."""
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Add | ast.Sub | ast.Mult) and (
            joins(node.left) or joins(node.right)
        )
    if isinstance(node, ast.AugAssign):
        return joins(node.value)
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str | bytes)
    if isinstance(node, ast.Call):
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        return name in {"list", "tuple", "set", "str", "sorted", "join", "splitlines", "format"}
    collections = ast.List | ast.Tuple | ast.Set | ast.ListComp | ast.SetComp
    return isinstance(node, ast.JoinedStr | collections)


def off_by_one(node, source):
    """`n + 1` for an integer, and for a bound of `range` or of a slice."""
    bounds = []
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield source.start(node), source.end(node), str(node.value + 1).encode()
    elif isinstance(node, ast.Slice):
        bounds = [node.lower, node.upper]
    elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "range":
        bounds = node.args[:2]
    for bound in bounds:
        if isinstance(bound, ast.Name | ast.Attribute | ast.Subscript | ast.Call | ast.BinOp):
            yield source.end(bound), source.end(bound), b" + 1"


SHAPES = {"reshape", "broadcast_to", "zeros", "ones", "full", "empty", "transpose", "moveaxis"}
LIBRARIES = {b"np", b"tf", b"ops", b"keras.ops"}


def swapped_axis(node, source):
    """Another axis; or the first two entries of a shape or of a transposition swapped."""
    if not isinstance(node, ast.Call):
        return
    for keyword in node.keywords:
        if keyword.arg == "axis":
            for text in other_axis(keyword.value):
                yield source.start(keyword.value), source.end(keyword.value), text.encode()
    if getattr(node.func, "attr", "") not in SHAPES:
        return
    pairs = [arg.elts[:2] for arg in node.args if isinstance(arg, ast.Tuple)]
    if node.func.attr == "moveaxis":
        pairs.append(node.args[1:3])
    elif node.func.attr == "reshape" and source.text(node.func.value) not in LIBRARIES:
        pairs.append(node.args[:2])
    for pair in pairs:
        if len(pair) == 2:
            a, b = pair
            between = source.bytes[source.end(a) : source.start(b)]
            yield source.start(a), source.end(b), source.text(b) + between + source.text(a)


def other_axis(value):
    """Yields the next axis, as text, where the axis is written as a number."""
    try:
        axis = ast.literal_eval(value)
    except ValueError:
        return
    if isinstance(axis, tuple):
        yield str(tuple(a + 1 if a >= 0 else a - 1 for a in axis))
    elif isinstance(axis, int):
        yield str({0: 1, -1: -2}.get(axis, axis - 1 if axis > 0 else axis + 1))


def dropped_check(node, source):
    """Nothing where an error was raised."""
    if (
        isinstance(node, ast.If)
        and isinstance(node.body[-1], ast.Raise)
        and len(node.body) == 1
        and not node.orelse
        and source.text(node).startswith(b"if ")
    ):
        yield source.start(node), source.end(node), b"pass"


WRONG = {
    b"<": (b"<=", b">"),
    b"<=": (b"<", b">="),
    b">": (b">=", b"<"),
    b">=": (b">", b"<="),
    b"==": (b"!=",),
    b"!=": (b"==",),
}


def wrong_comparison(node, source):
    """`<=` or `>` for `<`, `!=` for `==`, and so on."""
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        for left, right in zip(sides, sides[1:], strict=False):
            start, end = source.operator(left, right)
            for wrong in WRONG.get(source.bytes[start:end], ()):
                yield start, end, wrong


OPERATORS = (sign, off_by_one, swapped_axis, dropped_check, wrong_comparison)


# ---- sites and the draw


def inside(function):
    """Yields the nodes of a function's body that belong to no function in it.

    Not what a text or its format holds (`ast` gives it wrong places before Python 3.12), nor
    what `axis=` is set to, which `swapped_axis` changes.
    """
    todo = list(function.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.JoinedStr | ast.AnnAssign):
            continue
        yield node
        if isinstance(node, ast.keyword) and node.arg == "axis":
            continue
        todo.extend(ast.iter_child_nodes(node))


def sites(operator, sources):
    """Returns all places of an operator in order, each found again by its text alone."""
    found = []
    for file, source in sources.items():
        for name, function in source.functions:
            for node in inside(function):
                for start, end, new in operator(node, source):
                    site = as_lines(source, start, end, new)
                    if site["before"] != site["after"]:
                        found.append({"file": file, "function": name, **site})
    found.sort(key=lambda site: (site["file"], site["line"], site["after"]))
    return [site for site in found if len(places(site, sources)) == 1]


def as_lines(source, start, end, new):
    """Returns the lines that a change touches, before and after it, without their indent."""
    first = max(i for i, place in enumerate(source.starts[:-1]) if place <= start)
    last = max(i for i, place in enumerate(source.starts[:-1]) if place < max(end, start + 1))
    head, tail = source.starts[first], source.starts[last + 1]
    before = source.bytes[head:tail]
    after = before[: start - head] + new + before[end - head :]
    return {
        "line": first + 1,
        "before": textwrap.dedent(before.decode()).rstrip("\n"),
        "after": textwrap.dedent(after.decode()).rstrip("\n"),
    }


def places(site, sources):
    """Returns the files and lines (from 0) where a site's text stands in its function."""
    found = []
    count = site["before"].count("\n") + 1
    for file, source in sources.items():
        for name, node in source.functions:
            if name == site["function"]:
                lines = source.bytes.decode().splitlines()
                for i in range(node.lineno - 1, node.end_lineno - count + 1):
                    if textwrap.dedent("\n".join(lines[i : i + count])) == site["before"]:
                        found.append((file, i))
    return found


def committed(commit):
    """Returns the sources of the packages at a commit, by path."""
    files = git("ls-tree", "-r", "--name-only", commit, "--", *PACKAGES).splitlines()
    wanted = [f for f in sorted(files) if f.endswith(".py") and not f.endswith("__init__.py")]
    return {file: Source(git("show", f"{commit}:{file}")) for file in wanted}


def git(*arguments):
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


def shuffled(seed, commit):
    """Returns the sites of every operator, in the order in which they are drawn."""
    sources = committed(commit)
    order = {}
    for operator in OPERATORS:
        order[operator.__name__] = sites(operator, sources)
        random.Random(seed).shuffle(order[operator.__name__])
    return order


def following(order, taken):
    """Returns the first site of an order whose file no other defect has."""
    files = {site["file"] for site in taken}
    return next(site for site in order if site["file"] not in files)


def draw(commit, seed):
    """Writes the list of defects; it is drawn once."""
    if LIST.exists():
        raise SystemExit(f"{LIST} exists: the list is drawn once")
    order = shuffled(seed, commit)
    defects = []
    for operator in sorted(order, key=lambda name: len({x["file"] for x in order[name]})):
        for _ in range(EACH):
            site = following(order[operator], defects)
            defects.append({"number": len(defects) + 1, "operator": operator, **site, "runs": {}})
    record = {
        "seed": seed,
        "commit": git("rev-parse", commit).strip(),
        "sites": {name: len(found) for name, found in order.items()},
        "defects": defects,
        "replaced": [],
    }
    keep(record)
    print(json.dumps(record["sites"]))


def replace(number, reason):
    """Puts the next site of the draw in the place of a defect that nothing can show."""
    record = json.loads(LIST.read_text())
    old = record["defects"][number - 1]
    order = shuffled(record["seed"], record["commit"])[old["operator"]]
    taken = [*record["defects"], *record["replaced"]]
    record["replaced"].append({**old, "reason": reason})
    new = following(order, taken)
    record["defects"][number - 1] = {
        "number": number,
        "operator": old["operator"],
        **new,
        "runs": {},
    }
    keep(record)


def keep(record):
    LIST.write_text(json.dumps(record, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw")
    drawing.add_argument("--commit", default="HEAD")
    drawing.add_argument("--seed", type=int, default=0)
    replacing = commands.add_parser("replace")
    replacing.add_argument("number", type=int)
    replacing.add_argument("reason")
    options = parser.parse_args()
    if options.command == "draw":
        draw(options.commit, options.seed)
    elif options.command == "replace":
        replace(options.number, options.reason)


if __name__ == "__main__":
    sys.exit(main())
