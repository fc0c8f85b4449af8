"""The table of supported models: a row tells what happened, the page shows it."""

import pytest

from benchmarks import models_table


def test_the_page_shows_differences_and_says_what_did_not_work():
    whole = {"model": "images", "exits": 3, "add_exits": 0.0, "fit": "yes", "costs": "equal"}
    whole |= {"host": "yes", "float32": 2e-7, "float16": 1e-4, "dynamic": 0.01, "int8": 0.02}
    refused = {"model": "regression", "add_exits": "ValueError: `model` must end in logits"}
    text = models_table.page(
        f"# Title\n{models_table.START}\nold\n{models_table.END}\nrest\n", [whole, refused]
    )
    assert text.startswith("# Title\n")
    assert text.endswith(f"{models_table.END}\nrest\n")
    assert "old" not in text
    assert "| images | 3 | 0 | yes | equal | yes | 2e-07 | 1e-04 | 1e-02 | 2e-02 |" in text
    assert "| regression | - | no | - |" in text
    assert "- regression, add_exits: ValueError: `model` must end in logits" in text


@pytest.mark.parametrize("name", ["images", "image and facts, by name"])
def test_random_inputs_are_what_the_model_takes(name):
    model = models_table.ROWS[name]()
    x = models_table.samples(model, 2)
    assert model.predict(x, verbose=0).shape == (2, 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "keras.applications.MobileNet",
        "keras.applications.MobileNetV2",
        "keras.applications.MobileNetV3Small",
        "images, binary",
        "images, uint8",
        "ViT with own layers",
        "image and facts, by name",
        "text, transformer, padding",
    ],
)
def test_the_whole_way(name):
    row = models_table.whole_way(name)
    assert row["costs"] == "equal", row
    assert row["host"] == row["fit"] == "yes"
    assert row["add_exits"] < 1e-5
    assert row["float32"] < 1e-4
    for quantize in ("float16", "dynamic", "int8"):
        assert row[quantize] < 0.3
