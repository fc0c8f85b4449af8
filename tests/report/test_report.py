import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from scipy import stats

import keras_adaptive as ka
from keras_adaptive import report as reports
from keras_adaptive.cli.arguments import parse
from keras_adaptive.report import document, tables, writing

SHIPPED = Path(ka.__file__).parent / "models" / "weights" / "cifar10" / "report.json"


def test_exit_table_is_what_evaluate_says(calibration, policy):
    logits, labels, costs = calibration
    rows = reports.exit_table(policy, logits, labels, costs)
    report = ka.evaluate(policy, logits, labels, costs)
    assert [row["share_leaving"] for row in rows] == report.exit_fractions.tolist()
    assert [row["accuracy_alone"] for row in rows] == report.exit_accuracies.tolist()
    assert [row["macs"] for row in rows] == costs.tolist()
    assert rows[-1]["threshold"] == "-inf"
    assert [row["aurc"] for row in rows] == ka.evaluation.aurc(logits, labels).tolist()
    auroc = ka.evaluation.failure_auroc(logits, labels)
    assert [row["failure_auroc"] for row in rows] == auroc.tolist()
    errors = ka.calibration.reliability(logits, labels, policy.temperatures).errors
    assert [row["calibration_error"] for row in rows] == errors.tolist()
    json.dumps(rows, allow_nan=False)


def test_budget_table_keeps_budgets_and_ends_with_the_full_network(calibration):
    logits, labels, costs = calibration
    rows = reports.budget_table((logits, labels), (logits, labels), costs, shares=(0.3, 0.5, 0.8))
    assert len(rows) == 4
    for row in rows[:-1]:
        assert row["mean_macs"] <= row["budget"] * (1 + 1e-9)
        assert sum(row["exit_ratios"]) == pytest.approx(1)
    assert rows[-1]["share_of_full"] == 1
    assert rows[-1]["exit_ratios"] == [0, 0, 1]
    assert rows[-1]["accuracy"] == (logits[-1].argmax(-1) == labels).mean()


def test_budgets_that_pay_end_with_the_cheapest_policy_of_the_highest_accuracy():
    labels = np.arange(8) % 2
    right = 4 * np.eye(2)[labels]
    wrong = np.eye(2)[1 - labels] * np.linspace(1, 2, 8)[:, None]
    easy = (np.arange(8) < 4)[:, None]  # the first exit is right and confident about half
    logits = np.stack([np.where(easy, right, wrong), right, right])
    costs = np.array([1.0, 5.0, 100.0])
    budgets = tables.budgets_that_pay(logits, labels, costs, steps=(0.5, 1.0))
    assert budgets == [2.0, 3.0]  # all right for (1 + 5) / 2; the last exit never pays
    rows = reports.budget_table((logits, labels), (logits, labels), costs)
    assert [row["accuracy"] for row in rows] == [0.625, 0.75, 1.0, 1.0]
    assert [row["mean_macs"] for row in rows] == [1.5, 2.0, 3.0, 100.0]


def test_where_no_later_exit_pays_there_is_one_budget():
    labels = np.arange(6) % 2
    logits = np.stack([np.eye(2)[labels]] * 2)
    rows = reports.budget_table((logits, labels), (logits, labels), np.array([1.0, 2.0]))
    assert [row["mean_macs"] for row in rows] == [1.0, 2.0]


def test_budgets_near_each_other_have_names_of_their_own(calibration):
    logits, labels, _ = calibration
    costs = [500.0, 501.0, 503.0]
    rows = reports.budget_table((logits, labels), (logits, labels), costs, [0.995, 0.997, 1.0])
    assert [row["policy"] for row in rows[:-1]] == [
        "99.5% of the cost",
        "99.7% of the cost",
        "100.0% of the cost",
    ]


def test_a_budget_below_the_first_exit_becomes_the_first_exit():
    assert reports.feasible_budget(0.1, np.array([3.0, 10.0])) == 3.0
    assert reports.feasible_budget(0.5, np.array([3.0, 10.0])) == 5.0


@pytest.mark.parametrize(("share", "samples"), [(0.9, 100), (1.0, 27), (0.0, 5), (0.5, 5000)])
def test_the_interval_is_wilsons(share, samples):
    exact = stats.binomtest(round(share * samples), samples).proportion_ci(0.95, method="wilson")
    assert tables.interval(share, samples) == pytest.approx(exact, abs=1e-4)


def test_rows_with_equal_results_are_one(calibration):
    logits, labels, costs = calibration
    split = (logits, labels)
    rows = reports.budget_table(split, split, costs, shares=(0.1, 0.98, 0.99))
    first, both, full = reports.merged(rows)
    assert both["policy"] == "98% of the cost, 99% of the cost"
    assert (first["policy"], full["policy"]) == ("24% of the cost", "full network")
    assert both["thresholds"] == rows[1]["thresholds"] == rows[2]["thresholds"]
    assert reports.merged([first, both, full]) == [first, both, full]


def test_table_lines_up_and_names_units():
    rows = [{"exit": 0, "macs": 1234567.0, "accuracy_alone": 0.5, "threshold": "+inf"}]
    titles = {"exit": "exit", "macs": "MACs", "accuracy_alone": "accuracy", "threshold": "at"}
    lines = reports.table(rows, titles)
    assert lines[0] == "| exit |      MACs | accuracy |   at |"
    assert lines[1] == "|-----:|----------:|---------:|-----:|"
    assert lines[2] == "|    0 | 1,234,567 |  50.00 % | +inf |"


def test_exit_ratios_stand_side_by_side_whatever_the_number_of_exits():
    rows = [
        {"cascade": "B0+B1", "worst": 1.08, "exit_ratios": [0.787, 0.213]},
        {"cascade": "B0+B1+B3", "worst": 2.88, "exit_ratios": [0.732, 0.214, 0.054]},
    ]
    lines = reports.exit_ratio_lines(rows, {"cascade": "cascade", "worst": "worst"})
    assert lines[0] == "|  cascade | worst | leave at 0 | leave at 1 | leave at 2 |"
    assert lines[2] == "|    B0+B1 |  1.08 |    78.70 % |    21.30 % |          - |"
    assert lines[3] == "| B0+B1+B3 |  2.88 |    73.20 % |    21.40 % |     5.40 % |"


@pytest.fixture
def whole():
    """A report with results and a file, of 5,000 test images."""
    return json.loads(SHIPPED.read_text())


def test_the_report_begins_with_the_result(whole):
    text = reports.markdown(whole)
    opening = text.split("\n\n")[1]
    low, high = (100 * end for end in tables.interval(whole["result"]["accuracy"], 5000))
    assert opening.startswith(
        f"On 5,000 test images, the network has an accuracy of 82.8 % ({low:.1f} to {high:.1f}) "
        "at 49.4 % of the cost of the full network, which has 83.1 %"
    )
    assert "The difference may be chance" in opening
    assert opening in reports.card(whole)
    whole["result"]["accuracy"] = 0.7
    assert "chance" not in reports.markdown(whole)
    whole["run"]["splits"].pop("test")
    assert "The network has an accuracy of 70.0 % at" in reports.markdown(whole)


def test_the_report_explains_its_words_names_its_classes_and_leads_on(whole):
    text = reports.markdown(whole)
    for part in (
        "- MACs: multiply-accumulates",
        "- exit: a place",
        "- classes: airplane, automobile",
        "- [model card](card.md)",
        "- [policy: the thresholds](policy.json)",
        "- [file for the device](model.tflite)",
        "`keras-adaptive run RUN/model.tflite picture.png`",
    ):
        assert part in text
    whole["run"]["class_names"] = [f"c{i}" for i in range(1000)]
    assert "c19 and 980 more" in reports.markdown(whole)
    assert "c999" in reports.card(whole)


def test_what_is_to_be_done_next_are_commands(whole, tmp_path):
    (tmp_path / "model.tflite").touch()
    (tmp_path / "picture.png").touch()
    trained = {key: whole[key] for key in ("run", "commands", "machine")}
    evaluated = {key: value for key, value in whole.items() if key != "device"}
    for report in (trained, evaluated, whole):
        commands = [command for _, command in writing._next_commands(report)]
        assert commands
        for command in commands:
            program, *words = command.replace("RUN", str(tmp_path)).split()
            assert program == "keras-adaptive"
            assert callable(parse(words).function)
    assert "policy.json" not in reports.markdown(trained)
    assert "model.tflite" not in reports.markdown({**evaluated, "commands": []})


def test_a_quantized_file_that_differs_is_flagged(whole, tmp_path):
    assert "Note:" not in reports.markdown(whole)
    device = whole["device"]
    device |= {"quantize": "int8", "different_label": 50, "different_exit": 50}
    assert "Note:" not in reports.markdown(whole)  # 1 % of 5,000
    device["different_label"] = 400
    text = reports.markdown(whole)
    assert text.count("> **Note:** model.tflite (int8) is not equal to Keras") == 2
    assert "400 (8.0 %) get another answer and 50 (1.0 %) leave at another exit" in text
    assert "and give the same answer on 4,600" in text
    assert "is not equal to Keras" in reports.card(whole)
    reports.write(tmp_path, whole | {"pictures": {}})
    page = (tmp_path / "report.html").read_text()
    assert page.count('<p class="note"><strong>Note:</strong> model.tflite (int8)') == 2
    device |= {"quantize": None, "different_exit": 3, "near_threshold": 3}
    assert "Note:" not in reports.markdown(whole)
    device["near_threshold"] = 2
    assert "at another exit than Keras on 1 of 5,000 test images" in reports.markdown(whole)


def test_rows_that_are_one_say_why(whole):
    budgets = whole["budgets"]
    assert "share a row" not in reports.markdown(whole)
    twin = {**budgets[0], "policy": "twin"}
    whole["budgets"] = [budgets[0], twin, *budgets[1:]]
    text = reports.markdown(whole)
    assert f"{budgets[0]['policy']}, twin |" in text
    assert "share a row: they give the same on these test images." in text
    for number, row in enumerate(whole["budgets"]):
        row["thresholds"] = [max(number, 1) / 10, "-inf"]
    text = reports.markdown(whole)
    assert "their thresholds are the same, as the larger budget holds none" in text
    whole["policy"]["method"] = "geometric"
    assert "their thresholds are the same." in reports.markdown(whole)


def test_no_line_ends_inside_a_number(whole, tmp_path):
    whole["pictures"] = {}
    reports.write(tmp_path, whole)
    page = (tmp_path / "report.html").read_text()
    assert "td { white-space: nowrap; }" in page
    for text in re.findall("<(?:p|li)>(.*?)</", page):
        assert not re.search(r"\d (%|MACs|bytes)", text)
    assert "82.8\u00a0% (" in page
    assert "4,253,800\u00a0bytes" in page


def test_numbers_have_no_more_digits_than_mean_something(whole):
    text = reports.markdown(whole)
    numbers = re.findall(r"(\d+\.\d+) %", text)
    assert all(len(number.split(".")[1]) == 1 for number in numbers)
    assert writing._digits(24229628.4) == "24,200,000"
    assert [writing._digits(x) for x in (0.035644, 1.7813, 99.96)] == ["0.0356", "1.78", "100"]


def parts():
    return [
        ("title", "A & B"),
        ("text", "1 < 2"),
        ("list", ["one", ("command", "x < 1")]),
        ("table", [{"name": "<net>", "accuracy": 0.5}], {"name": "name", "accuracy": "accuracy"}),
        ("picture", "curve", "pictures/curve.png"),
        ("note", "mind <it>"),
        ("links", [("the card", "card.md")]),
    ]


def test_a_document_is_the_same_in_markdown_and_html(tmp_path):
    text = document.markdown(parts())
    assert text.startswith("# A & B\n\n1 &lt; 2\n\n- one\n- command: `x < 1`\n\n|")
    assert "![curve](pictures/curve.png)" in text
    assert text.endswith("> **Note:** mind &lt;it&gt;\n\n- [the card](card.md)\n")
    assert "<img" not in document.html(parts(), tmp_path)  # the picture is not there
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "curve.png").write_bytes(b"\x89PNG")
    page = document.html(parts(), tmp_path)
    assert "<h1>A &amp; B</h1>" in page
    assert "<li>command: <code>x &lt; 1</code></li>" in page
    assert "<td>&lt;net&gt;</td><td>50.00 %</td>" in page
    assert 'src="data:image/png;base64,iVBORw=="' in page
    assert '<p class="note"><strong>Note:</strong> mind &lt;it&gt;</p>' in page
    assert '<li><a href="card.md">the card</a></li>' in page
    assert "<figcaption>curve</figcaption>" in page
    assert "http" not in page
    assert "pictures/curve.png" not in page


def shown(markdown):
    """Returns the elements and the texts that a reader of Markdown sees."""
    found = HTMLParser(convert_charrefs=True)
    found.tags, found.texts = [], []
    found.handle_starttag = lambda tag, _: found.tags.append(tag)
    found.handle_data = found.texts.append
    found.feed(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown))
    found.close()
    return found.tags, "".join(found.texts).split()


NASTY = st.text(st.sampled_from("ab1.-+_*`[]()<>&#~|\\!=:;/ \n\t"), min_size=1, max_size=12)
NASTY = NASTY.filter(lambda text: text.strip())


@given(NASTY, NASTY)
@example("<script>alert(1)</script>", "## Limits\n\n- none")
@example("[a](javascript:b)", "a | b")
@example("&lt;", "&#35;")
@example("1. a", "- b")
def test_a_text_is_shown_as_it_stands(one, two):
    tags, texts = shown(document.markdown([("title", f"a {one}"), ("list", [two])]))
    assert tags == ["h1", "ul", "li"]
    assert texts == ["a", *one.split(), *two.split()]


@given(NASTY, NASTY)
@example("a | b", "``")
def test_cells_and_code_are_shown_as_they_stand(cell, code):
    columns = {"name": "title"}
    tags, texts = shown(document.markdown([("table", [{"name": cell}], columns)]))
    assert tags == ["table", "thead", "tr", "th", "tbody", "tr", "td"]
    assert texts == ["title", *cell.split()]
    tags, texts = shown(document.markdown([("list", [("command", code)])]))
    assert tags == ["ul", "li", "code"]
    assert texts == ["command:", *code.split()]


def test_class_names_cannot_write_the_card_or_the_page(tmp_path):
    names = ["<script>alert(1)</script>", "## Limits", "[cat](http://x)", "a | b"]
    report = {
        "run": {
            "model": "<b>net</b>",
            "data": "pets",
            "splits": {"train": 1},
            "training": "<i>none</i>",
            "class_names": names,
        },
        "commands": ["train `<u>`"],
        "machine": reports.machine(),
    }
    reports.write(tmp_path, report)
    tags, texts = shown((tmp_path / "card.md").read_text())
    assert set(tags) == {"h1", "h2", "p", "ul", "li"}
    assert tags.count("h2") == 1
    assert " ".join(names) in " ".join(texts).replace(",", "")
    page = (tmp_path / "report.html").read_text()
    for tag in ("script", "b", "i", "u"):
        assert f"<{tag}>" not in page
    assert "<code>train `&lt;u&gt;`</code>" in page


def test_the_guarantee_stands_in_the_report():
    guarantee = {
        "metric": "accuracy_drop",
        "level": 0.01,
        "delta": 0.05,
        "bound": "binomial",
        "tested_samples": 500,
        "passed": True,
        "p_value": 0.04,
    }
    ((kind, text),) = writing._guarantee(guarantee)
    assert "accuracy lost against the full network is at most 1 %, with probability 95 %" in text
    ((kind, text),) = writing._guarantee({**guarantee, "passed": False})
    assert text.startswith("No guarantee that")


def test_card_says_what_a_user_must_know():
    run = {
        "model": "net",
        "data": "digits",
        "splits": {"train": 1000},
        "training": "none",
        "class_names": ["0", "1"],
        "preprocessing": {"mean": [0.5], "std": [0.25]},
        "parameters": 1234567,
        "network": {"builder": "build_msdnet", "arguments": {"blocks": 2}},
        "limits": ["Small digits only."],
    }
    text = reports.card({"run": run, "commands": [], "machine": reports.machine()})
    for part in (
        "# Model card: net on digits",
        "classes: 0, 1",
        "`(pixel / 255 - [0.5]) / [0.25]`",
        "1,234,567",
        "`build_msdnet(blocks=2)`",
        "## Limits",
        "- Small digits only.",
    ):
        assert part in text


def test_report_leaves_out_what_is_not_there(tmp_path):
    run = {"model": "net", "data": "digits", "splits": {"train": 1000}, "training": "none"}
    report = {"run": run, "commands": ["make it"], "machine": reports.machine()}
    reports.write(tmp_path, report)
    text = (tmp_path / "report.md").read_text()
    assert "# net on digits" in text
    assert "- command: `make it`" in text
    assert "## Exits" not in text
    assert json.loads((tmp_path / "report.json").read_text()) == report


def test_a_report_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        reports.write(tmp_path, {"value": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_is_what_is_written_again(tmp_path):
    run = {"model": "net", "data": "digits", "splits": {"train": 1000}, "training": "none"}
    run["network"] = {"builder": "build", "arguments": {"factors": (1, 2)}}
    reports.write(tmp_path, {"run": run, "commands": [], "machine": reports.machine()})
    card = (tmp_path / "card.md").read_text()
    reports.write(tmp_path, reports.read_report(tmp_path / "report.json"))
    assert (tmp_path / "card.md").read_text() == card
