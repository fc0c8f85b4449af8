import numpy as np
import pytest
from tiny import classifier

import keras_adaptive as ka


def member(scale, classes=10):
    return classifier(round(8 * 2**scale), classes=classes)


def test_every_member_is_scaled_by_the_same():
    c1 = ka.scale_cascade(np.array([-1, 0, 0.5]), 1, build=member, classes=4, combine="last")
    assert c1.outputs[0].shape[-1] == 4
    expected = ka.build_cascade([member(s, 4) for s in (0, 1, 1.5)], combine="last")
    assert c1.exit_costs().tolist() == expected.exit_costs().tolist()


@pytest.mark.slow
def test_the_published_c0_can_cost_0_41_billion():
    c0 = ka.scale_cascade((-2, 0, 0.75), 0)
    costs = c0.exit_costs() / 1e9
    assert c0.inputs[0].shape == (None, 249, 249, 3)
    assert np.diff(costs)[0] == pytest.approx(0.39, rel=0.03)
    # which shares pass on is not published; the cost lies between all and none passing
    assert costs[0] < 0.41 < costs[-1]


def test_refuses_what_it_cannot_scale():
    for wrong in (ka.build_cascade([member(0), member(1)]), (), (1, "2"), None):
        with pytest.raises(ValueError, match="`scales` must be the scales"):
            ka.scale_cascade(wrong, 1, build=member)
    with pytest.raises(ValueError, match="Received: phi=two"):
        ka.scale_cascade((0, 1), "two", build=member)
