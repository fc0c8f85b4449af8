import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest

import keras_adaptive as ka
from keras_adaptive import report as reports
from keras_adaptive.report import document, form

SHIPPED = Path(ka.__file__).parent / "models" / "weights" / "cifar10" / "report.json"
WRONG = [
    None,
    True,
    -1,
    1.5,
    1e308,
    10**30,
    float("nan"),
    "",
    "<script>",
    "\ud800",
    "x" * 20000,
    "../../etc/passwd",
    [],
    ["a"],
    {},
    {"a": 1},
    [[[1]]],
]


@pytest.fixture
def report():
    """A report with everything in it."""
    whole = json.loads(SHIPPED.read_text())
    whole["policy"]["guarantee"] = {
        "metric": "error",
        "level": 0.1,
        "delta": 0.05,
        "bound": "binomial",
        "tested_samples": 500,
        "passed": True,
        "p_value": 0.04,
    }
    whole["run"]["costs"] = [1.0, 2.0]
    whole["device"] |= {"quantize": "int8", "thresholds": [0.5, "-inf"], "different_label": 200}
    whole["budgets"][0]["thresholds"] = [0.5, "-inf"]
    return whole


def places(value, path=()):
    """Yields the path of every entry, of the first two of each list."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    if isinstance(value, list):
        for number, inner in enumerate(value[:2]):
            yield from places(inner, (*path, number))


def with_change(report, path, value):
    changed = copy.deepcopy(report)
    if not path:
        return value
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    if value is places:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return changed


def test_what_is_written_here_has_the_form(report):
    reports.check_report(report)
    assert reports.read_report(SHIPPED) == json.loads(SHIPPED.read_text())


def texts_of(report):
    """Returns what is written of a report, or the error."""
    try:
        return reports.markdown(report) + reports.card(report)
    except ValueError as error:
        return error


def test_a_wrong_entry_anywhere_is_refused_by_name_or_shown_as_a_text(report):
    refused = 0
    for path in places(report):
        for value in [*WRONG, places]:
            found = texts_of(with_change(report, path, value))
            if isinstance(found, ValueError):
                refused += 1
                assert str(found).startswith("`report"), (path, value)
                assert len(str(found)) < 600
            else:
                found.encode()
                assert "<script" not in re.sub(r"`[^`]*`", "", found)  # but in code it may be
    assert refused > 1000


def test_a_file_that_is_no_report_is_named(tmp_path, report):
    for content in (b"", b"[]", b"{}", b"[" * 5000, json.dumps({**report, "commands": 3}).encode()):
        (tmp_path / "report.json").write_bytes(content)
        with pytest.raises(ValueError, match=f"Received: path={tmp_path}/report.json"):
            reports.read_report(tmp_path / "report.json")


@pytest.mark.parametrize(
    "file",
    ["/etc/passwd", "../secret.png", "pictures/../../secret.png", "pictures/a/b.png", "card.md"],
)
def test_a_picture_is_read_from_pictures_alone(tmp_path, file, report):
    page = [("title", "a"), ("picture", "curve", file)]
    with pytest.raises(ValueError, match=r"must be a \.png file in pictures/"):
        document.html(page, tmp_path)
    report["pictures"]["curve"]["file"] = file
    with pytest.raises(ValueError, match=r"`report\.pictures\.curve\.file` must be the name of"):
        reports.write(tmp_path, report)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("link", ["pictures", "pictures/a.png"])
def test_a_picture_is_no_link(tmp_path, link):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").write_bytes(b"\x89PNG secret")
    if link == "pictures":
        (tmp_path / "pictures").symlink_to(tmp_path / "elsewhere")
    else:
        (tmp_path / "pictures").mkdir()
        (tmp_path / link).symlink_to(tmp_path / "elsewhere" / "a.png")
    with pytest.raises(ValueError, match="must be a file, not a link"):
        document.html([("title", "a"), ("picture", "curve", "pictures/a.png")], tmp_path)


@pytest.mark.parametrize("content", [b"root:x:0", b"\x89PNG" + bytes(document.LARGEST)])
def test_a_picture_is_a_picture(tmp_path, content):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match="must be a PNG file of at most"):
        document.html([("title", "a"), ("picture", "curve", "pictures/a.png")], tmp_path)


def test_no_text_steers_the_terminal_or_turns_around():
    text = document.markdown([("title", "a\x1b[31m"), ("list", ["b\u202ec", ("code", "\x07d\ne")])])
    assert not {"\x1b", "\u202e", "\x07"} & set(text)
    assert "a\ufffd" in text
    assert "`\ufffdd e`" in text


def test_numbers_of_numpy_are_numbers(report):
    report["result"]["accuracy"] = np.float64(0.5)
    reports.check_report(report)


def test_texts_and_rows_are_bounded(report):
    with pytest.raises(ValueError, match=r"`report\.budgets` must be a list of at most 1,000"):
        reports.check_report({**report, "budgets": report["budgets"] * 1000})
    with pytest.raises(ValueError, match="a text of at most"):
        reports.check_report({**report, "commands": ["x" * (form.LONGEST + 1)]})
