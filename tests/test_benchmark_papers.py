"""The programs of the five papers: their rows, their pages from made results, one short run."""

import dataclasses
import importlib
import io
import re
import tarfile

import keras
import numpy as np
import pytest
from eager import eagerly
from PIL import Image

import keras_adaptive as ka
from benchmarks.papers import _tables
from benchmarks.papers._tables import CIFAR10, Answers, Program, Result, Row, Table, main
from keras_adaptive.training import RECIPES, Recipe

eagerly = pytest.fixture(eagerly)  # one step of a deep network as a graph takes minutes
PAPERS = ("msdnet", "imta", "guan", "ddi", "cascades")
MODULES = {name: importlib.import_module(f"benchmarks.papers.{name}") for name in PAPERS}
TABLES = [(paper, title) for paper, module in MODULES.items() for title in module.TABLES]


def table(paper, title):
    return MODULES[paper].TABLES[title]


@pytest.mark.parametrize("paper", PAPERS)
def test_rows_that_share_a_name_are_one_row(paper):
    """A row is kept by its name and its data, whatever the table that trains it."""
    found = {}
    for title in MODULES[paper].TABLES:
        rows = table(paper, title).rows
        assert len({row.name for row in rows}) == len(rows), title
        for row in rows:
            key = row.name, row.data.name
            facts = (str(row.fit), row.recipe, row.copy, str(row.build))
            assert found.setdefault(key, facts)[1:3] == facts[1:3], key
            assert row.published.epochs
            assert all(isinstance(value, float) for value in row.paper.values()), key


# ---- pages of made results


class Made(Answers):
    """Answers that get better from exit to exit."""

    def __init__(self, exits, classes=4, samples=60):
        rng = np.random.default_rng(exits)
        self.path, self.parts = None, {}
        for number, split in enumerate(("calibrate", "test")):
            labels = np.random.default_rng(number).integers(0, classes, samples)
            signal = np.eye(classes)[labels] * np.linspace(1, 2.5, exits)[:, None, None]
            self.parts[split] = rng.normal(size=(exits, samples, classes)) + signal, labels

    def of(self, split):
        return self.parts[split]


def made_result(row, number):
    several = any(word in row.name for word in ("MSDNet", "GE", "ISC", "OFA"))
    exits = sum(name.startswith("E-") for name in row.paper) or (6 if several else 1)
    answers = Made(exits)
    costs = (1 + number) * np.linspace(1, 3, exits)
    values = {
        **{f"E-{k + 1}": 50.0 + number + k for k in range(exits)},
        "MMACs": costs.tolist(),
        "accuracy": 90.0 - number,
        "MACs saved": 10.0 * number,
        "energy saved": 9.0 * number,
        "error": 20.0 - number,
        "relative FLOPs": 10.0 + number,
        "error of thresholds at this cost": None,
        "leave at each": [60.0, 40.0],
        "matrix": [[90.0, None], [95.0, 80.0]],
        "right of them": [100.0, None],
        "first of them": [[70.0], [40.0, 60.0]],
        "Spearman's rho": 0.5 + number / 10,
        **{name: value - 1 for name, value in row.paper.items()},
    }
    return Result(row, values, answers)


def read(lines):
    """A page without the spaces that pad its tables."""
    return re.sub(" +", " ", "\n".join(lines))


QUICK = (
    ("imta", "table 2"),
    ("guan", "table cifar10"),
    ("ddi", "table 2"),
    ("ddi", "figure 9"),
    ("msdnet", "figure parts"),
)


@pytest.mark.parametrize(
    ("paper", "title"),
    [
        x if x in QUICK else pytest.param(*x, marks=pytest.mark.slow)
        for x in TABLES
        if x != ("imta", "figure 6")  # which is read from the logs of trainings
    ],
)
def test_a_page_says_what_is_ours_what_is_printed_and_whether_claims_hold(paper, title):
    own = table(paper, title)
    results = {row.name: made_result(row, i) for i, row in enumerate(own.rows)}
    program = Program(paper, "published")
    text = read(_tables.page(program, title, own, {0: results}))
    assert text.startswith(f"# {title}: {own.title}")
    assert "| ours |" in text
    for claim, *_ in own.claims:
        assert f"- {claim}: yes." in text or f"- {claim}: no." in text
    if own.lines is None:
        printed = [v for row in own.rows for v in row.paper.values()]
        assert text.count("| -1.00 |") == len(printed)
    first = own.rows[0].name
    del results[first]
    assert f"Not run yet: {first}." in read(_tables.page(program, title, own, {0: results}))


class Shown:
    """Twelve test images of three classes."""

    class_names = ("ant", "bee", "cow")

    def size(self, split):
        return 12

    def images(self, split, count):
        images = np.arange(12, dtype="uint8")[:, None, None, None] * np.ones((4, 4, 3), "uint8")
        return images[:count], np.arange(count) % 3


def test_pictures_show_the_images_that_stop_at_each_classifier():
    values = {"most confident": [[4, 1], [], [8]]}
    result = Result(table("guan", "figure 3").rows[-1], values, Made(3, classes=3, samples=12))
    axes = table("guan", "figure 3").picture(result, Shown())
    seen = [[int(image.get_array().max()) for ax in row for image in ax.images] for row in axes]
    assert seen == [[4, 1], [], [8]]
    axes = table("guan", "figure 4").picture(result, Shown())
    assert [int(row[0].images[0].get_array().max()) for row in axes] == [4, 8]
    bars = [[bool(ax.patches) for ax in row[1:]] for row in axes]
    assert bars == [[True, False, False], [True, True, True]]


def test_claims_are_what_the_accuracies_say():
    rows = table("imta", "table 2").rows
    results = {row.name: made_result(row, 3 * i) for i, row in enumerate(rows)}
    plain, better = (MODULES["imta"].gains(way) for way in ("MSDNet", "GE"))
    assert better(results)
    assert not plain(results)


def test_claims_of_several_seeds_are_told_apart():
    rows = table("imta", "table 2").rows[:2]
    first, second = (made_result(row, 0).values for row in rows)  # as the paper prints them
    names = [row.name for row in rows]
    results = [
        {n: Result(None, v, None) for n, v in zip(names, values, strict=True)}
        for values in ((first, second), (second, first))
    ]
    claim = ("GE is better", MODULES["imta"].gains("GE"), *names)
    own = Table("a trial", table("imta", "table 2").rows, lambda results: [], claims=(claim,))
    text = "\n".join(_tables.page(Program("imta", "short"), "t", own, dict(enumerate(results))))
    assert "- GE is better: yes (seed 0), no (seed 1)." in text
    assert "Scale: short, seeds 0, 1." in text
    del results[1][rows[0].name]  # without which nothing is said of this seed
    text = "\n".join(_tables.page(Program("imta", "short"), "t", own, dict(enumerate(results))))
    assert "- GE is better: yes (seed 0)." in text


# ---- the program

TINY = {"channels": 4, "growth_rate": 2, "blocks": 2, "head_channels": 4}


def tiny(input_shape, classes, **arguments):
    return ka.build_msdnet(input_shape, classes, **{**TINY, **arguments})


SMALL = dataclasses.replace(CIFAR10, shape=(8, 8, 1), classes=4)
ROWS = (
    Row("plain", tiny, SMALL, paper={"E-1": 90.0}),
    Row("imta", tiny, SMALL, {"regime": "imta"}, paper={"E-2": 91.0}),
)
TRIAL = {"table 1": Table("a trial", ROWS)}


@pytest.fixture
def places(tmp_path):
    return {"results": tmp_path / "results", "runs": tmp_path / "runs"}


def test_rows_are_trained_once_and_a_page_is_written(places, monkeypatch, capsys):
    trained = []

    def train(self, row):
        trained.append(row.name)
        self.answers(row).path.parent.mkdir(parents=True, exist_ok=True)
        self.answers(row).path.touch()
        return {"E-1": 80.0, "E-2": 85.0}

    monkeypatch.setattr(Program, "train", train)
    lines = main("trial", "A trial.", TRIAL, ["--table", "1", "--row", "imta"], **places)
    assert trained == ["imta"]
    assert "Not run yet: plain." in lines
    main("trial", "A trial.", TRIAL, ["--table", "1", "--page"], **places)
    assert trained == ["imta"]
    main("trial", "A trial.", TRIAL, ["--table", "1"], **places)
    assert trained == ["imta", "plain"]
    (page,) = places["results"].rglob("*.md")
    assert page.name == "trial_table_1_short.md"
    assert "| plain | E-1 | 80.00 | 90.00 | -10.00 |" in read([page.read_text()])
    main("trial", "A trial.", TRIAL, ["--table", "1", "--seed", "1"], **places)
    assert trained == ["imta", "plain", "plain", "imta"]
    assert "| plain | E-1 | 80.00 ± 0.00 (2) | 90.00 | -10.00 |" in read([page.read_text()])
    (gone,) = (path for path in places["runs"].rglob("plain*.npz") if "seed_1" in path.name)
    gone.unlink()  # which curves are drawn from
    main("trial", "A trial.", TRIAL, ["--table", "1", "--seed", "1"], **places)
    assert trained == ["imta", "plain", "plain", "imta", "plain"]


@pytest.mark.parametrize("wrong", [["--table", "9"], [], ["--table", "1", "--row", "other"]])
def test_refuses_what_is_not_there(wrong, places, capsys):
    with pytest.raises(SystemExit):
        main("trial", "A trial.", TRIAL, wrong, **places)


class Exits:
    """What `lengths` asks of a network."""

    num_exits = 7


@pytest.mark.parametrize(
    ("how", "steps", "expected"),
    [
        ({"recipe": RECIPES["cifar"]}, 704, [300]),
        ({"recipe": RECIPES["cifar"], "regime": "imta"}, 704, [300, 180]),
        ({"recipe": RECIPES["resnet_cifar"]}, 391, [164]),
        ({"recipe": RECIPES["ddi_cifar"], "regime": "gated"}, 391, [164, 17, 128, 128]),
        ({"recipe": MODULES["guan"].TOGETHER, "regime": "stopping"}, 383, [168, 17, 168]),
        ({"recipe": Recipe(epochs=20), "regime": "stopping"}, 10, [10, 2, 8]),
    ],
)
def test_a_plan_has_the_epochs_of_every_phase(how, steps, expected):
    assert _tables.lengths(Exits(), how, steps) == expected


# ---- the slow ones: one step of everything, one short training

LAST = [(paper, table(paper, title).rows[-1]) for paper, title in TABLES]
KINDS = {}  # one row of each way of training on each data set
for paper, row in LAST:
    KINDS.setdefault((paper, row.data.name, *sorted(row.fit)), (paper, row.name, row))
FIRST = {(paper, name, row.data.name): row for paper, name, row in KINDS.values()}


COLLAPSED = pytest.mark.filterwarnings("ignore:The stopping policy sends")  # after a step or two


@COLLAPSED
@pytest.mark.slow
@pytest.mark.parametrize("key", FIRST, ids=" ".join)
def test_the_published_scale_takes_its_first_step(key, eagerly):
    row = FIRST[key]
    shape = row.data.shape if row.data.shape[0] <= 32 else (64, 64, 3)
    model = _tables.first_steps(row, shape=shape)
    assert all(np.isfinite(w).all() for w in model.get_weights())
    keras.backend.clear_session()


@pytest.mark.slow
def test_the_parts_of_msdnet_are_compared_at_like_costs():
    rows = MODULES["msdnet"].PART_ROWS
    full, *others = (row.build((32, 32, 3), 10).exit_costs()[-1] for row in rows)
    assert others == pytest.approx([full] * 3, rel=0.15)


@pytest.mark.slow
def test_a_short_run_from_images_to_the_page(tmp_path, places, monkeypatch, capsys, eagerly):
    rng = np.random.default_rng(0)
    path = tmp_path / "made.tar"
    with tarfile.open(path, "w") as archive:
        for split, count in (("train", 12), ("test", 5)):
            for label in range(3):
                for number in range(count):
                    pixels = rng.integers(0, 128, (8, 8, 3), dtype="uint8")
                    pixels[..., label] += 120
                    file = io.BytesIO()
                    Image.fromarray(pixels).save(file, "PNG")
                    member = tarfile.TarInfo(f"made/{split}/{label}x/{number}.png")
                    member.size = file.tell()
                    file.seek(0)
                    archive.addfile(member, file)
    monkeypatch.setattr(_tables, "SHORT", Recipe(epochs=2, batch_size=11, schedule="one_cycle"))
    monkeypatch.setattr(_tables.common, "RUNS", tmp_path)
    how = ["--table", "1", "--data", str(path)]
    text = read(main("trial", "A trial.", TRIAL, how, **places))
    assert text.count("| E-") == 2
    assert "Not run" not in text
    (plan, second) = main("trial", "A trial.", TRIAL, [*how, "--plan"], **places)
    assert plan["images"] == _tables.SHORT_IMAGES
    assert plan["epochs"] == second["epochs"] == 2
    assert plan["images/s"] > 0


@COLLAPSED
@pytest.mark.slow
def test_a_cascade_with_policies_is_measured(digits, tmp_path, monkeypatch):
    guan = MODULES["guan"]
    monkeypatch.setattr(guan, "largest", lambda preset, input_shape: 1e6)
    how = {"depths": (8, 8), "widths": (0.25, 0.5), "units": 4}
    model = ka.build_stopping_cascade(digits.input_shape, 10, **how)
    before = [np.array(w) for w in model.stopping[0].get_weights()]
    guan.policies_alone(model, digits)
    after = model.stopping[0].get_weights()
    assert not all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    answers = Answers(tmp_path / "answers.npz", digits)
    answers.write(model)
    found = guan.cascade("cifar10", model, answers, None)
    first, last = model.stopping_costs() / 1e4
    share = found["leave at each"][0] / 100
    assert found["relative FLOPs"] == pytest.approx(share * first + (1 - share) * last)
    logits, labels = answers.of("test")
    exits = model.learned_policy().decide(logits)
    right = [logits[k, i].argmax() == labels[i] for i, k in enumerate(exits)]
    assert found["error"] == pytest.approx(100 - 100 * np.mean(right))
    for k, images in enumerate(found["most confident"]):
        assert set(exits[images]) <= {k}
        assert len(images) == min(guan.SHOWN, (exits == k).sum())
        if images:
            assert found["right of them"][k] == pytest.approx(
                100 * np.mean([right[i] for i in images])
            )


@pytest.mark.slow
def test_gates_and_hard_budgets_are_measured(digits, tmp_path):
    ddi = MODULES["ddi"]
    model = ka.build_resnet(
        digits.input_shape, 10, depth=14, width=0.25, exits=(0.5,), gates="both", head_channels=4
    )
    answers = Answers(tmp_path / "answers.npz", digits)
    answers.write(model)
    found = ddi.gated(model, answers, None)
    x, y = digits.arrays("test")
    logits, costs = model.predict_with_costs(x, verbose=0)
    full = model.exit_costs()
    assert found["MACs saved"] == pytest.approx(100 - 100 * costs[-1].mean() / full[-1])
    assert found["accuracy"] == pytest.approx(100 * (logits[-1].argmax(-1) == y).mean())
    budgets = [1e-6, 2e-6 * full[1], 3e-6 * full[-1]]
    measure = ddi.budgets_of([(budget, 0.0, 0.0, "") for budget in budgets], flops_per_mac=2)
    same = Row("same size", lambda shape, classes: model, SMALL)
    values = list(measure(model, answers, same).values())[1:]
    within = (costs <= full[1]).sum(axis=0) - 1  # the last exit of each image that is affordable
    by_hand = np.mean([logits[k, i].argmax() == y[i] for i, k in enumerate(within)])
    assert values[0] is None
    assert values[1:] == pytest.approx([100 * by_hand, found["accuracy"]])
    shape = digits.input_shape
    larger = Row(
        "larger", lambda *_: ka.build_resnet((2 * shape[0], *shape[1:]), 10, depth=8), SMALL
    )
    times = larger.build().exit_costs()[-1] / full[-1]
    budgets = [times * budget for budget in budgets]
    measure = ddi.budgets_of([(budget, 0.0, 0.0, "") for budget in budgets], flops_per_mac=2)
    assert list(measure(model, answers, larger).values())[1:] == values
