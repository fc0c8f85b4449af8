"""Rows of the benchmarks: kept once, resumed, refused under other settings, written as pages."""

import json

import numpy as np
import pytest

from benchmarks import _rows


@pytest.fixture
def rows(tmp_path):
    return _rows.Rows(tmp_path / "rows", epochs=3)


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(_rows, "RESULTS", tmp_path)
    return tmp_path


def never():
    raise AssertionError("measured again")


def test_a_row_comes_back_with_its_date_machine_and_settings(rows):
    rows.measure("joint + GE", lambda: {"accuracy": np.array([0.5, 0.75])}, seed=1)
    row = rows.load("joint + GE", seed=1)
    assert row["accuracy"] == [0.5, 0.75]
    assert row["settings"] == {"epochs": 3, "seed": 1}
    assert row["date"] == _rows.machine()["date"]
    assert row["machine"]["processor"] == _rows.machine()["processor"]
    assert rows.all() == {"joint_GE": row}


def test_a_list_of_rows_comes_back_too(rows):
    rows.save("time", [{"ms": 1.0}])
    assert rows.load("time")["rows"] == [{"ms": 1.0}]


def test_an_interrupted_benchmark_measures_what_is_missing(rows):
    rows.measure("a", lambda: {"value": 1})
    with pytest.raises(KeyboardInterrupt):
        rows.measure("b", interrupted)
    assert list(rows.all()) == ["a"]
    assert rows.measure("a", never)["value"] == 1
    assert rows.measure("b", lambda: {"value": 2})["value"] == 2


def interrupted():
    raise KeyboardInterrupt


def test_a_row_that_cannot_be_written_leaves_no_file(rows):
    rows.save("a", {"value": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        rows.save("a", {"value": float("nan")})
    assert [path.name for path in rows.folder.iterdir()] == ["a.json"]
    assert rows.load("a")["value"] == 1


@pytest.mark.parametrize("other", [{"epochs": 4}, {"epochs": 3, "seed": 1}])
def test_a_row_of_other_settings_is_refused_and_measured_anew(rows, other, capsys):
    rows.save("a", {"value": 1}, seed=0)
    elsewhere = _rows.Rows(rows.folder, **other)
    with pytest.raises(ValueError, match=r"must hold a row .* Received: (epochs=3|seed=0)"):
        elsewhere.all()
    assert elsewhere.measure("a", lambda: {"value": 2})["value"] == 2
    assert "Measured anew" in capsys.readouterr().out
    assert elsewhere.all()["a"]["settings"] == other


def test_settings_may_be_objects():
    class Recipe:
        def __init__(self, rate):
            self.rate = np.float32(rate)

    row = _rows.about({"recipe": Recipe(0.5)})
    _rows.check_settings(row, {"recipe": Recipe(0.5)}, "row.json")
    with pytest.raises(ValueError, match="recipe"):
        _rows.check_settings(row, {"recipe": Recipe(0.25)}, "row.json")


def test_files_from_before_rows_had_settings_are_read(rows):
    rows.folder.mkdir()
    rows.path("old").write_text('{"value": 1}')
    rows.path("list").write_text('[{"value": 1}]')
    assert rows.load("old", seed=7) == {"value": 1}
    assert rows.load("list") == {"rows": [{"value": 1}]}


def test_results_say_the_machine_and_a_page_is_written_again_byte_for_byte(results):
    _rows.publish("a_benchmark", {"rows": [{"x": 1.5}]}, _rows.page("# Title", "text"))
    facts = _rows.read("a_benchmark")["machine"]
    assert facts["command"] == "make bench-a-benchmark"
    path = results / "a_benchmark.json"
    path.write_text(path.read_text().replace(facts["date"], "2020-01-31"))
    (results / "a_benchmark.md").unlink()
    before = path.read_bytes()
    _rows.publish_again("a_benchmark", lambda found: _rows.page("# Title", str(found["rows"])))
    assert path.read_bytes() == before
    head, *lines = (results / "a_benchmark.md").read_text().splitlines()
    assert (head, lines[:2], lines[-2:]) == (
        "# Title",
        ["", "- date: 2020-01-31"],
        ["", "[{'x': 1.5}]"],
    )


def test_results_of_several_days_and_machines_say_all_of_them(results):
    machines = [{"processor": "B", "cores": 2}, {"processor": "A", "cores": 2}]
    dates = ["2026-11-24", "2026-11-20"]
    rows = [{"date": d, "machine": m} for d, m in zip(dates, machines, strict=True)]
    _rows.publish("two", {}, ["# Title"], rows)
    found = _rows.read("two")["machine"]
    assert found["date"] == "2026-11-20; 2026-11-24"
    assert (found["processor"], found["cores"]) == ("B; A", 2)


def test_rows_that_do_not_say_their_machine_were_where_the_results_were(results):
    text = json.dumps({"machine": {"date": "2020-01-31", "processor": "old"}})
    (results / "mixed.json").write_text(text)
    new = {"date": "2026-11-24", "machine": {"processor": "new"}}
    for _ in range(2):  # written again, it says no more
        _rows.publish("mixed", {}, ["# Title"], [{"value": 1}, new])
        found = _rows.read("mixed")["machine"]
        assert (found["date"], found["processor"]) == ("2020-01-31; 2026-11-24", "old; new")


def test_results_of_other_settings_are_not_written_again(results):
    text = json.dumps({"machine": {}, "settings": {"rounds": 3}})
    (results / "a.json").write_text(text)
    with pytest.raises(ValueError, match="rounds=3, not 4"):
        _rows.publish_again("a", lambda found: ["# Title"], rounds=4)


def test_what_is_published_has_the_date_but_not_what_is_packed():
    row = {"date": "d", "machine": {}, "settings": {}, "int8": {"right": "==", "bytes": 3}}
    assert _rows.values(row, "right") == {"date": "d", "int8": {"bytes": 3}}


def test_tables_of_dictionaries_lists_and_formats_are_alike():
    expected = ["| way |   ms |", "|----:|-----:|", "|   a | 1.25 |"]
    rows = [{"way": "a", "ms": 1.25}]
    assert _rows.table({"way": "way", "ms": "ms"}, rows) == expected
    assert _rows.table(["way", "ms"], rows) == expected
    assert _rows.table(["way", "ms"], [["a", "1.25"]]) == expected
    assert _rows.table("way | ms", rows, "{way} | {ms:.2f}") == expected


def test_parts_of_a_page_are_an_empty_line_apart_and_empty_ones_left_out():
    assert _rows.page("# Title", "", ["a", "b"], [], "c") == ["# Title", "", "a", "b", "", "c"]


def test_the_difference_is_paired():
    right = np.zeros((2, 100), bool)
    right[:, :50] = True
    other = right.copy()
    other[1, :10] = False
    row, less = _rows.outcome(right), _rows.outcome(other)
    np.testing.assert_array_equal(_rows.answers(less), other)
    mean, error = _rows.difference([row], [less])
    np.testing.assert_allclose(mean, [0, 10])
    np.testing.assert_allclose(error, [0, 100 * np.sqrt(0.09 / 99)])
    assert _rows.difference([row, row], [less, row])[1][1] > error[1]
