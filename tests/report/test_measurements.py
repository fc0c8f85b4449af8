import copy
import json
import re
from pathlib import Path

import pytest
from test_form import WRONG, places, with_change

from anytime_tflite.file import read_info
from keras_adaptive import report as reports
from keras_adaptive.report import document, form, measurements, writing

TESTDATA = Path(__file__).parents[2] / "tflite" / "testdata"
SHARED = TESTDATA / "measurement.json"  # written by the Kotlin library's tests
FILE = TESTDATA / "files" / "single_call.tflite"
RUN = {"model": "net", "data": "digits", "splits": {"train": 1000}, "training": "none"}


@pytest.fixture(scope="module")
def info():
    return read_info(FILE)


@pytest.fixture
def phone():
    return json.loads(SHARED.read_text())


def read(info, folder, *contents):
    """Returns what is read of files with these contents."""
    paths = [folder / f"phone_{i}.json" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        path.write_bytes(content)
    return reports.read_measurements(paths, info, FILE)


def found_or_error(info, folder, content):
    try:
        return read(info, folder, content)[0]
    except ValueError as error:
        return error


def test_what_a_phone_shares_is_read(info, phone):
    (found,) = reports.read_measurements([SHARED], info, FILE)
    assert phone.pop("stage_ms") == [row["alone_ms"]["p50"] for row in found["stages"]]
    assert found == phone


def test_the_figures_of_the_jvm_are_measurements():
    path = TESTDATA.parents[1] / "benchmarks" / "results" / "jvm.json"
    for one in json.loads(path.read_text())["measurements"]:
        form.check_form(one, form.MEASUREMENT, "measurement", path)
        assert len(one["stages"]) == len(one["stage_ms"]) == 5


def test_it_stands_in_report_and_card(info, phone, tmp_path):
    other = {
        **copy.deepcopy(phone),
        "machine": "Other Phone",
        "date": "2026-12-01",
        "memory_mb": 12.34,
    }
    del other["baseline"]
    for row in other["stages"]:
        row.pop("predict_ms", None)
    found = read(info, tmp_path, phone, other)
    report = {"run": RUN, "commands": [], "machine": reports.machine(), "measurements": found}
    reports.write(tmp_path, report)
    assert json.loads((tmp_path / "report.json").read_text())["measurements"] == found
    for name in ("report.md", "card.md"):
        text = (tmp_path / name).read_text()
        assert text.count("## Measured on devices") == 1
        for part in (
            'Maker "Phone" &lt;7&gt;, Android 14 (API 34): tensorflow-lite 2.16.1 (interpreter)',
            "1 thread(s), 20,080 bytes, 5 runs, 2026-11-30.",
            "In turn with it, tiny, cut at exit 1 (11,388 bytes): 3.002 ms, p99 3.002 ms.",
            "Other Phone",
            "2026-12-01. It takes 12.3 MB of memory.",
        ):
            assert part in text
        # exit 1: its stage, leaving there in every way, and the single call
        cells = "1 2.004 2.004 3.009 3.002 3.005 3.005 0.0009766"
        assert f"| {' | '.join(cells.split())} |" in re.sub(" +", " ", text)
        assert text.count("single call (ms)") == 1  # the other file has none
        assert re.sub(" +", " ", text).count("| 3.509 | 3.005 | 3.005 | 0.00 % | 1 |") == 2
    page = (tmp_path / "report.html").read_text()
    assert "Maker &#34;Phone&#34; &lt;7&gt;" in page


def test_nothing_stands_where_nothing_was_measured():
    assert measurements.parts({}) == measurements.parts({"measurements": []}) == []


def test_the_same_given_twice_is_there_once(info, phone, tmp_path):
    assert len(read(info, tmp_path, phone, {**phone, "more": 1}, {**phone, "runs": 6})) == 2


def test_what_has_no_name_here_is_left_out(info, phone, tmp_path):
    phone["stages"][0]["more"] = phone["more"] = "x"
    (found,) = read(info, tmp_path, phone)
    assert "more" not in found
    assert "more" not in found["stages"][0]


def test_one_of_another_file_is_refused_by_name(info, phone, tmp_path):
    phone |= {"sha256": "ab" * 32, "file": "other\n.tflite"}
    with pytest.raises(ValueError, match=r"must be one of .*single_call\.tflite") as error:
        read(info, tmp_path, phone)
    assert f"path={tmp_path}/phone_0.json, measured on other .tflite, " in str(error.value)
    assert info["sha256"][:12] in str(error.value)
    assert "abababababab" in str(error.value)


@pytest.mark.parametrize("exits", [[0, 1], [0, 1, 3], [1, 0, 2], []])
def test_stages_are_those_of_the_file(exits, info, phone, tmp_path):
    row = phone["stages"][0]
    phone["stages"] = [{**row, "stage": i, "exit": exit} for i, exit in enumerate(exits)]
    with pytest.raises(ValueError, match=r"`measurement\.stages` must be those of .*phone_0"):
        read(info, tmp_path, phone)


def test_a_wrong_entry_anywhere_is_refused_by_name(info, phone, tmp_path):
    for row in phone["stages"]:  # a value that is left out may be wrong
        row["predict_ms"] = row["alone_ms"]
    del phone["stage_ms"]
    refused = kept = 0
    alike = {1, "p95", "p99", "until_here_ms", "staged_ms"}  # checked as their neighbors are
    for path in places(phone):
        if alike & set(path):
            continue
        for value in [*WRONG, *([places] if path else [])]:
            changed = with_change(phone, path, value)
            found = found_or_error(info, tmp_path, changed)
            if isinstance(found, ValueError):
                refused += 1
                assert "phone_0.json" in str(found), (path, value)
                assert re.match(r"`measurement|A measurement must", str(found)), (path, value)
                assert len(str(found)) < 800
                continue
            kept += 1
            assert found == changed, (path, value)
            page = document.markdown(measurements.parts({"measurements": [found]}))
            assert "<script" not in page
    assert refused > 400
    assert kept < 0.3 * refused


def test_texts_are_shown_as_they_stand(info, phone, tmp_path):
    nasty = "<script>alert(1)</script> | [a](javascript:b) `c` {date} \x1b[31m"
    for key in ("machine", "system", "interpreter", "backend", "file"):
        phone[key] = nasty
    phone["baseline"]["file"] = f"C:\\secret\\{nasty}".replace("/", "")
    found = read(info, tmp_path, phone)
    report = {"run": RUN, "commands": [], "machine": reports.machine(), "measurements": found}
    reports.write(tmp_path, report)
    for name in ("report.md", "card.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert "<script" not in text
        assert "\x1b" not in text
        assert "secret" not in text  # a folder's name is nobody's business
        assert "{date}" in text
    (shown,) = [p[1] for p in writing.card_parts(report) if p[0] == "text" and "2026-11-30" in p[1]]
    assert shown.startswith(f"{nasty}, {nasty}: {nasty} ({nasty}), 1 thread(s)")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 5000,
        b'{"a":' * 200 + b"1" + b"}" * 200,
        b'{"format": NaN}',
        b'{"bytes": ' + b"9" * 5000 + b"}",
        b" " * (measurements.LARGEST + 1),
        b"<html>",
    ],
)
def test_a_file_that_is_no_measurement_is_named(content, info, tmp_path):
    with pytest.raises(ValueError, match=r"measurement.*must .*Received: path=.*phone_0\.json"):
        read(info, tmp_path, content)


def test_what_is_missing_and_what_is_too_much_is_said(info, phone, tmp_path):
    with pytest.raises(ValueError, match="which does not exist"):
        reports.read_measurements([tmp_path / "no.json"], info, FILE)
    with pytest.raises(ValueError, match="At most 10 measurements"):
        read(info, tmp_path, *[phone] * 11)
