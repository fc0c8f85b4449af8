import pytest

matplotlib = pytest.importorskip("matplotlib", reason="the plot extra is not installed")
matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def no_picture_stays_open():
    yield
    matplotlib.pyplot.close("all")
