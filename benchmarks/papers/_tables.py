"""What the programs of the five papers share: rows that are data, trained, kept and compared.

    python -m benchmarks.papers.imta --table 2 --scale short
    python -m benchmarks.papers.imta --table 2 --scale published --data ~/cifar100 --plan

A row is a network, how it is trained, and what the paper prints of it. A row that is done is kept
in results/papers, by itself, with its date, machine and settings: tables that share a row train it
once, and an interrupted program goes on with the first row that is missing, from that row's last
complete epoch; a row whose answers are no longer in runs/ is trained anew. Rows of other seeds
(`--seed 1`) stand on the same page. `short` is a small
training on CIFAR-10 of 16 x 16 pixels, the same for every row, that two CPU cores do in minutes;
`published` is the paper's own. `--plan` says what a scale takes, from a few steps of
each network on made images on whatever Keras's backend finds: with KERAS_BACKEND=jax, a GPU.
"""

import argparse
import dataclasses
import math
import time
from pathlib import Path

import keras
import numpy as np

import keras_adaptive as ka
from benchmarks import _rows, common
from keras_adaptive.training import RECIPES, Recipe, regimes
from keras_adaptive.training._identity import described

SCALES = ("short", "published")
SHORT = Recipe(
    learning_rate=0.1, epochs=6, batch_size=64, schedule="one_cycle", mixed_precision="auto"
)
SHORT_IMAGES, SHORT_SIZE = 5_000, 16  # of CIFAR-10, for training; pixels, a quarter of the MACs
POINTS = 20  # budgets of a curve
TIMED_IMAGES, TIMED_STEPS = 32, 3


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set as a paper uses it.

    Attributes:
        name: As `ka.data.load` takes it.
        shape: `(height, width, channels)`.
        classes: Integer.
        images: Integer, for training and calibration.
        calibrate: Integer, how many of them are held out.
    """

    name: str
    shape: tuple
    classes: int
    images: int
    calibrate: int

    def held_out(self, calibrate):
        return dataclasses.replace(self, calibrate=calibrate)


CIFAR10 = Data("cifar10", (32, 32, 3), 10, 50_000, 5_000)
CIFAR100 = Data("cifar100", (32, 32, 3), 100, 50_000, 5_000)
IMAGENET = Data("imagenet2012", (224, 224, 3), 1000, 1_281_167, 50_000)
IMAGENET32 = Data("downsampled_imagenet/32x32", (32, 32, 3), 1000, 1_281_167, 1_000)


@dataclasses.dataclass(frozen=True)
class Row:
    """One training, and what the paper prints of it.

    Attributes:
        name: String, unique among the rows of a paper.
        build: Function of `input_shape` and `classes` that returns an `AdaptiveModel`.
        data: `Data` of the published scale.
        fit: Dictionary of arguments of `ka.training.fit`.
        recipe: Name of the published recipe.
        paper: Dictionary: a value of `measure` to what is printed.
        short: Dictionary of arguments of `fit` that take the place of some at the short scale.
        after: Function of the trained model and the data, or `None`: what is trained then.
        measure: Function of the model, `Answers` and the row that returns a dictionary of values.
        copy: Integer: rows of different ones begin with other weights.
    """

    name: str
    build: object
    data: Data
    fit: dict = dataclasses.field(default_factory=dict)
    recipe: str | Recipe = "cifar"
    paper: dict = dataclasses.field(default_factory=dict)
    short: dict = dataclasses.field(default_factory=dict)
    after: object = None
    measure: object = None
    copy: int = 0

    @property
    def published(self):
        """The recipe of the published scale."""
        return RECIPES[self.recipe] if isinstance(self.recipe, str) else self.recipe


@dataclasses.dataclass(frozen=True)
class Table:
    """A table or a figure of a paper.

    Attributes:
        title: String.
        rows: Tuple of `Row`.
        lines: Function of the `Result`s by row that returns a list of `(name, value, ours,
            printed or None)`, or `None`: one of every value that a row's paper prints.
        claims: Tuple of `(text, function of the results, *names of rows)`: what the paper says of
            its values, whether ours say so too, and the rows that this takes, if not all.
        note: String: what a reader must know, and why printed values are not reached.
        picture: Function of the last row's `Result` and its data that draws, or `None`.
    """

    title: str
    rows: tuple
    lines: object = None
    claims: tuple = ()
    note: str = ""
    picture: object = None


class Answers:
    """The logits of every exit on held-out data and on test data, and their labels.

    Args:
        path: Path of the file that keeps them.
        data: `ka.data.Splits`, or `None` where the file is there.
    """

    def __init__(self, path, data=None):
        self.path, self.data = path, data

    def images(self, split):
        """Returns the images of a split, standardized."""
        return self.data.arrays(split)[0]

    def write(self, model):
        found = common.answers(model, self.data)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            self.path,
            **{f"{name}_logits": z.astype("float16") for name, (z, _) in found.items()},
            **{f"{name}_labels": y for name, (_, y) in found.items()},
        )

    def of(self, split):
        """Returns logits `(exits, samples, classes)` and labels of `"calibrate"` or `"test"`."""
        with np.load(self.path) as kept:
            return kept[f"{split}_logits"].astype("float32"), kept[f"{split}_labels"]


@dataclasses.dataclass
class Result:
    """A row that is done: its values, and its logits where they are still kept."""

    row: Row
    values: dict
    answers: Answers


def exits(model, answers, row, top_k=1, method="optimal"):
    """Measures every exit, and the curve over budgets of thresholds chosen on held-out data."""
    costs = model.exit_costs()
    test = (*answers.of("test"), costs)
    curve = ka.accuracy_cost_curve(
        *answers.of("calibrate"), costs, points=POINTS, test=test, top_k=top_k, method=method
    )
    return {
        **{f"E-{k + 1}": 100 * float(a) for k, a in enumerate(curve.exit_accuracies)},
        "MMACs": [cost / 1e6 for cost in costs],
        "M parameters": [n / 1e6 for n in model.exit_costs("params")],
        "curve": [[c / 1e6 for c in curve.costs], [100 * a for a in curve.accuracies]],
    }


def curve_of(result, method="optimal"):
    """Returns the `Curve` of a row, from its logits."""
    costs = 1e6 * np.array(result.values["MMACs"])
    test = (*result.answers.of("test"), costs)
    how = {"points": POINTS, "method": method}
    return ka.accuracy_cost_curve(*result.answers.of("calibrate"), costs, test=test, **how)


def joined(results, combine=np.mean):
    """Returns the answers of an ensemble of rows of one exit each, cumulative: a curve of it."""
    costs = np.cumsum([1e6 * result.values["MMACs"][-1] for result in results])
    parts = []
    for split in ("calibrate", "test"):
        found = [result.answers.of(split) for result in results]
        z = np.stack([logits[-1] for logits, _ in found])
        probs = np.exp(z - z.max(-1, keepdims=True))
        probs /= probs.sum(-1, keepdims=True)
        means = np.cumsum(probs, axis=0) / np.arange(1, len(z) + 1)[:, None, None]
        parts.append((np.log(np.maximum(means, 1e-12)), found[0][1], costs))
    return ka.accuracy_cost_curve(*parts[0], points=POINTS, test=parts[1], method="geometric")


# ---- one row


class Program:
    """The rows of one paper at one scale.

    Args:
        paper: String.
        scale: `"short"` or `"published"`.
        data: Name or path of the data, or `None`: the paper's, and at the short scale CIFAR-10 as
            JPEG files.
        seed: Integer.
        results, runs: Paths of what is kept and of what can be made again.
    """

    def __init__(self, paper, scale, data=None, seed=0, results=None, runs=None):
        self.paper, self.scale, self.data, self.seed = paper, scale, data, seed
        place = Path("papers") / f"{paper}_{scale}"
        self.runs = Path(runs or common.RUNS) / place
        self.rows = _rows.Rows(Path(results or common.RESULTS) / place)
        self._loaded = {}

    def key(self, row):
        data = CIFAR10 if self.scale == "short" else row.data
        return f"{row.name} {data.name.partition('/')[0]} seed {self.seed}"

    def recipe(self, row):
        return row.published if self.scale == "published" else SHORT

    def arguments(self, row):
        """Returns the arguments of `ka.training.fit`."""
        how = {**row.fit, **(row.short if self.scale == "short" else {})}
        return {"recipe": self.recipe(row), "seed": self.seed + 1000 * row.copy, **how}

    def load(self, row):
        """Returns the data of a row, read once."""
        facts = row.data
        if self.scale == "short":
            how = {"train_limit": SHORT_IMAGES, "image_size": SHORT_SIZE}
            load, name = common.cifar, {} if self.data is None else {"data_dir": self.data}
        else:
            how = {"calibrate": facts.calibrate}
            load, name = ka.data.load, {"name": self.data or facts.name}
        key = (*how.items(), *name.items())
        if key not in self._loaded:
            self._loaded = {key: load(**name, **how)}  # one at a time is kept in memory
        return self._loaded[key]

    def settings(self, row):
        how = {k: v for k, v in self.arguments(row).items() if k != "seed"}
        found = {"scale": self.scale, "data": str(self.data), "fit": described(how)}
        if self.scale == "short":
            found |= {"images": SHORT_IMAGES, "size": SHORT_SIZE}
        return found

    def answers(self, row, data=None):
        return Answers(self.runs / f"{self.rows.path(self.key(row)).stem}.npz", data)

    def result(self, row):
        """Returns the result of a row; trains it where that has not been done."""
        key, settings = self.key(row), self.settings(row)
        if self.answers(row).path.exists():
            found = self.rows.measure(key, self.train, row, **settings)
        else:  # the row that may be there stays until there is another
            found = self.rows.save(key, self.train(row), **settings)
        return Result(row, found, self.answers(row))

    def done(self, row):
        """Returns the result of a row, or `None`."""
        found = self.rows.load(self.key(row), **self.settings(row))
        return None if found is None else Result(row, found, self.answers(row))

    def found(self, table):
        """Returns the results of a table's rows that are done, by name."""
        results = {row.name: self.done(row) for row in table.rows}
        return {name: result for name, result in results.items() if result is not None}

    def seeds(self):
        """Returns the seeds of which there are rows."""
        return {
            int(path.stem.rpartition("_")[2]) for path in self.rows.folder.glob("*_seed_*.json")
        }

    def train(self, row):
        """Trains a row and returns its values."""
        keras.backend.clear_session()
        keras.utils.set_random_seed(self.seed + 1000 * row.copy)
        data = self.load(row)
        answers = self.answers(row, data)
        model = row.build(data.input_shape, len(data.class_names))
        folder = answers.path.with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        start = time.time()
        log = keras.callbacks.CSVLogger(folder / "epochs.csv", append=True)
        model = ka.training.fit(
            model,
            data,
            data,
            callbacks=[ka.training.ExitHistory(), log],
            backup_dir=folder / "backup",
            verbose=2,
            **self.arguments(row),
        )
        if row.after is not None:
            row.after(model, data)
        answers.write(model)
        values = (row.measure or exits)(model, answers, row)
        return {"minutes": round((time.time() - start) / 60, 1), **values}

    # ---- what it would take

    def plan(self, row):
        """Returns the images, steps and hours of a row, from a few steps on made images."""
        facts, recipe = row.data, self.recipe(row)
        if self.scale == "short":
            size = (SHORT_SIZE, SHORT_SIZE, 3)
            facts = dataclasses.replace(CIFAR10, shape=size, images=SHORT_IMAGES, calibrate=0)
        keras.backend.clear_session()
        model = row.build(facts.shape, facts.classes)
        images = facts.images - facts.calibrate
        steps = math.ceil(images / recipe.batch_size)
        epochs = sum(lengths(model, self.arguments(row), steps))
        rate = images_per_second(model, facts, min(TIMED_IMAGES, recipe.batch_size))
        return {
            "row": row.name,
            "images": images,
            "epochs": epochs,
            "steps": epochs * steps,
            "images/s": rate,
            "hours": epochs * images / rate / 3600,
        }


def lengths(model, how, steps):
    """Returns the epochs of every phase of a training of so many steps an epoch."""
    regime, recipe = how.get("regime", "joint"), how["recipe"]
    phases = regimes._number_of_phases(model, regime, how.get("reinforce"))
    if regime == "imta" and recipe.imta_epochs:
        return list(recipe.imta_epochs)
    if recipe.iterations is None:
        return regimes._lengths(recipe.epochs, phases, how.get("first_share") or 0.5)
    if np.ndim(recipe.iterations):
        return [math.ceil(n / steps) for n in recipe.iterations[:phases]]
    epochs = max(math.ceil(recipe.iterations / steps), phases)
    return regimes._lengths(epochs, phases, how.get("first_share") or 0.5)


def made(shape, classes, count):
    """Returns so many images and labels that mean nothing."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, *shape)).astype("float32"), rng.integers(0, classes, count)


def images_per_second(model, facts, count):
    """Returns how many images a second a network learns from, all exits at once."""
    x, y = made(facts.shape, facts.classes, count)
    model.train_on_batch(x, y)  # which compiles
    start = time.perf_counter()
    for _ in range(TIMED_STEPS):
        model.train_on_batch(x, y)
    return TIMED_STEPS * count / (time.perf_counter() - start)


def first_steps(row, images=2, shape=None):
    """Trains a row of the published scale for one step in each phase, on made images.

    Args:
        row: `Row`.
        images: Integer.
        shape: Input shape in place of the data's.

    Returns:
        The trained model.
    """
    facts, how = row.data, {"recipe": row.published, "seed": 0, **row.fit}
    shape = shape or facts.shape
    model = row.build(shape, facts.classes)
    phases = regimes._number_of_phases(model, how.get("regime", "joint"), how.get("reinforce"))
    data = made(shape, facts.classes, images)
    return ka.training.fit(model, data, epochs=phases, verbose=0, **how)


# ---- tables


def printed_values(results):
    """Returns a line of every value that the paper prints."""
    return [
        (result.row.name, name, at(result.values, name), printed)
        for result in results.values()
        for name, printed in result.row.paper.items()
    ]


def at(values, name):
    """Returns a value of a row; `"MMACs 3"` is that of the third exit."""
    if name in values:
        return values[name]
    name, _, number = name.rpartition(" ")
    return values[name][int(number) - 1]


def page(program, title, table, by_seed, picture=None):
    """Returns the lines of a table's page, which may show a file that is a picture.

    Args:
        program: `Program`.
        title: String, as `"table 2"`.
        table: `Table`.
        by_seed: Dictionary: seed to the `Result`s by row that there are.
        picture: Name of the file, or `None`.
    """
    cells = []
    for (name, value), (printed, ours) in values_by_line(table, by_seed).items():
        mean = np.mean(ours) if ours else None
        difference = None if printed is None or mean is None else mean - printed
        spread = f" ± {np.std(ours, ddof=1):.2f} ({len(ours)})" if len(ours) > 1 else ""
        cells.append([name, value, number(mean) + spread, number(printed), number(difference)])
    missing = [row.name for row in table.rows if not any(row.name in r for r in by_seed.values())]
    claims = [f"- {text}: {said}." for text, said in claims_by_seed(table, by_seed) if said]
    seeds = [str(seed) for seed in by_seed]
    what = f"Scale: {program.scale}, {of_seeds(seeds)}."
    if len(seeds) > 1:
        what += " Of several seeds: mean ± standard deviation (how many)."
    if program.scale == "short":
        what += (
            f" {SHORT_IMAGES:,} images of CIFAR-10 (JPEG), reduced to {SHORT_SIZE} x {SHORT_SIZE}"
            f" pixels, {SHORT.epochs} epochs in all phases, for every row. Because of that MACs are"
            " about a quarter of the published network's, and printed values are not reached;"
            " orders may be."
        )
    return _rows.page(
        f"# {title}: {table.title}",
        what,
        table.note,
        f"![{table.title}]({picture})" if picture else "",
        _rows.table(["row", "value", "ours", "paper", "difference"], cells) if cells else "",
        [f"Not run yet: {', '.join(missing)}."] if missing else "",
        ["What the paper says of it, and whether these rows say so too:", "", *claims]
        if claims
        else "",
    )


def values_by_line(table, by_seed):
    """Returns what is printed and the values of all seeds, by name of row and of value."""
    found = {}
    for results in by_seed.values():
        for name, value, ours, printed in (table.lines or printed_values)(results):
            _, values = found.setdefault((name, value), (printed, []))
            if ours is not None:
                values.append(ours)
    return found


def claims_by_seed(table, by_seed):
    """Yields every claim, and for which seeds it holds, of those of which its rows are there."""
    for text, holds, *rows in table.claims:
        rows = rows or [row.name for row in table.rows]
        said = {True: [], False: []}
        for seed, results in by_seed.items():
            if all(name in results for name in rows):
                said[bool(holds(results))].append(str(seed))
        words = {True: "yes", False: "no"}
        if len(by_seed) == 1:
            yield text, "".join(words[held] for held, seeds in said.items() if seeds)
        else:
            of = [f"{words[held]} ({of_seeds(seeds)})" for held, seeds in said.items() if seeds]
            yield text, ", ".join(of)


def of_seeds(seeds):
    return f"seed{'' if len(seeds) == 1 else 's'} {', '.join(seeds)}"


def number(value):
    return "" if value is None else f"{value:.2f}"


def parser(description, tables):
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    kinds = {"table": [], "figure": []}
    for name in tables:
        kind, _, which = name.partition(" ")
        kinds[kind].append(which)
    which = made.add_mutually_exclusive_group(required=True)
    for kind, names in kinds.items():
        if names:
            which.add_argument(f"--{kind}", choices=names)
    made.add_argument("--scale", choices=SCALES, default="short")
    made.add_argument("--data", help="name, folder or archive of the images, if not the paper's")
    made.add_argument("--row", nargs="*", help="only these rows, by name")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--plan", action="store_true", help="only say what it would take")
    made.add_argument("--page", action="store_true", help="only write the page again")
    return made


def main(paper, description, tables, arguments=None, results=None, runs=None):
    """Runs the program of a paper.

    Args:
        paper: String, the name of its module.
        description: String, its docstring.
        tables: Dictionary: `"table 2"` or `"figure 4"` to a `Table`.
        arguments: List of strings. `None`: those of the command line.
        results, runs: As in `Program`.
    """
    options = vars(parser(description, tables).parse_args(arguments))
    title = next(f"{k} {options[k]}" for k in ("table", "figure") if options.get(k))
    table = tables[title]
    unknown = set(options["row"] or ()) - {row.name for row in table.rows}
    if unknown:
        raise SystemExit(f"`--row` must be among: {', '.join(r.name for r in table.rows)}")
    chosen = [row for row in table.rows if not options["row"] or row.name in options["row"]]
    how = {name: options[name] for name in ("scale", "data", "seed")}
    program = Program(paper, **how, results=results, runs=runs)
    if program.scale == "short":
        large = [row.name for row in chosen if row.data.shape[0] > 32]
        if large:
            print(f"At the published scale only, for their images' size: {', '.join(large)}.")
        chosen = [row for row in chosen if row.name not in large]
    if options["plan"]:
        plans = [program.plan(row) for row in chosen]
        text = "{row} | {images:,} | {epochs} | {steps:,} | {images/s:.1f} | {hours:.1f}"
        columns = "row | images | epochs | steps | images/s | hours"
        print("\n".join(_rows.table(columns, plans, text)))
        backend = keras.backend.backend()
        print(f"{sum(plan['hours'] for plan in plans):.1f} hours in all, measured on {backend}.")
        return plans
    if not options["page"]:
        for row in chosen:
            program.result(row)
    by_seed = {
        seed: Program(paper, **{**how, "seed": seed}, results=results, runs=runs).found(table)
        for seed in sorted({program.seed, *program.seeds()})
    }
    by_seed = {seed: found for seed, found in by_seed.items() if found}
    found = by_seed.get(program.seed, {})
    place = program.rows.folder.parent
    place.mkdir(parents=True, exist_ok=True)
    file = place / f"{paper}_{title.replace(' ', '_')}_{program.scale}.md"
    picture = None
    if table.picture is not None and table.rows[-1].name in found:
        picture = file.with_suffix(".png").name
        result = found[table.rows[-1].name]
        axes = table.picture(result, program.load(result.row))
        axes.flat[0].figure.savefig(place / picture, dpi=80)
    lines = page(program, f"{paper}, {title}", table, by_seed, picture)
    file.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return lines
