"""Bars of long work: none while it is short, one that goes when it is done."""

import numpy as np
import pytest
from PIL import Image

import keras_adaptive as ka
from keras_adaptive import _progress


def folder_of_photos(folder, rng):
    for split in ("train", "test"):
        for label in ("ant", "bee"):
            (folder / split / label).mkdir(parents=True)
            for number in range(6):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype="uint8")
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")
    return folder


def choose_cascade(tmp_path, rng):
    labels = rng.integers(0, 3, 60)
    logits = [rng.normal(size=(1, 60, 3)) for _ in range(2)]
    ka.calibration.select_cascade(logits, labels, [1.0, 2.0], accuracy=0.1)
    return "cascade"


def read_photos(tmp_path, rng):
    ka.data.load(data_dir=folder_of_photos(tmp_path / "photos", rng), image_size=8)
    return "reading images"


@pytest.mark.parametrize("work", [choose_cascade, read_photos])
@pytest.mark.parametrize("seconds", [0, 60])
def test_long_work_has_a_bar(work, seconds, tmp_path, rng, monkeypatch, capfd):
    monkeypatch.setattr(_progress, "LONG", seconds)
    said = work(tmp_path, rng)
    assert (said in capfd.readouterr().err) == (seconds == 0)


def test_goes_through_all():
    assert list(_progress.progress(iter(np.arange(3)), unit="number")) == [0, 1, 2]
