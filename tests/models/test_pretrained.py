import configparser
import json
import sys
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from shared import TINY

import keras_adaptive as ka
from keras_adaptive.models import pretrained, pretrained_names

ROOT = Path(__file__).parents[2]
ARGUMENTS = {**TINY, "input_shape": [8, 8, 1], "blocks": 2, "head_channels": 8}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A network as the library's own are kept, under the name "small", and its folder."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "small").mkdir()
    model = ka.build_msdnet(**{**ARGUMENTS, "input_shape": (8, 8, 1)})
    model.save_weights(folder / "small" / "model.weights.h5")
    ka.ExitPolicy([0.5, 0.0]).save(folder / "small" / "policy.json")
    run = {
        "network": {"builder": "build_msdnet", "arguments": ARGUMENTS},
        "class_names": [str(n) for n in range(10)],
        "preprocessing": {"mean": [0.5], "std": [0.25]},
    }
    (folder / "small" / "report.json").write_text(json.dumps({"run": run}))
    (folder / "small" / "card.md").write_text("# small")
    answers = {"test_logits": np.float16([[[0, 1]], [[2, 0]]]), "test_labels": np.uint8([1])}
    np.savez_compressed(folder / "small" / "answers.npz", **answers)
    return model, folder


@pytest.fixture
def network(kept, monkeypatch):
    """The network, while its folder takes the place of the library's."""
    model, folder = kept
    monkeypatch.setattr(sys.modules[pretrained.__module__], "FOLDER", folder)
    return model


@pytest.mark.slow
def test_a_name_fills_what_is_left_out(network, rng):
    x = rng.normal(size=(3, 8, 8, 1)).astype("float32")
    for given in ({}, {"blocks": 2}, {"input_shape": (8, 8, 1), "preset": None, "stem": None}):
        model = ka.build_msdnet(**given, weights="small")
        for a, b in zip(model(x), network(x), strict=True):
            np.testing.assert_array_equal(a, b)


def test_its_facts_are_at_hand(network):
    facts = pretrained("small")
    assert facts.policy.thresholds.tolist() == [0.5, -np.inf]
    assert facts.class_names[3] == "3"
    assert facts.card == "# small"
    logits, labels = facts.answers("test")
    assert (logits.tolist(), labels.tolist()) == ([[[0, 1]], [[2, 0]]], [1])
    assert (logits.dtype, labels.dtype) == ("float32", "int64")
    with pytest.raises(ValueError, match="`split` must be one of .*Received: split=train"):
        facts.answers("train")
    pixels = np.full((1, 8, 8, 1), 255, "uint8")
    np.testing.assert_allclose(facts.standardize(pixels), 2.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"classes": 100}, "`classes` must be left out.*network 'small', 10. Received: classes"),
        ({"growth_rate": 6}, "Received: growth_rate=6"),
        ({"preset": "cifar_budgeted_7"}, "Received: input_shape="),
        ({"weights": "smal"}, "trained network of build_msdnet, .'small'.. Received: weights=smal"),
        ({"weights": "missing.weights.h5"}, "must be the path of a .weights.h5 file"),
    ],
)
def test_rejects_what_contradicts_it(network, given, message):
    with pytest.raises(ValueError, match=message):
        ka.build_msdnet(**{"weights": "small", **given})


def test_other_builders_do_not_know_it(network):
    with pytest.raises(ValueError, match="network of build_resnet, ... Received: weights=small"):
        ka.build_resnet(weights="small")
    with pytest.raises(ValueError, match="`name` must be one of .'small'.. Received: name=other"):
        pretrained("other")


def test_one_comes_with_the_library():
    assert "cifar10" in pretrained_names()


@pytest.mark.slow
@pytest.mark.parametrize("name", pretrained_names())
def test_what_comes_with_the_library_is_whole(name):
    facts = pretrained(name)
    model = ka.AdaptiveModel.from_preset(name)
    assert len(facts.policy.thresholds) == model.exits
    assert len(facts.class_names) == model.outputs[-1].shape[-1]
    assert len(facts.mean) == len(facts.std) == model.inputs[0].shape[-1]
    assert facts.card.startswith("# ")
    assert "Limits" in facts.card
    report = json.loads((facts.weights.parent / "report.json").read_text())
    assert [row["macs"] for row in report["exits"]] == model.exit_costs().tolist()
    assert facts.weights.stat().st_size < (5.5e6 if name == "cifar10_resnet9" else 2.5e6)
    for split in ("calibrate", "test"):
        logits, labels = facts.answers(split)
        assert logits.shape == (model.exits, len(labels), len(facts.class_names))
    right = (logits.argmax(axis=2) == labels).mean(axis=1)
    reported = [row["accuracy_alone"] for row in report["exits"]]
    np.testing.assert_allclose(right, reported, atol=1e-3)  # float16 turns few answers
    assert facts.weights.with_name("answers.npz").stat().st_size < 1.2e6


@pytest.mark.slow
def test_the_tiny_one_is_small_in_int8(rng, tmp_path):
    facts = pretrained("cifar10_tiny")
    x = facts.standardize(rng.integers(0, 256, (50, 32, 32, 3)))
    path, model = tmp_path / "tiny.tflite", ka.build_resnet(weights="cifar10_tiny")
    ka.export_tflite(model, path, facts.policy, quantize="int8", calibration_data=x)
    assert path.stat().st_size <= 300_000


def test_every_file_of_them_is_installed():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["keras_adaptive.models"].split()
    models = ROOT / "keras_adaptive" / "models"
    kept = [p.relative_to(models) for p in models.rglob("*") if p.is_file() and p.suffix != ".py"]
    kept = [path.as_posix() for path in kept if "__pycache__" not in path.parts]
    assert all(any(fnmatch(path, pattern) for pattern in patterns) for path in kept), kept
    assert any(fnmatch("weights/cifar10/model.weights.h5", pattern) for pattern in patterns)
