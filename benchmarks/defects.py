"""Small defects put into the library one at a time: which of them do the tests find?

    python -m benchmarks.defects draw --commit COMMIT     (once: a seed draws the list)
    python -m benchmarks.defects run --suite fast         (hours; resumes where it was interrupted)
    python -m benchmarks.defects table

`--suite all` runs the slow tests as well, on what the fast ones have missed. `--suite quick`
runs only the tests that name the changed file, and keeps nothing. The list and the results are
in defects.json.

A defect changes one place in one file: a sign, a number off by one, a swapped axis, a check
that is gone, or a wrong comparison. Each is put into a fresh copy of one commit, by the
text of its line inside the function of its name, in whatever file that now is, and the tests
run there up to their first failure. Those that know the changed file come first, which changes
the time, not the verdict. A defect that no input can show is replaced by the next of the draw:

    python -m benchmarks.defects replace NUMBER "why nothing can show it"

Where the line itself was rewritten since the draw, the same defect is put into words anew:

    python -m benchmarks.defects rewrite NUMBER FUNCTION "line now" "line with the defect"
"""

import argparse
import ast
import datetime
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from time import perf_counter

from benchmarks import _rows
from keras_adaptive._files import write_whole

ROOT = Path(__file__).parent.parent
LIST = _rows.RESULTS / "defects.json"
PACKAGES = ("keras_adaptive/", "tflite/")
EACH = 6  # defects of every operator
PYTEST = ("-m", "pytest", "-x", "-rfE", "-p", "no:cacheprovider")
PASSED = (0, 5)  # all passed; there was none
FAST, SLOW = ("-m", "not slow"), ("-m", "slow")  # as in the Makefile
MARKS = {"quick": FAST, "fast": FAST, "slow": SLOW}
SUITES = {"quick": ("quick",), "fast": ("fast",), "all": ("fast", "slow")}
TEXT = ("before", "after")
COMMAND = "python -m benchmarks.defects run --suite all"
NO_END = 2 * 3600  # seconds after which a run has no end, which whoever waits finds


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
    write_whole(LIST, json.dumps(record, indent=2) + "\n")


# ---- runs


def run(record, numbers, suite, commit, jobs, again):
    """Runs a suite on the defects that have no result of it yet, and keeps each result."""
    chosen = [d for d in record["defects"] if not numbers or d["number"] in numbers]
    if suite == "slow":  # what `fast` finds is found
        chosen = [d for d in chosen if not d["runs"].get("fast", {}).get("found")]
    todo = [d for d in chosen if again or suite not in d["runs"]]
    pool = ThreadPoolExecutor(jobs)
    waiting = {pool.submit(outcome, suite, commit, defect): defect for defect in todo}
    try:
        for done in as_completed(waiting):
            defect, result = waiting[done], done.result()
            if result is None:
                print(f"{defect['number']}: the site is gone", flush=True)
                continue
            print(f"{defect['number']}: {verdict(result)}", flush=True)
            if suite != "quick":
                defect["runs"][suite] = result
                keep(record)
    finally:
        pool.shutdown(cancel_futures=True)


def outcome(suite, commit, defect=None):
    """Returns what a suite says of a copy with a defect; `None` if its site is gone."""
    with tempfile.TemporaryDirectory() as folder:
        tree, environment = copy(Path(folder), commit)
        rounds = [[]]
        if defect is not None:
            file = apply(defect, tree)
            if file is None:
                return None
            known = acquainted(file, defect, tree)
            rounds = [known, [f"--ignore={name}" for name in known]]
            rounds = rounds[: 1 if suite == "quick" else 2]
        start = perf_counter()
        for arguments in rounds:
            failed = failure([*MARKS[suite], *arguments], tree, environment)
            if failed:
                break
        by, error = failed or (None, None)
        return {
            "found": failed is not None,
            "by": by,
            "error": error,
            "seconds": round(perf_counter() - start, 1),
            "date": datetime.date.today().isoformat(),
            "commit": commit,
        }


def copy(folder, commit):
    """Returns a copy of a commit, and the environment in which it is what is imported."""
    tree, library = folder / ROOT.name, folder / "library"
    git("clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(tree))
    git("-C", str(tree), "checkout", "--quiet", "--detach", commit)
    # data beside the project, and an environment that a test would install anew
    for name in ("../shared", ".venv-tflite-runtime"):
        if (ROOT / name).exists():
            (tree / name).symlink_to((ROOT / name).resolve())
    runtime = tree / "tflite" / "python" / "anytime_tflite"
    library.mkdir()
    (library / "anytime_tflite").symlink_to(runtime if runtime.exists() else tree / "tflite")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (tree, library))),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "COLUMNS": "400",  # room for the error beside the name of the test
    }
    packages = ("keras_adaptive", "anytime_tflite")
    program = "import sys, importlib.util as u\n"
    program += "print(*(u.find_spec(name).origin for name in sys.argv[1:]), sep='\\n')"
    found = subprocess.run(
        [sys.executable, "-c", program, *packages],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    if not all(Path(place).resolve().is_relative_to(tree.resolve()) for place in found):
        raise RuntimeError(f"The copy must be what is imported. Received: {found}")
    return tree, environment


def apply(defect, tree):
    """Puts a defect into a tree. Returns the file's path there, or `None`: not found."""
    sources = {}
    for package in PACKAGES:
        for path in sorted((tree / package).rglob("*.py")):
            sources[str(path.relative_to(tree))] = Source(path.read_text())
    now = {**defect, **defect.get("rewritten", {})}
    if not places(now, sources):
        now = defect
    found = places(now, sources)
    if len(found) > 1:
        found = [x for x in found if Path(x[0]).name == Path(defect["file"]).name]
    if len(found) != 1:
        return None
    file, first = found[0]
    lines = (tree / file).read_text().splitlines()
    indent = lines[first][: len(lines[first]) - len(lines[first].lstrip())]
    last = first + now["before"].count("\n") + 1
    lines[first:last] = textwrap.indent(now["after"], indent).splitlines()
    (tree / file).write_text("\n".join(lines) + "\n")
    return file


def acquainted(file, defect, tree):
    """Returns the tests that name the changed file or lie in its folder, its own first."""
    path = Path(file)
    package, *folders = path.parts[:-1]
    folder = package if package == "tflite" else Path(*folders).name
    module = path.parent.name if path.stem == "__init__" else path.stem.lstrip("_")
    nodes = ast.parse((tree / file).read_text()).body
    names = {x.name for x in nodes if isinstance(x, ast.FunctionDef | ast.ClassDef)}
    names = {name for name in names if not name.startswith("_")} | {path.stem, module}
    owner = defect["function"].split(".")[0]
    found = []
    for test in sorted((tree / "tests").rglob("test_*.py")):
        words = set(re.findall(r"\w+", test.read_text()))
        if test.stem == f"test_{module}":
            found.append((0, test))
        elif test.parent.name == folder or owner in words:
            found.append((1, test))
        elif names & words:
            found.append((2, test))
    # the examples in the docstrings
    own = [file] if package == "keras_adaptive" else []
    return [str(test.relative_to(tree)) for _, test in sorted(found)] + own


def failure(arguments, tree, environment):
    """Returns the first test that fails and its error, or `None`."""
    process = subprocess.Popen(
        [sys.executable, *PYTEST, *arguments],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=NO_END)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return "no end", f"stopped after {NO_END} s"
    if process.returncode in PASSED:
        return None
    named = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - (.*))?$", output, re.MULTILINE)
    if named is None:  # pytest itself could not start
        return "start", output.strip()[-300:]
    return named[1], (named[2] or "")[:300]


# ---- results


def verdict(result):
    """Returns a run's result in words."""
    if result is None:
        return ""
    return f"{result['by']}, {result['seconds']:.0f} s" if result["found"] else "missed"


def page(record):
    """Returns the results as the lines of a Markdown page, title first."""
    rows = []
    for defect in record["defects"]:
        runs = defect["runs"]
        now = {**defect, **defect.get("rewritten", {})}
        rows.append(
            [
                defect["number"],
                defect["operator"].replace("_", " "),
                f"{defect['file']}: {defect['function']}",
                *(_code(now[key]) for key in TEXT),
                *(verdict(runs.get(suite)).replace("|", r"\|") for suite in SUITES["all"]),
            ]
        )
    fast, slow = (
        sum(d["runs"].get(suite, {}).get("found", False) for d in record["defects"])
        for suite in SUITES["all"]
    )
    return _rows.page(
        "# Small defects, and the tests that find them",
        f"{len(rows)} defects, {EACH} of each operator and one per file, drawn by seed "
        f"{record['seed']} from {sum(record['sites'].values()):,} places at commit "
        f"{record['commit'][:7]}. `make test-python` finds {fast} of {len(rows)}; with "
        f"`make test-slow`, which meets only what is left, {fast + slow}. Each is named by the "
        "first test that failed and the seconds until then.",
        _rows.table(["", "operator", "where it was drawn", "line", "defect", "fast", "slow"], rows),
        "Drawn, and replaced because no input can show them:" if record["replaced"] else "",
        [
            f"- {x['file']}: {x['function']}: {_code(x['before'])} to {_code(x['after'])}. "
            f"{x['reason']}"
            for x in record["replaced"]
        ],
    )


def _code(text):
    first, *rest = text.replace("|", r"\|").splitlines()
    return f"`{first}`" + (" ..." if rest else "")


def publish(record):
    """Writes list and results, with date and machine."""
    record = {"machine": {**_rows.machine(), "command": COMMAND}, **record}
    keep(record)
    title, *text = page(record)
    head = [f"- {key}: {value}" for key, value in record["machine"].items()]
    write_whole(LIST.with_suffix(".md"), "\n".join([title, "", *head, *text]) + "\n")
    print("\n".join([title, *text]))


def check_clean(suite, commit):
    """Refuses to go on where the suite fails without any defect."""
    result = outcome(suite, commit)
    if result["found"]:
        raise SystemExit(f"The tests fail without a defect: {result['by']} {result['error']}")
    print(f"without a defect all pass, {result['seconds']:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw")
    drawing.add_argument("--commit", default="HEAD")
    drawing.add_argument("--seed", type=int, default=0)
    replacing = commands.add_parser("replace")
    replacing.add_argument("number", type=int)
    replacing.add_argument("reason")
    rewriting = commands.add_parser("rewrite")
    rewriting.add_argument("number", type=int)
    for name in ("function", *TEXT):
        rewriting.add_argument(name)
    running = commands.add_parser("run")
    running.add_argument("--commit", default="HEAD", help="of which the copies are")
    running.add_argument("--suite", choices=SUITES, default="fast")
    running.add_argument("--quick", action="store_const", const="quick", dest="suite")
    running.add_argument("--only", default="", help="numbers of defects: 3,14")
    running.add_argument("--jobs", type=int, default=1, help="defects at once")
    running.add_argument("--again", action="store_true", help="also those that have a result")
    running.add_argument("--check-clean", action="store_true", help="first without a defect")
    commands.add_parser("table")
    options = parser.parse_args()
    if options.command == "draw":
        return draw(options.commit, options.seed)
    if options.command == "replace":
        return replace(options.number, options.reason)
    record = json.loads(LIST.read_text())
    if options.command == "run":
        numbers = {int(n) for n in options.only.split(",") if n}
        commit = git("rev-parse", options.commit).strip()
        for suite in SUITES[options.suite]:
            if options.check_clean:
                check_clean(suite, commit)
            run(record, numbers, suite, commit, options.jobs, options.again)
        if options.suite == "quick":
            return None
    if options.command == "rewrite":
        defect = record["defects"][options.number - 1]
        defect["rewritten"] = {key: getattr(options, key) for key in ("function", *TEXT)}
        return keep(record)
    record.pop("machine", None)
    return publish(record)


if __name__ == "__main__":
    sys.exit(main())
