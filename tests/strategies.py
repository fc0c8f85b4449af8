"""Random problems for property tests."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


def problems(max_exits=4):
    """Random logits, labels and costs, often with ties."""

    @st.composite
    def draw(draw):
        exits, samples = draw(st.integers(1, max_exits)), draw(st.integers(1, 30))
        classes = draw(st.integers(2, 4))
        values = draw(st.sampled_from([st.integers(-3, 3), st.floats(-20, 20, width=32)]))
        logits = draw(hnp.arrays("float32", (exits, samples, classes), elements=values))
        labels = draw(hnp.arrays("int64", samples, elements=st.integers(0, classes - 1)))
        steps = draw(hnp.arrays("int64", exits, elements=st.integers(0, 10)))
        return logits, labels, (np.cumsum(steps) + 1).astype(float)

    return draw()
