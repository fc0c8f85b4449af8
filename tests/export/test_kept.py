"""Files that predictors are served from: exported once, and kept."""

import keras
import numpy as np
import pytest
from tiny import three_exits

import keras_adaptive as ka
from keras_adaptive.export import _kept


@pytest.fixture
def exports(monkeypatch, tmp_path):
    """The files that are exported from now on, into a folder of their own; nothing is converted."""
    made = []

    def exported(model, path, policy):
        path.write_bytes(b"file")
        made.append(path)
        return path

    monkeypatch.setenv("KERAS_ADAPTIVE_HOME", str(tmp_path))
    monkeypatch.setattr(_kept, "_exported", exported)
    return made


def opening(monkeypatch, damaged=()):
    def open_file(source):
        if not isinstance(source, bytes) and (not source.exists() or source in damaged):
            raise ValueError("no file, or a damaged one")
        return source

    monkeypatch.setattr(_kept, "BatchPredictor", open_file)


def kept(model, policy, verbose=0):
    form = _kept.form(policy, model.exits_of(policy))
    return _kept._opened(model, policy, form, verbose)


def test_a_file_is_kept_by_network_weights_and_form_of_the_policy(exports, monkeypatch):
    opening(monkeypatch)
    model = three_exits()
    first = kept(model, ka.ExitPolicy([0.5, 0.5, 0]))
    assert first.parent == _kept.folder()
    again = ka.ExitPolicy([0.7, 0.9, 0], details={"mean_cost": 3}, worst_case=1e12)
    again.unit = "macs"
    assert kept(model, again) == first
    assert len(exports) == 1
    others = [
        ka.ExitPolicy([0.5, np.inf, 0]),  # without a head
        ka.ExitPolicy([0.5, 0.5, 0], "entropy"),
        ka.ExitPolicy([0.5, 0.5, 0], temperatures=[2, 2, 2]),
        ka.PatiencePolicy(2),
        ka.AgreementPolicy(2),
    ]
    assert len({first, *(kept(model, policy) for policy in others)}) == 6
    model.set_weights([w + 1 for w in model.get_weights()])
    assert kept(model, ka.ExitPolicy([0.5, 0.5, 0])) != first
    assert len(exports) == 7


def test_a_damaged_file_is_written_again(exports, monkeypatch):
    opening(monkeypatch)
    model, policy = three_exits(), ka.ExitPolicy([0.5, 0.5, 0])
    first = kept(model, policy)
    damaged = [first]
    monkeypatch.setattr(_kept, "_exported", lambda model, path, policy: (damaged.clear(), path)[1])
    opening(monkeypatch, damaged)
    assert kept(model, policy) == first
    assert damaged == []


def test_what_was_not_used_for_longest_goes_first(exports, monkeypatch):
    opening(monkeypatch)
    monkeypatch.setattr(_kept, "LIMIT", 11)
    model = three_exits()
    paths = []
    for i in range(4):
        policy = ka.ExitPolicy([0.5, 0.5, 0], temperatures=[i + 1] * 3)
        paths.append(kept(model, policy))
        for age, path in enumerate(reversed(paths)):  # times of files may be coarse
            if path.exists():
                _kept.os.utime(path, (1000 - age, 1000 - age))
    assert [path.exists() for path in paths] == [False, False, True, True]


def own(x):
    return x * 2


def relu(x):
    return x * 2


@keras.saving.register_keras_serializable("anything")
def registered(x):
    return x * 2


class Own(keras.layers.Layer):
    def call(self, x):
        return x * 2


@keras.saving.register_keras_serializable()
class Registered(Own):
    pass


class OfScript(Own):
    pass


@keras.saving.register_keras_serializable("anything")
class RegisteredOfScript(Own):
    pass


OfScript.__module__ = RegisteredOfScript.__module__ = "__main__"


def test_code_of_the_users_own_is_not_kept(exports, monkeypatch):
    opening(monkeypatch)
    x = keras.Input((4,))
    layers = [keras.layers.Dense(3, activation=f) for f in (own, relu, registered)]
    layers += [keras.layers.Lambda(own), keras.layers.Activation(registered)]
    layers += [Own(), Registered(), OfScript(), RegisteredOfScript()]
    layers += [keras.Sequential([RegisteredOfScript()])]
    for layer in layers:
        model = ka.AdaptiveModel(x, [keras.layers.Dense(3)(each) for each in (x, layer(x))])
        assert kept(model, ka.ExitPolicy([0.5, 0])) == b"file"
    assert not _kept.folder().exists()


def test_what_the_library_registers_is_kept(exports, monkeypatch):
    opening(monkeypatch)
    model = ka.build_resnet((8, 8, 3), 3, depth=8, exits=2, gates="both")
    assert kept(model, ka.ExitPolicy([0.5, 0])).parent == _kept.folder()


def test_where_nothing_can_be_kept_a_file_serves_the_process(exports, monkeypatch, tmp_path):
    opening(monkeypatch)
    (tmp_path / "home").write_text("a file where a folder should be")
    monkeypatch.setenv("KERAS_ADAPTIVE_HOME", str(tmp_path / "home"))
    assert kept(three_exits(), ka.ExitPolicy([0.5, 0.5, 0])) == b"file"


def test_the_folder_is_what_the_environment_says(monkeypatch):
    monkeypatch.delenv("KERAS_ADAPTIVE_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert str(_kept.folder()) == "/caches/keras_adaptive/predictors"


def test_exporting_is_announced_at_once(exports, monkeypatch, capfd):
    opening(monkeypatch)
    model = three_exits()
    kept(model, ka.ExitPolicy([0.5, 0.5, 0]), verbose="auto")
    assert f"Exporting three_exits for LiteRT, once, kept in {_kept.folder()}" in (
        capfd.readouterr().err
    )
    kept(model, ka.PatiencePolicy(2), verbose=0)
    assert capfd.readouterr().err == ""
