"""Networks as folders: whole, the same after loading, and nothing lost."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_adaptive as ka
from benchmarks import networks
from keras_adaptive.models.pretrained import pretrained, pretrained_names

NEVER = ka.ExitPolicy([0.5, float("-inf")])


def plain():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="early")(inputs)
    x = keras.layers.Conv2D(4, 3, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def with_everything():
    model = ka.build_msdnet((8, 8, 3), 3, blocks=2, channels=2, growth_rate=1, head_channels=2)
    model.policy = NEVER
    model.class_names = ["ape", "bee", "cat"]
    model.pixels = {"size": [8, 8], "resize": "crop"}
    model.preprocessing = {"mean": [0.5] * 3, "std": [0.25] * 3}
    return model


NETWORKS = {
    "msdnet": with_everything,
    "own": lambda: ka.add_exits(plain(), at=["early"], classes=3, from_logits=True),
    "gated": lambda: ka.build_resnet((8, 8, 3), 3, depth=8, width=0.25, gates="layer", exits=2),
    "cascade": lambda: ka.build_cascade([plain(), plain()]),
    "stopping": lambda: ka.build_cascade(
        [plain(), plain()], stopping=ka.layers.StoppingPolicy(), cost_weight=1e-3
    ),
}


def content(policy):
    return policy and policy.content()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_is_the_network(name, tmp_path):
    model = NETWORKS[name]()
    model.save_to_preset(tmp_path / "mine")
    again = ka.AdaptiveModel.from_preset(tmp_path / "mine")
    assert type(again) is type(model)
    assert content(again.policy) == content(model.policy)
    for kept in ("class_names", "pixels", "preprocessing"):
        assert getattr(again, kept) == getattr(model, kept)
    assert again.network["digest"] == model.network["digest"]
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    for one, other in zip(model.predict(x, verbose=0), again.predict(x, verbose=0), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert again.optimizer is not None  # ready for `fit`


def test_what_is_in_the_folder(tmp_path):
    model = with_everything()
    model.save_to_preset(str(tmp_path / "mine"))
    names = ["README.md", "config.json", "metadata.json", "model.weights.h5", "policy.json"]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == names
    assert content(ka.ExitPolicy.load(tmp_path / "mine" / "policy.json")) == NEVER.content()
    metadata = json.loads((tmp_path / "mine" / "metadata.json").read_text())
    assert metadata["parameter_count"] == model.count_params()
    assert metadata["keras_adaptive_version"] == ka.__version__
    card = (tmp_path / "mine" / "README.md").read_text()
    for said in ('from_preset("mine")', "ape, bee, cat", f"{model.exit_costs()[0]:,.0f}"):
        assert said in card


def test_fresh_weights(tmp_path):
    model = with_everything()
    model.save_to_preset(tmp_path / "mine")
    fresh = ka.AdaptiveModel.from_preset(tmp_path / "mine", load_weights=False)
    pairs = zip(model.get_weights(), fresh.get_weights(), strict=True)
    assert any(not np.array_equal(one, other) for one, other in pairs)


SMALL = "cifar10_tiny"
NAMES = [pytest.param(n, marks=[pytest.mark.slow] * (n != SMALL)) for n in pretrained_names()]


@pytest.mark.parametrize("name", NAMES)
def test_networks_of_the_library_have_a_name(name):
    known = pretrained(name)
    model = ka.AdaptiveModel.from_preset(name)
    assert content(model.policy) == content(known.policy)
    assert model.class_names == known.class_names
    assert model.preprocessing == {"mean": known.mean, "std": known.std}
    if known.builder == "add_exits":
        expected = networks.with_weights(networks.resnet9(**known.arguments), known.weights)
    else:
        expected = getattr(ka, known.builder)(**known.arguments, weights=known.weights)
    assert model.network["digest"] == expected.network["digest"]
    for one, other in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_there_is_kept(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="`preset_dir` must be a new or empty folder"):
        with_everything().save_to_preset(tmp_path / "mine")
    with pytest.raises(ValueError, match="The folder of `preset_dir` must exist"):
        with_everything().save_to_preset(tmp_path / "nowhere" / "mine")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]


def test_nothing_is_left_where_writing_fails(tmp_path, monkeypatch):
    model = with_everything()

    def full(path):
        raise OSError("No space left on device")

    monkeypatch.setattr(model, "save_weights", full)
    with pytest.raises(OSError, match="No space"):
        model.save_to_preset(tmp_path / "mine")
    assert not list(tmp_path.iterdir())


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"one of \['cifar10', .*\]. Received: preset=nowhere"):
        ka.AdaptiveModel.from_preset("nowhere")
    with pytest.raises(ValueError, match="`preset` must be a folder that `save_to_preset` wrote"):
        ka.AdaptiveModel.from_preset(tmp_path)
    with pytest.raises(ValueError, match="`preset` must be a folder"):
        ka.AdaptiveModel.from_preset("../weights/cifar10")
    (tmp_path / "config.json").write_text("[1")
    with pytest.raises(ValueError, match="`preset` must hold JSON"):
        ka.AdaptiveModel.from_preset(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(keras.saving.serialize_keras_object(plain())))
    with pytest.raises(ValueError, match="must hold a network of class AdaptiveModel.*Functional"):
        ka.AdaptiveModel.from_preset(tmp_path)
    ka.add_exits(plain(), at=["early"], classes=3).save_to_preset(tmp_path / "mine")
    with pytest.raises(ValueError, match="of class StoppingModel"):
        ka.training.StoppingModel.from_preset(tmp_path / "mine")
    (tmp_path / "mine" / "model.weights.h5").write_bytes(b"none")
    with pytest.raises(ValueError, match="`preset` must hold the weights of its network"):
        ka.AdaptiveModel.from_preset(tmp_path / "mine")


@pytest.mark.slow
@pytest.mark.subprocess
def test_a_saved_model_opened_without_the_library_names_it(tmp_path):
    with_everything().save(tmp_path / "mine.keras")
    opened = "import keras; keras.saving.load_model('mine.keras')"
    done = subprocess.run(
        [sys.executable, "-I", "-c", opened], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "keras_adaptive" in done.stderr.splitlines()[-1] + done.stderr[-2000:]
