"""`run` reads pictures by the rule of the file, as training does."""

import json
import os
import re
import sys

import keras
import numpy as np
import picture_vectors
import pytest
import short_run
from PIL import Image

import keras_adaptive as ka
from anytime_tflite import AnytimeModel
from keras_adaptive.cli import main
from keras_adaptive.cli import run as command


class Model:
    """A stand-in for an exported file that shows what it is given."""

    def __init__(self, shape, info=None):
        self.info, self.seen = info or {}, []
        names = range(len(self.info.get("inputs", "1")))
        self.inputs = {f"input_{name}": (shape, np.float32) for name in names}

    def classify(self, image, deadline_ms):
        self.seen.append(image)
        answer = type("Answer", (), {"class_name": None, "label": 1, "exit": 0})
        answer.probabilities, answer.stopped_by, answer.elapsed_ms = [0.25, 0.75], "end", 1.5
        answer.cost = 10.0
        return answer


def seen(monkeypatch, model, *pictures):
    monkeypatch.setattr(command, "AnytimeModel", lambda file, num_threads: model)
    main(["run", "model.tflite", *map(str, pictures)])
    return model.seen


def picture(folder, name="a.png", size=(40, 30)):
    array = picture_vectors.picture(*size)
    Image.fromarray(array).save(folder / name)
    return array


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_scaled_to_cover_and_cut(tmp_path, monkeypatch, channels):
    rule = {"height": 16, "width": 16, "channels": channels, "margin": 1.0}
    array = picture(tmp_path)
    (image,) = seen(monkeypatch, Model((16, 16, channels)), tmp_path / "a.png")
    assert image.shape == (16, 16, channels)
    assert np.abs(image.astype(int) - picture_vectors.scaled(array, rule)).max() <= 1


def test_the_rule_is_that_of_the_file(tmp_path, monkeypatch):
    rule = {"height": 14, "width": 14, "channels": 3, "resize": "cover", "filter": "bilinear"}
    rule |= {"antialias": True, "margin": 8 / 7}
    array = picture(tmp_path)
    (image,) = seen(monkeypatch, Model((14, 14, 3), {"pixels": rule}), tmp_path / "a.png")
    assert np.abs(image.astype(int) - picture_vectors.scaled(array, rule)).max() <= 1


def test_16_bits_and_turned_pictures_keep_their_look(tmp_path, monkeypatch):
    deep = np.full((8, 8), 127 * 257, "uint16")
    Image.fromarray(deep).save(tmp_path / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    flat = Image.new("RGB", (8, 8))
    flat.paste((255, 255, 255), (0, 0, 8, 4))
    flat.save(tmp_path / "turned.jpg", exif=exif, quality=100)
    found = seen(monkeypatch, Model((8, 8, 3)), tmp_path / "deep.png", tmp_path / "turned.jpg")
    assert set(found[0].ravel()) == {127}
    assert found[1][:, :4].max() < 10  # its upper half is now the right one
    assert found[1][:, 4:].min() > 245


def test_prints_a_line_for_each_picture(tmp_path, monkeypatch, capsys):
    for name in ("a.png", "b.png"):
        picture(tmp_path, name)
    seen(monkeypatch, Model((8, 8, 3)), tmp_path / "a.png", tmp_path / "b.png")
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'a.png'}: 1 (75.0%)",
        f"{tmp_path / 'b.png'}: 1 (75.0%)",
    ]
    with monkeypatch.context() as patch:
        patch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        seen(patch, Model((8, 8, 3)), tmp_path / "a.png")
    line = f"{tmp_path / 'a.png'}: 1 (75.0%), exit 0, stopped by end, 1.50 ms\n"
    assert capsys.readouterr().out == line


def test_says_what_the_device_says(exported, tmp_path, capsys):
    array = picture(tmp_path, size=(12, 8))
    rule = {"height": 8, "width": 8, "channels": 1, "margin": 1.0}
    with AnytimeModel(exported) as model:
        answer = model.classify(picture_vectors.scaled(array, rule))
    main(["run", str(exported), str(tmp_path / "a.png")])
    share = f"{answer.probabilities[answer.label]:.1%}"
    expected = f"{tmp_path / 'a.png'}: {answer.class_name or answer.label} ({share})\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Model((16,)), "must classify pictures"),
        (Model((16, 16, 2)), "must classify pictures"),
        (Model((16, 16, 3), {"inputs": [{}, {}]}), "must classify pictures"),
        (
            Model(
                (16, 16, 3),
                {"pixels": {"height": 8, "width": 16, "channels": 3, "resize": "cover"}},
            ),
            "must be of its input's shape",
        ),
        (Model((16, 16, 3), {"pixels": {"height": 16}}), "A rule must be what"),
    ],
)
def test_rejects_files_that_do_not_classify_pictures(model, message, monkeypatch, tmp_path, capsys):
    picture(tmp_path)
    with pytest.raises(SystemExit) as ended:
        seen(monkeypatch, model, tmp_path / "a.png")
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_says_how_a_run_gets_its_file(tmp_path, capsys):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(SystemExit) as stop:
        main(["run", str(tmp_path / "model.tflite"), str(picture(tmp_path))])
    assert stop.value.code == 2
    assert f"keras-adaptive export {tmp_path} does" in capsys.readouterr().err


def test_names_a_picture_that_cannot_be_read(tmp_path, monkeypatch, capsys):
    (tmp_path / "notes.txt").write_text("no picture")
    for path, reason in ((tmp_path / "notes.txt", "not a known"), (tmp_path / "x.png", "no such")):
        with pytest.raises(SystemExit) as ended:
            seen(monkeypatch, Model((8, 8, 3)), path)
        assert ended.value.code == 2
        assert f"{path} ({reason}" in capsys.readouterr().err


@pytest.mark.slow
def test_from_a_folder_of_photos_to_answers(tmp_path, monkeypatch, capsys):
    """Photos of three sizes, some of them turned: the device says what Keras says."""
    rng = np.random.default_rng(6)
    shown = {}
    for label, color in (("Bär", (150, 90, 40)), ("Kätzchen", (60, 120, 220))):
        for i in range(14):
            size = ((40, 30), (30, 40), (50, 50))[i % 3]
            kind = ("png", "bmp", "webp", "tiff")[i % 4]
            array = rng.integers(0, 60, (*size, 3)) + np.array(color) // 2
            path = tmp_path / "photos" / label / f"{i}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            how = {"lossless": True} if kind == "webp" else {}
            if i == 0:
                how["exif"] = Image.Exif()
                how["exif"][0x0112] = 8
            image = Image.fromarray(array.astype("uint8"))
            image.save(path, **how)
            shown[path] = np.rot90(image) if i == 0 else np.array(image)
    (tmp_path / "photos" / "Bär" / "notes.txt").write_text("no picture")
    short_run.small_network(monkeypatch)
    monkeypatch.setattr(short_run.program.training, "fit", short_run.eagerly)
    photos, run = str(tmp_path / "photos"), tmp_path / "run"
    how = ["--image-size", "12", "--epochs", "3", "--batch-size", "8"]
    for arguments in (
        ["train", "--data", photos, "--out", str(run), *how],
        ["calibrate", str(run), "--budget-share", "0.8"],
        ["export", str(run)],
    ):
        with pytest.warns(UserWarning, match="1 file is left out: Bär/notes.txt"):
            main(arguments)
    capsys.readouterr()
    main(["run", str(run / "model.tflite"), *map(str, shown)])
    lines = capsys.readouterr().out.splitlines()
    report = json.loads((run / "report.json").read_text())
    with pytest.warns(UserWarning, match="1 file is left out: Bär/notes.txt"):
        splits = ka.data.load(photos, image_size=12)
    model = keras.models.load_model(run / "model.keras", compile=False)
    policy = ka.ExitPolicy.load(run / "policy.json")
    rule = {"height": 12, "width": 12, "channels": 3, "margin": 1.0}
    images = np.stack([picture_vectors.scaled(array, rule) for array in shown.values()])
    x = (images / 255 - splits.mean) / splits.std
    logits = np.stack(model.predict(x, verbose=0))
    exits = policy.decide(logits)
    chosen = logits[exits, np.arange(len(x))] / policy.temperatures[exits][:, np.newaxis]
    shares = np.exp(chosen) / np.exp(chosen).sum(1, keepdims=True)
    assert len(lines) == len(shown) == 28
    for line, path, share in zip(lines, shown, shares, strict=True):
        name = splits.class_names[share.argmax()]
        found = re.fullmatch(rf"{re.escape(str(path))}: {name} \((\d+\.\d)%\)", line)
        assert float(found[1]) == pytest.approx(100 * share.max(), abs=2)
    assert report["device"]["images"] == splits.size("test")


def test_of_a_folder_every_picture_is_read(tmp_path, monkeypatch, capsys):
    (tmp_path / "sub").mkdir()
    for name in ("sub/b.JPG", "a.png"):
        picture(tmp_path, name)
    for hidden in ("@eaDir", ".thumbs"):
        (tmp_path / "sub" / hidden).mkdir()
        picture(tmp_path / "sub" / hidden)
    picture(tmp_path, "._a.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "cut.jpeg").write_bytes(b"\xff\xd8\xff")
    model = Model((16, 16, 3))
    assert len(seen(monkeypatch, model, tmp_path)) == 2
    said = capsys.readouterr()
    assert [line.split(":")[0] for line in said.out.splitlines()] == [
        str(tmp_path / "a.png"),
        str(tmp_path / "sub" / "b.JPG"),
    ]
    assert "left out" in said.err
    assert "cut.jpeg" in said.err
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="2"):
        seen(monkeypatch, model, tmp_path / "empty")
    assert "must hold pictures" in capsys.readouterr().err


def test_json_is_all_that_stdout_gets(tmp_path, monkeypatch, capsys):
    picture(tmp_path)
    seen(monkeypatch, Model((16, 16, 3)), tmp_path / "a.png", "--json")
    said = capsys.readouterr()
    (answer,) = json.loads(said.out)["answers"]
    assert answer["picture"] == str(tmp_path / "a.png")
    assert (answer["label"], answer["exit"], answer["cost"]) == (1, 0, 10.0)
    assert answer["probability"] == 0.75
    assert "a.png: 1 (75.0%)" in said.err


def test_a_name_of_another_encoding_is_read_and_printed(tmp_path, monkeypatch, capsys):
    picture(tmp_path)
    name = os.fsdecode(b"caf\xe9.png")
    os.rename(tmp_path / "a.png", tmp_path / name)
    seen(monkeypatch, Model((16, 16, 3)), tmp_path)
    assert capsys.readouterr().out == f"{tmp_path}/caf\\udce9.png: 1 (75.0%)\n"
    seen(monkeypatch, Model((16, 16, 3)), tmp_path / name, "--json")
    (answer,) = json.loads(capsys.readouterr().out)["answers"]
    assert answer["picture"] == str(tmp_path / name)
