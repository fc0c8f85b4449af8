"""What the device refuses to load, and what it says."""

import json
import re
from pathlib import Path

import mutants
import numpy as np
import pytest

from anytime_tflite import AnytimeModel, read_info
from anytime_tflite import __main__ as command_line
from anytime_tflite.__main__ import main
from keras_adaptive.export import _writer as writer
from keras_adaptive.policy.exit_policy import ExitPolicy

FOLDER = Path(__file__).parents[1] / "data" / "before_layout"


@pytest.fixture(scope="module")
def content(exported):
    return exported.read_bytes()


def with_info(content, **changes):
    """Returns a file that says something else of itself, with a right digest."""
    model = writer.read(content)
    entry = next(e for e in model.metadata if writer.text(e.name) == "keras_adaptive")
    info = json.loads(bytes(model.buffers[entry.buffer].data).decode())
    info = {key: value for key, value in {**info, **changes}.items() if value != "left out"}
    del info["sha256"]
    model.metadata.remove(entry)
    model.subgraphs.pop()
    model.signatureDefs.pop()
    writer.add_info(model, info)
    return writer.seal(writer.write(model))[0]


def test_reads_what_the_exporter_wrote(exported, policy):
    info = read_info(exported)
    assert [float(t) for t in info["thresholds"]] == policy.thresholds.tolist()


def test_every_changed_byte_is_seen(content, write):
    rng = np.random.default_rng(0)
    for _ in range(150):
        changed, kind = mutants.mutate(content, rng)
        with pytest.raises(ValueError, match=r"`path` must be .* Received: path="):
            read_info(write(changed))


def test_a_file_without_a_stage_is_refused(content, write):
    model = writer.read(content)
    model.signatureDefs.pop(1)
    path = write(mutants.reseal(writer.write(model)))
    with pytest.raises(ValueError, match="there is no signature 'stage_1'"):
        AnytimeModel(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 1}, "version 2 or 3: export it again. Received: .* of version 1"),
        ({"version": 4}, "version 2 or 3: update anytime_tflite. Received: .* of version 4"),
        ({"version": None}, "of version None"),
        ({"format": "onnx"}, '"format": "keras_adaptive.tflite"'),
        ({"exits": "left out"}, "with no exits"),
        ({"exits": []}, r"with exits=\[\]"),
        ({"exits": [0, 0, 1]}, r"with exits=\[0, 0, 1\]"),
        ({"exits": [0, 1, 7]}, r"with exits=\[0, 1, 7\]"),
        ({"confidence": "luck"}, "with confidence='luck'"),
        ({"thresholds": [0.5, "NaN", 0]}, "with thresholds="),
        ({"thresholds": ["high", 0, 0]}, r"with thresholds=\['high', 0, 0\]"),
        ({"temperatures": [1.0, 0.0, 1.0]}, "with temperatures="),
        ({"temperatures": [1.0]}, "with temperatures="),
        ({"patience": 1}, "with patience=1"),
        ({"class_names": [1, 2]}, "with class_names="),
        ({"preprocessing": {"mean": [0.0], "std": [0.0]}}, "with preprocessing="),
        ({"stage_ms": [1.0]}, "with stage_ms="),
    ],
)
def test_rejects_what_a_file_says_of_itself(content, write, changes, message):
    with pytest.raises(ValueError, match=message):
        read_info(write(with_info(content, **changes)))


@pytest.mark.parametrize("key", ["log_odds", "agreement", "inputs", "pixels"])
@pytest.mark.parametrize("value", [5, [], ["a"], {"height": 2}])
def test_what_version_2_does_not_know_is_not_read(key, value):
    content = (FOLDER / "float32.tflite").read_bytes()
    changed = with_info(content, **{key: value})
    assert key not in read_info(changed)
    image = np.zeros((8, 8, 1), "float32")
    with AnytimeModel(content) as expected, AnytimeModel(changed) as device:
        assert device.classify(image).exit == expected.classify(image).exit


def test_mutated_policies_are_refused_or_policies(policy, tmp_path):
    path = tmp_path / "policy.json"
    policy.save(path)
    content, rng = path.read_bytes(), np.random.default_rng(2)
    refused = 0
    for _ in range(300):
        path.write_bytes(mutants.mutate(content, rng)[0])
        try:
            found = ExitPolicy.load(path)
        except ValueError:
            refused += 1
        else:  # a digit that changed is another policy
            assert found.thresholds[-1] == -np.inf
            assert (found.temperatures > 0).all()
    assert refused > 100


# ---- the command line


def test_info_is_printed(exported, capsys):
    main(["info", str(exported)])
    assert json.loads(capsys.readouterr().out) == read_info(exported)


def test_bench_times_every_stage(exported, tmp_path, capsys):
    out = tmp_path / "bench.json"
    main(["bench", str(exported), "--baseline", str(exported), "--runs", "5", "--out", str(out)])
    result = json.loads(out.read_text())
    assert [row["exit"] for row in result["stages"]] == [0, 1, 2]
    for row in result["stages"]:
        assert 0 < row["alone_ms"]["p50"] <= row["alone_ms"]["p95"] <= row["alone_ms"]["p99"]
        assert row["alone_ms"]["p50"] <= row["until_here_ms"]["p50"]
    assert result["memory_mb"] > 0
    assert result["baseline"]["ms"]["p50"] > 0
    assert len(result["stage_ms"]) == 3
    printed = capsys.readouterr().out
    assert re.search(r"exit 2 +\d", printed)
    assert "baseline" in printed


@pytest.mark.parametrize("out", ["missing/bench.json", "."])
def test_bench_says_before_it_times_where_it_cannot_write(out, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command_line, "bench", lambda *_, **__: pytest.fail("it was timed"))
    with pytest.raises(SystemExit):
        main(["bench", "any.tflite", "--out", str(tmp_path / out)])
    assert "`--out` must be a file in a folder that exists" in capsys.readouterr().err


def test_bench_keeps_the_result_before_where_it_cannot_write(tmp_path, monkeypatch):
    out = tmp_path / "bench.json"
    out.write_text("before")
    monkeypatch.setattr(command_line, "bench", lambda *_, **__: {})
    monkeypatch.setattr(command_line, "lines", lambda result: [])

    def cut(path, text, **how):
        path.write_bytes(text[:1].encode())
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", cut)
    with pytest.raises(SystemExit):
        main(["bench", "any.tflite", "--out", str(out)])
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(out.name, "before")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "missing.tflite"], "`path` must be a file"),
        (["bench", "{exported}", "--runs", "0"], "`runs` must be a positive integer"),
        (["bench", "{exported}", "--baseline", "missing"], "`baseline` must be a TFLite model"),
    ],
)
def test_the_command_line_says_what_is_wrong(exported, arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main([argument.format(exported=exported) for argument in arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
