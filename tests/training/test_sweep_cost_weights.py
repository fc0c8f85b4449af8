import keras
import numpy as np
import pytest
import tensorflow as tf
from eager import eagerly
from tiny import classifier

import keras_adaptive as ka
from keras_adaptive.layers import StoppingPolicy
from keras_adaptive.training import sweep_cost_weights

eagerly = pytest.fixture(autouse=True)(eagerly)
pytestmark = pytest.mark.filterwarnings("ignore:The stopping policy sends")


@pytest.fixture
def setting(rng):
    keras.utils.set_random_seed(0)
    model = ka.build_cascade(
        [classifier(2), classifier(4)], combine="last", stopping=StoppingPolicy(4)
    )
    x, y = rng.normal(size=(40, 8, 8, 1)).astype("float32"), rng.integers(0, 10, 40)
    return model, (x[:20], y[:20]), (x[20:], y[20:])


def test_every_row_is_a_policy_and_what_it_gives(setting):
    model, train, test = setting
    start = model.get_weights()
    how = {"charge": "including", "estimator": "expected", "learning_rate": 3.0, "epochs": 10}
    found = sweep_cost_weights(model, train, test, cost_weights=(0.0, 1.0), **how)
    logits = np.stack(model.predict(test[0], verbose=0))
    for policy, report, weight in zip(found.policies, found.reports, (0.0, 1.0), strict=True):
        again = ka.evaluate(policy, logits, test[1], model.stopping_costs())
        assert (again.accuracy, again.mean_cost) == (report.accuracy, report.mean_cost)
        assert policy.details == {"cost_weight": weight, "mean_cost": report.mean_cost}
    assert found.costs[1] == found.exit_costs[0]  # too dear to go on
    assert found.accuracies.shape == (2,)
    assert all((a == b).all() for a, b in zip(start, model.get_weights(), strict=True))


def test_goes_on_with_the_rows_that_are_missing(setting, tmp_path):
    model, train, test = setting
    calls = []

    def fit(model, data, cost_weight):
        assert data is train
        calls.append(cost_weight)
        for layer in model.stopping:
            layer.set_weights([w + cost_weight for w in layer.get_weights()])

    first = sweep_cost_weights(model, train, test, cost_weights=(1.0,), fit=fit, folder=tmp_path)
    both = sweep_cost_weights(model, train, test, cost_weights=(1.0, 2.0), fit=fit, folder=tmp_path)
    assert calls == [1.0, 2.0]
    assert both.reports[0].mean_cost == first.reports[0].mean_cost
    np.testing.assert_array_equal(both.reports[0].exit_fractions, first.reports[0].exit_fractions)
    grown = [np.asarray(w) for network in both.policies[1].networks for w, _ in network]
    before = [np.asarray(w) for network in both.policies[0].networks for w, _ in network]
    for a, b in zip(grown, before, strict=True):  # each starts from where the model was
        np.testing.assert_allclose(a, b + 1, atol=1e-6)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = ka.build_cascade([classifier(2), classifier(6)], stopping=StoppingPolicy(4))
    moved = (test[0] + 1, test[1])
    for network, data, how, message in (
        (other, test, {"fit": fit}, "network."),
        (model, moved, {"fit": fit}, "test.0.digest="),
        (model, test, {"fit": lambda *_: None}, "fit.function="),
        (model, test, {"epochs": 3}, "epochs=3"),
        (model, test, {"fit": fit, "seed": 5}, "seed=5"),
    ):
        with pytest.raises(ValueError, match="`folder` must be a new folder") as error:
            # of no row that is there
            sweep_cost_weights(network, train, data, cost_weights=(3.0,), folder=tmp_path, **how)
        assert message in str(error.value)
    weights = model.get_weights()
    model.set_weights([w + 1 for w in weights])
    with pytest.raises(ValueError, match="members.0="):
        sweep_cost_weights(model, train, test, cost_weights=(1.0,), fit=fit, folder=tmp_path)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


QUICK = {"estimator": "expected", "epochs": 1, "cost_weights": (0.5, 1.0)}


@pytest.mark.slow
def test_rows_are_equal_whichever_are_done_before_and_damaged_ones_are_made_anew(setting, tmp_path):
    model, train, test = setting
    whole = sweep_cost_weights(model, train, test, folder=tmp_path / "whole", seed=3, **QUICK)
    found = sweep_cost_weights(
        model, train, test, seed=3, **{**QUICK, "cost_weights": (1.0,)}, folder=tmp_path / "part"
    )
    name = "cost_weight_1.0.policy.json"
    text = (tmp_path / "whole" / name).read_text()
    assert (tmp_path / "part" / name).read_text() == text
    row = tmp_path / "whole" / "cost_weight_1.0.json"
    for path, content in (
        (row, "{"),
        (row, "[]"),
        (row, row.read_text().replace('"accuracy": ', '"accuracy": 1')),
        (tmp_path / "whole" / name, text.replace("0.5", "0.6", 1)),
    ):
        path.write_text(content)
        with pytest.warns(UserWarning, match="is damaged, and the row is made anew"):
            again = sweep_cost_weights(
                model, train, test, folder=tmp_path / "whole", seed=3, **QUICK
            )
        assert (tmp_path / "whole" / name).read_text() == text
        assert again.reports[1].mean_cost == whole.reports[1].mean_cost == found.costs[0]


def test_rejects_impossible_arguments(setting):
    model, train, test = setting
    for weights in ([], [1.0, 1.0], [-1.0]):
        with pytest.raises(ValueError, match="`cost_weights` must be different numbers"):
            sweep_cost_weights(model, train, test, cost_weights=weights)
    for weights in (0.001, "0.1", [np.nan], None):
        with pytest.raises(ValueError, match="at least 0, in a sequence. Received: cost_weights="):
            sweep_cost_weights(model, train, test, cost_weights=weights)
    for data in (tf.data.Dataset.from_tensor_slices(train), train[0], (*train, train[1])):
        with pytest.raises(TypeError, match=r"`train` must be a tuple \(x, y\) of arrays"):
            sweep_cost_weights(model, data, test)
        with pytest.raises(TypeError, match=r"`test` must be a tuple \(x, y\) of arrays"):
            sweep_cost_weights(model, train, data)
    with pytest.raises(ValueError, match="`labels` must be integers of shape"):
        sweep_cost_weights(model, train, (test[0], test[1][:3]))
    with pytest.raises(ValueError, match="`cost_weights` must hold the cost weights of all rows"):
        sweep_cost_weights(model, train, test, cost_weight=0.1)
    with pytest.raises(ValueError, match="`folder` must be a folder. Received: folder=''"):
        sweep_cost_weights(model, train, test, folder="")
    with pytest.raises(TypeError, match="`folder` must be a string or a path"):
        sweep_cost_weights(model, train, test, folder=3)
    with pytest.raises(ValueError, match="must go without `fit`"):
        sweep_cost_weights(model, train, test, fit=print, epochs=3)
    with pytest.raises(TypeError, match="`model` must be an AdaptiveModel"):
        sweep_cost_weights("model", train, test)
    with pytest.raises(ValueError, match="must have stopping policies"):
        sweep_cost_weights(ka.build_cascade([classifier(2), classifier(4)]), train, test)


@pytest.mark.parametrize("rate", [-1.0, np.nan, "fast"])
def test_learning_rates_are_checked_before_the_folder_is_claimed(setting, tmp_path, rate):
    model, train, test = setting
    with pytest.raises(ValueError, match="`learning_rate` must be"):
        sweep_cost_weights(model, train, test, folder=tmp_path / "new", learning_rate=rate)
    assert not (tmp_path / "new").exists()


def test_what_is_shown_may_be_said(setting):
    model, train, test = setting
    how = {"cost_weights": [0.5], "epochs": 1, "estimator": "expected", "seed": 1}
    shown = sweep_cost_weights(model, train, test, **how, verbose=2)
    assert shown.costs == sweep_cost_weights(model, train, test, **how, verbose=0).costs
