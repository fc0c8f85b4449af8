"""Local images: folders, CSV and tar files of every kind, and what is refused of them."""

import contextlib
import importlib
import io
import os
import tarfile
import unicodedata
import warnings

import numpy as np
import picture_vectors
import pytest
import tensorflow as tf
from PIL import Image

from anytime_tflite import pixels
from keras_adaptive import data
from keras_adaptive.data import _archive, splits

reading = importlib.import_module("keras_adaptive.data.load")


def flat(color, size=(6, 5)):
    return Image.new("RGB", size, color)


def save(path, image=None, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or flat("red")).save(path, **how)
    return path


def classes(folder, counts, above=""):
    """Writes images of one color each; the color tells class and number."""
    for label, (name, count) in enumerate(counts.items()):
        for i in range(count):
            save(folder / above / name / f"{i:03d}.png", flat((50 * label, i, 7)))
    return folder


def colors(splits, split):
    """Returns the numbers of the images of a split, by class."""
    x, y = splits.images(split, splits.size(split))
    found = {name: [] for name in splits.class_names}
    for image, label in zip(x, y, strict=True):
        assert image[0, 0, 0] == 50 * label
        found[splits.class_names[label]].append(int(image[0, 0, 1]))
    return found


# ---- a folder of photographs, as people have them


def photo(rng, size):
    """Returns a picture of four colors, which every format keeps."""
    width, height = size
    values = np.zeros((height, width, 3), "uint8")
    for rows in (slice(None, height // 2), slice(height // 2, None)):
        for columns in (slice(None, width // 3), slice(width // 3, None)):
            values[rows, columns] = rng.integers(0, 256, 3)
    return values


FORMATS = {"jpg": {"quality": 100, "subsampling": 0}, "png": {}, "webp": {"lossless": True}}
FORMATS |= {"bmp": {}, "gif": {}, "tiff": {}}
SIZES = ((40, 30), (30, 40), (64, 64))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of photographs, and what each of them shows."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(5)
    shown = {}
    for label in ("Bär", "Kätzchen"):
        for i, (kind, how) in enumerate(FORMATS.items()):
            for j, size in enumerate(SIZES):
                name, values = f"{label}/Größe {i}{j}.{kind}", photo(rng, size)
                save(folder / name, Image.fromarray(values), **how)
                shown[name] = values
        turned = photo(rng, (40, 30))
        exif = Image.Exif()
        exif[0x0112] = 6
        how = {**FORMATS["jpg"], "exif": exif}
        save(folder / label / "turned.jpg", Image.fromarray(turned), **how)
        shown[f"{label}/turned.jpg"] = np.rot90(turned, -1)
    noise = Image.fromarray(rng.integers(0, 256, (90, 90, 3), dtype="uint8"))
    broken = save(folder / "Bär" / "kaputt.jpg", noise).read_bytes()
    (folder / "Bär" / "kaputt.jpg").write_bytes(broken[: len(broken) // 2])
    (folder / "Bär" / "notes.txt").write_text("seen in May")
    (folder / "Kätzchen" / "desktop.ini").write_text("[.ShellClassInfo]")
    (folder / "Kätzchen" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" * 100)
    (folder / "Kätzchen" / ".hidden.png").write_bytes(b"no image")
    (folder / ".git").mkdir()
    (folder / ".git" / "a.png").write_bytes(b"no image")
    return folder, shown


def test_every_pixel_of_a_photo_folder_is_right(photos):
    folder, shown = photos
    with pytest.warns(UserWarning, match="left out") as said:
        found = data.load(folder, image_size=24)
    assert len(said) == 1
    text = str(said[0].message)
    assert "4 files are left out: " in text
    for name in (
        "Bär/kaputt.jpg (image file is truncated",
        "Bär/notes.txt (not a known image format",
        "Kätzchen/desktop.ini (not",
        "Kätzchen/Thumbs.db (not",
    ):
        assert name in text
    assert ".hidden" not in text
    assert said[0].filename == __file__
    assert found.class_names == ["Bär", "Kätzchen"]
    assert found.flips
    rule = {"height": 24, "width": 24, "channels": 3, "margin": 1.0}
    assert {**rule, "resize": "cover", "filter": "bilinear", "antialias": True} == found.pixels
    expected = {}
    for name, values in shown.items():
        tolerance = 4 if name.endswith("jpg") else 1
        scaled = picture_vectors.scaled(values, rule).astype(int)
        expected.setdefault(name.split("/")[0], []).append((scaled, tolerance))
    sizes = [found.size(split) for split in data.SPLITS]
    assert sum(sizes) == len(shown) == 38
    assert sizes[1:] == [6, 6]
    for split in data.SPLITS:
        for image, label in zip(*found.images(split, 100), strict=True):
            left = expected[found.class_names[label]]
            alike = [i for i, (x, most) in enumerate(left) if np.abs(x - image).max() <= most]
            assert len(alike) == 1
            del left[alike[0]]
    assert not any(expected.values())


def test_sizes_that_differ_are_named(photos):
    folder, _ = photos
    with pytest.raises(ValueError, match="`image_size` must be given, for example image_size=64.*"):
        data.load(folder)
    with pytest.raises(ValueError, match=r"Größe 00.jpg of 40x30 and Bär/Größe 01.jpg of 30x40"):
        data.load(folder)


def test_what_cannot_be_read_may_be_an_error(photos):
    folder, _ = photos
    with pytest.raises(ValueError, match=r"Received: .*Bär/kaputt.jpg \(image file is truncated"):
        data.load(folder, image_size=24, on_error="raise")
    with pytest.raises(ValueError, match="`on_error` must be one of.*Received: on_error=ignore"):
        data.load(folder, on_error="ignore")


def test_files_that_are_no_pictures_are_none_of_the_errors(tmp_path):
    classes(tmp_path, {"cat": 10, "dog": 10})
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / "README.md").write_text("no picture")
    save(tmp_path / "dog" / "a picture", flat((50, 99, 7)), format="PNG")
    with pytest.warns(UserWarning, match="2 files are left out: README.md .not in the folder"):
        found = data.load(tmp_path, on_error="raise")
    assert sum(found.size(split) for split in data.SPLITS) == 21


def test_a_class_of_pictures_without_endings_is_one(tmp_path):
    classes(tmp_path, {"cat": 5, "dog": 5})
    for i in range(5):
        save(tmp_path / "fox" / f"fox{i}", flat((100, i, 7)), format="PNG")
    (tmp_path / "about").mkdir()
    (tmp_path / "about" / "LICENSE").write_text("no picture")
    with pytest.warns(UserWarning, match="1 file is left out: about/LICENSE"):
        assert data.load(tmp_path).class_names == ["cat", "dog", "fox"]


def test_training_sees_what_the_command_line_sees(photos, tmp_path):
    folder, _ = photos
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = data.load(folder, image_size=(20, 28), split=(0.5, 0.25, 0.25), seed=3)
    known = {
        pixels.read(path, found.pixels).tobytes()
        for path in folder.glob("[BK]*/[Gt]*")
        if path.name not in ("Thumbs.db",)
    }
    x, _ = found.images("test", 100)
    assert {image.tobytes() for image in x} <= known


# ---- splits


def test_classes_keep_their_shares(tmp_path):
    classes(tmp_path, {"cat": 40, "dog": 20, "eel": 8})
    found = data.load(tmp_path)
    by_split = [colors(found, split) for split in data.SPLITS]
    for name, count in {"cat": 40, "dog": 20, "eel": 8}.items():
        parts = [part[name] for part in by_split]
        assert sorted(sum(parts, [])) == list(range(count))
        for part, share in zip(parts, (0.7, 0.15, 0.15), strict=True):
            assert len(part) == pytest.approx(share * count, abs=1)
    assert [found.size(split) for split in data.SPLITS] == [48, 10, 10]
    again, other = data.load(tmp_path, seed=0), data.load(tmp_path, seed=1)
    assert [colors(again, split) for split in data.SPLITS] == by_split
    assert [colors(other, split) for split in data.SPLITS] != by_split
    halves = data.load(tmp_path, split=(0.5, 0.25, 0.25))
    assert [halves.size(split) for split in data.SPLITS] == [34, 17, 17]


@pytest.mark.parametrize(
    ("calibrate", "taken"),
    [
        (None, {"cat": 5, "dog": 2, "eel": 1}),
        (0.5, {"cat": 25, "dog": 8, "eel": 1}),
        (0.01, {"cat": 1, "dog": 1, "eel": 1}),
        (6, {"cat": 4, "dog": 1, "eel": 1}),
        (np.int64(60), {"cat": 44, "dog": 14, "eel": 2}),
    ],
)
def test_calibration_images_come_class_by_class(tmp_path, calibrate, taken):
    counts = {"cat": 50, "dog": 16, "eel": 3}
    classes(tmp_path, counts, "train")
    classes(tmp_path, {"cat": 5, "dog": 5, "eel": 5}, "test")
    found = data.load(tmp_path, calibrate=calibrate)
    train, held = colors(found, "train"), colors(found, "calibrate")
    sizes = {name: len(numbers) for name, numbers in held.items()}
    assert sum(sizes.values()) == sum(taken.values())
    assert all(abs(sizes[name] - taken[name]) <= 1 for name in taken)
    for name, count in counts.items():
        assert sorted(train[name] + held[name]) == list(range(count))


def test_one_class_of_few_images_is_warned_of(tmp_path):
    classes(tmp_path, {"cat": 10, "dog": 4})
    with pytest.warns(UserWarning, match=r"fewer than 5 images of dog \(4\)") as said:
        data.load(tmp_path)
    assert len(said) == 1


def test_a_calibrate_folder_is_the_calibrate_split(tmp_path):
    for above, count in (("Training", 6), ("val", 3), ("TEST", 2)):
        classes(tmp_path, {"cat": count, "dog": count}, above)
    found = data.load(tmp_path)
    assert [found.size(split) for split in data.SPLITS] == [12, 6, 4]
    with pytest.raises(ValueError, match="`calibrate` must be None where there is a calibrate"):
        data.load(tmp_path, calibrate=0.2)


@pytest.mark.parametrize("held", ["val", "Validation", "calibrate"])
def test_without_a_test_folder_the_held_out_one_is_the_test_split(held, tmp_path):
    for above, count in (("train", 10), (held, 3)):
        classes(tmp_path, {"cat": count, "dog": count}, above)
    found = data.load(tmp_path, calibrate=0.2)
    assert [found.size(split) for split in data.SPLITS] == [16, 4, 6]


@pytest.mark.parametrize("folder", ["@eaDir", "__MACOSX", ".thumbs"])
def test_folders_of_the_system_are_no_classes(folder, tmp_path):
    classes(tmp_path, {"cat": 6, "dog": 6, folder: 6})
    classes(tmp_path, {folder: 6}, "cat")
    found = data.load(tmp_path)
    assert found.class_names == ["cat", "dog"]
    assert sum(found.size(split) for split in data.SPLITS) == 12


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    classes(tmp_path, {"cat": 6, "dog": 6, "fox": 6})
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("fox"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.warns(UserWarning, match=r"1 file is left out: fox \(a folder that cannot be read"):
        assert data.load(tmp_path).class_names == ["cat", "dog"]


def test_folders_above_do_not_matter(tmp_path):
    classes(tmp_path, {"cat": 6, "dog": 6}, "photos/2024")
    (tmp_path / "photos" / "about.txt").write_text("no picture")
    save(tmp_path / "photos" / "2024" / "cat" / "May" / "deep.png", flat((0, 77, 7)))
    with pytest.warns(UserWarning, match="1 file is left out: photos/about.txt"):
        found = data.load(tmp_path)
    assert found.class_names == ["cat", "dog"]
    assert 77 in sum((colors(found, split)["cat"] for split in data.SPLITS), [])


def write(folder, files):
    for name in files:
        save(folder / name)
    return folder


REFUSED = {
    "nothing": ((), "two classes or more.*has 0"),
    "one class": (("cat/1.png", "cat/2.png", "cat/3.png"), "two classes or more.*has 1"),
    "no class": (("1.png", "2.png"), "two classes or more.*has [01]"),
    "a class of two": (
        (*(f"cat/{i}.png" for i in range(3)), "dog/1.png", "dog/2.png"),
        "at least 3 images, one for each split. Received: .*dog has 2",
    ),
    "no test": (("train/cat/1.png", "train/dog/1.png"), "images as test/<class>/<image>"),
    "no train": (("test/cat/1.png", "test/dog/1.png"), "images as train/<class>/<image>"),
    "a class that is not in train": (
        ("train/cat/1.png", "train/cat/2.png", "test/cat/1.png", "test/dog/1.png"),
        "at least 2 images in train, one of them for calibrate.*dog has 0 in train",
    ),
    "a class that is not in test": (
        (*(f"train/{n}/{i}.png" for n in ("cat", "dog") for i in range(2)), "test/dog/1.png"),
        "must have images in test.*cat has 0 in test",
    ),
    "a class that is not in calibrate": (
        (
            *(f"{s}/{n}/1.png" for s in ("train", "test") for n in ("cat", "dog")),
            "validation/dog/1.png",
        ),
        "must have images in calibrate.*cat has 0 in calibrate",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("packed", [False, True])
def test_refuses_what_does_not_make_three_splits(name, packed, tmp_path):
    files, message = REFUSED[name]
    source = write(tmp_path / "pets", files)
    source.mkdir(exist_ok=True)
    if packed:
        with tarfile.open(tmp_path / "pets.tar", "w") as archive:
            archive.add(source, "pets")
        source = tmp_path / "pets.tar"
    with pytest.raises(ValueError, match=message):
        data.load(source, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_class_of_broken_images_is_refused(tmp_path):
    classes(tmp_path, {"cat": 5, "dog": 5})
    for i in range(3):
        (tmp_path / "dog" / f"{i:03d}.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match="dog has 2; left out: dog/000.png .not a known"):
        data.load(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"split": (0.5, 0.5)},
        {"split": (0.7, 0.2, 0.2)},
        {"split": (1.0, 0.0, 0.0)},
        {"split": 0.5},
        {"split": "abc"},
        {"calibrate": 0},
        {"calibrate": 1.0},
        {"calibrate": -0.1},
        {"calibrate": True},
        {"calibrate": "0.1"},
        {"calibrate": 1},
        {"calibrate": 5},
        {"seed": -1},
        {"seed": 0.5},
        {"flips": "no"},
    ],
    ids=str,
)
def test_rejects_impossible_arguments(wrong, tmp_path):
    (name,) = wrong
    classes(tmp_path, {"cat": 3, "dog": 3})
    with pytest.raises(ValueError, match=f"`{name}` must .* Received: {name}="):
        data.load(tmp_path, **wrong)


def test_digits_can_have_another_calibrate_split():
    for calibrate, size in ((0.1, 144), (200, 200)):
        train, held, test, _ = reading._digits(0, calibrate)
        assert [len(train), len(held), len(test)] == [1437 - size, size, 360]
        counts = np.bincount([label for _, label in held.as_numpy_iterator()])
        assert counts.max() - counts.min() <= 2


# ---- mirror images


@pytest.mark.parametrize(
    ("name", "labels", "flips"),
    [
        ("photos", ("cat", "dog"), True),
        ("mnist_png", ("zero", "one"), False),
        ("fashion-mnist", ("coat", "shoe"), True),
        ("my svhn", ("zero", "one"), False),
        ("plates", ("A", "B", "7"), False),
        ("arrows", ("left", "right"), False),
        ("roads", ("turn_left", "turn_right", "straight"), False),
        ("sky", ("bright", "left alone"), True),
    ],
)
def test_mirrored_images_are_made_where_they_show_the_same(name, labels, flips):
    assert reading._may_mirror(name, labels, data_dir="local") is flips


def test_flips_are_as_asked_for(tmp_path):
    folder = classes(tmp_path / "roads", {"left": 5, "right": 5})
    assert not data.load(folder).flips
    assert data.load(folder, flips=True).flips


def test_the_folder_of_here_has_a_name(tmp_path, monkeypatch):
    folder = classes(tmp_path / "digits", {"one": 5, "two": 5})
    monkeypatch.chdir(folder)
    assert not data.load(folder).flips
    assert not data.load(".").flips


@pytest.mark.parametrize("packed", [True, False])
def test_a_class_whose_name_no_report_can_hold_is_refused(packed, tmp_path):
    classes(tmp_path / "photos", {"cat": 5, os.fsdecode(b"caf\xe9"): 5})
    if packed:
        with tarfile.open(tmp_path / "photos.tar", "w") as archive:
            archive.add(tmp_path / "photos", "photos")
    with pytest.raises(ValueError, match=r"must have a name in UTF-8.* Received: .*'caf.udce9'"):
        data.load(tmp_path / ("photos.tar" if packed else "photos"), cache_dir=tmp_path / "cache")


# ---- CSV files


def table(folder, lines, name="labels.csv", encoding="utf-8"):
    (folder / name).write_text("\n".join(lines) + "\n", encoding=encoding)
    return folder / name


@pytest.mark.parametrize(
    ("delimiter", "header"), [(",", "path,label"), (";", "Label,File"), ("\t", None)]
)
def test_reads_what_a_csv_file_names(tmp_path, delimiter, header):
    names = [
        save(tmp_path / "images" / f"ä {i}.png", flat((50 * (i % 2), i, 7))) for i in range(20)
    ]
    rows = [(f"images/{path.name}", ("cat", "dog")[i % 2]) for i, path in enumerate(names)]
    if header == "Label,File":
        rows = [row[::-1] for row in rows]
    lines = [header.replace(",", delimiter)] if header else []
    lines += [delimiter.join(row) for row in rows] + ["", delimiter.join(rows[0])]
    path = table(tmp_path, lines, encoding="utf-8-sig")
    for source in (path, tmp_path):  # the file, or the folder that it is in
        found = data.load(source)
        assert found.class_names == ["cat", "dog"]
        assert [found.size(split) for split in data.SPLITS] == [14, 3, 3]
        assert all(n % 2 == 0 for n in colors(found, "train")["cat"])


def test_names_may_be_spelled_as_other_systems_do(tmp_path):
    """macOS takes umlauts apart, and Windows has other slashes."""
    for split, spelling in (("train", "NFC"), ("test", "NFD")):
        for label in ("Bär", "Kätzchen"):
            for i in range(5):
                save(tmp_path / split / unicodedata.normalize(spelling, label) / f"ö{i}.png")
    assert data.load(tmp_path).class_names == ["Bär", "Kätzchen"]
    lines = [f"test\\{label}\\ö{i}.png,{label}" for label in ("Bär", "Kätzchen") for i in range(5)]
    with_others = [line.replace("ö", unicodedata.normalize("NFD", "ö")) for line in lines]
    for number, content in enumerate((lines, with_others)):
        found = data.load(table(tmp_path, ["path,label", *content], f"{number}.csv"))
        assert sum(found.size(split) for split in data.SPLITS) == 10


def test_a_csv_file_may_say_the_split_and_number_the_classes(tmp_path):
    lines = ["path,class,split"]
    for label in ("10", "2", "9"):
        for split, count in (("train", 6), ("valid", 2), ("TEST", 3)):
            for i in range(count):
                name = f"{label}-{split}-{i}.png"
                save(tmp_path / name)
                lines.append(f"{name},{label},{split}")
    path = table(tmp_path, lines)
    found = data.load(path)
    assert found.class_names == ["2", "9", "10"]
    assert [found.size(split) for split in data.SPLITS] == [18, 6, 9]
    table(tmp_path, [line for line in lines if "valid" not in line])
    assert [data.load(path).size(split) for split in data.SPLITS] == [15, 3, 9]
    table(tmp_path, [line for line in lines if "TEST" not in line])
    assert [data.load(path).size(split) for split in data.SPLITS] == [15, 3, 6]


def test_broken_and_missing_files_of_a_csv_file_are_named(tmp_path):
    classes(tmp_path, {"cat": 6, "dog": 6})
    lines = [f"{name}/{i:03d}.png,{name}" for name in ("cat", "dog") for i in range(6)]
    (tmp_path / "cat" / "000.png").write_bytes(b"broken")
    path = table(tmp_path, ["file,label", *lines, "dog/none.png,dog"])
    with pytest.warns(
        UserWarning, match=r"2 files .*cat/000.png .not a.*dog/none.png .no such file"
    ):
        found = data.load(path)
    assert sum(found.size(split) for split in data.SPLITS) == 11
    with pytest.raises(ValueError, match="cat/000.png"):
        data.load(path, on_error="raise")


CSV_REFUSED = {
    "outside": (["path,label", "../secret.png,cat"], "files in its own folder.*secret.png"),
    "absolute": (["path,label", "/etc/passwd,cat"], "files in its own folder.*/etc/passwd"),
    "a link": (["path,label", "link.png,cat"], "files in its own folder.*line 2: link.png"),
    "no header": (["a,b", "1.png,cat"], "columns for paths and labels"),
    "empty": ([""], "columns for paths and labels"),
    "a label is missing": (["path,label", "1.png,"], "must have a path and a label.*line 2"),
    "a column is missing": (["path,label", "1.png"], "must have a path and a label.*line 2"),
    "two labels": (["path,label", "1.png,cat", "./1.png,dog"], "one label.*line 3: 1.png"),
    "an unknown split": (["path,label,split", "1.png,cat,dev"], "train, calibrate or test.*dev"),
    "some splits": (
        ["path,label,split", "1.png,cat,train", "2.png,dog,"],
        "split of all images or of none",
    ),
    "NUL": (["path,label", "1\0.png,cat"], "Received: .*labels.csv"),
    "a long cell": (["path,label", "a" * 200_000 + ",cat"], "must be text.*field larger"),
    "a long name": (["path,label", "a" * 5000 + ".png,cat"], "Received: .*labels.csv"),
    "one class": (["path,label", "1.png,cat", "2.png,cat"], "two classes or more"),
    "quotes": (["path,label", '"1.png,cat'], "must be text in UTF-8 with columns"),
}


@pytest.mark.parametrize("name", CSV_REFUSED)
def test_refuses_csv_files(name, tmp_path):
    lines, message = CSV_REFUSED[name]
    folder = write(tmp_path / "pets", ("1.png", "2.png"))
    save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ValueError, match=message) as error:
        data.load(table(folder, lines))
    assert len(str(error.value)) < 1000


def test_refuses_csv_files_that_are_no_text(tmp_path):
    (tmp_path / "labels.csv").write_bytes("path,label\nä.png,cat\n".encode("latin-1"))
    with pytest.raises(ValueError, match="must be text in UTF-8"):
        data.load(tmp_path / "labels.csv")


# ---- links and tar files


def test_nothing_outside_the_folder_is_read(tmp_path):
    folder = classes(tmp_path / "pets", {"cat": 6, "dog": 6})
    secret = save(tmp_path / "secret" / "fox" / "1.png")
    (folder / "cat" / "out.png").symlink_to(secret)
    (folder / "cat" / "circle.png").symlink_to(folder / "cat" / "circle.png")
    (folder / "cat" / "in.png").symlink_to(folder / "cat" / "001.png")
    (folder / "fox").symlink_to(secret.parent)
    (folder / "up").symlink_to(folder)
    os.mkfifo(folder / "dog" / "pipe.png")
    with pytest.warns(UserWarning, match="left out") as said:
        found = data.load(folder)
    text = str(said[0].message)
    for reason in ("out.png (a link that leads out", "fox (a link to a f", "pipe.png (no file)"):
        assert reason in text
    assert found.class_names == ["cat", "dog"]
    assert sum(found.size(split) for split in data.SPLITS) == 13
    (tmp_path / "link").symlink_to(folder)  # the folder itself may be named by a link
    with pytest.warns(UserWarning, match="pipe"):
        assert data.load(tmp_path / "link").size("test") == found.size("test")


def pack(path, *members, mode="w"):
    """Writes a tar file: of folders, or of members that are given one by one."""
    with tarfile.open(path, mode) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member, io.BytesIO(bytes(min(member.size, 10**6))))
            else:
                archive.add(member, "pets")
    return path


def member(name, kind=tarfile.REGTYPE, link="", size=10):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size if kind == tarfile.REGTYPE else 0
    return info


HOSTILE = {
    "parent": (member("pets/../../out.png"), "out.png leads out of the folder"),
    "absolute": (member("/tmp/out.png"), "/tmp/out.png leads out"),
    "symbolic link": (member("pets/link", tarfile.SYMTYPE, "/etc"), "pets/link is a link"),
    "hard link": (member("pets/hard", tarfile.LNKTYPE, "/etc/passwd"), "pets/hard is a link"),
    "device": (member("pets/zero", tarfile.CHRTYPE), "pets/zero is a link or a device"),
    "pipe": (member("pets/pipe", tarfile.FIFOTYPE), "pets/pipe is a link or a device"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refuses_hostile_tar_files(name, tmp_path):
    bad, message = HOSTILE[name]
    folder = classes(tmp_path / "pets", {"cat": 5, "dog": 5})
    path = pack(tmp_path / "pets.tar", folder, bad)
    with pytest.raises(ValueError, match=f"stay in their folder. Received: .*{message}"):
        data.load(path, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_refuses_huge_tar_files(tmp_path, monkeypatch):
    path = pack(tmp_path / "pets.tar.gz", member("pets/cat/1.png", size=10**6), mode="w:gz")
    monkeypatch.setattr(_archive, "ALWAYS", 1000)
    with pytest.raises(ValueError, match="pets/cat/1.png is too large, with 1000000 bytes"):
        data.load(path, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(pixels, "BYTES", 100)
    monkeypatch.setattr(_archive, "ALWAYS", 2**30)
    with pytest.raises(ValueError, match="pets/cat/1.png is too large"):
        data.load(path, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_refuses_damaged_tar_files(tmp_path, rng):
    folder = classes(tmp_path / "pets", {"cat": 5, "dog": 5})
    for mode, suffix in (("w", ""), ("w:gz", ".gz"), ("w:xz", ".xz"), ("w:bz2", ".bz2")):
        whole = pack(tmp_path / f"pets.tar{suffix}", folder, mode=mode).read_bytes()
        bad = tmp_path / f"bad.tar{suffix}"
        for content in (whole[: len(whole) // 2], whole[:100], b"", rng.bytes(1000)):
            bad.write_bytes(content)
            with pytest.raises(ValueError, match="Received: data_dir=.*bad.tar"):
                data.load(bad, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").rglob("*.png"))


def test_a_changed_tar_file_replaces_its_old_copy(tmp_path):
    cache = tmp_path / "cache"
    for count in (5, 6):
        folder = classes(tmp_path / f"{count}", {"cat": count, "dog": count})
        path = pack(tmp_path / "pets.tar", folder)
        os.utime(path, (count, count))
        for _ in range(2):
            found = data.load(path, cache_dir=cache)
            assert sum(found.size(split) for split in data.SPLITS) == 2 * count
            assert len(list((cache / "image_folders").iterdir())) == 1
    assert len(list(cache.rglob("*.png"))) == 12


def test_a_csv_file_in_a_tar_file(tmp_path):
    lines = ["path,label"]
    for i in range(12):
        save(tmp_path / "pets" / "images" / f"{i}.png", flat((50 * (i % 2), i, 7)))
        lines.append(f"images/{i}.png,{('cat', 'dog')[i % 2]}")
    table(tmp_path / "pets", lines)
    found = data.load(pack(tmp_path / "pets.tar", tmp_path / "pets"), cache_dir=tmp_path / "cache")
    assert found.class_names == ["cat", "dog"]
    assert sum(found.size(split) for split in data.SPLITS) == 12
    assert all(n % 2 for n in colors(found, "train")["dog"])


# ---- many images


def test_images_that_do_not_fit_into_memory_are_read_again(tmp_path, monkeypatch):
    classes(tmp_path, {"cat": 10, "dog": 10})
    kept = data.load(tmp_path)
    monkeypatch.setattr(splits, "MEMORY", 20 * 90 - 1)
    found = data.load(tmp_path)
    for split in data.SPLITS:
        for a, b in zip(found.images(split, 20), kept.images(split, 20), strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose((found.mean, found.std), (kept.mean, kept.std))
    how = {"training": True, "seed": 2, "epoch": 1}
    ours, theirs = (list(x.batches("train", 4, **how).as_numpy_iterator()) for x in (found, kept))
    for (x, y), (u, v) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(x, u)
        np.testing.assert_array_equal(y, v)
    limited = data.load(tmp_path, train_limit=3)
    assert limited.size("train") == 3
    next(tmp_path.rglob("*.png")).write_bytes(b"gone")
    with contextlib.suppress(tf.errors.InvalidArgumentError, tf.errors.UnknownError):
        for split in data.SPLITS:
            found.images(split, 20)


def test_local_images_are_loaded_in_silence(tmp_path, capfd):
    classes(tmp_path, {"cat": 5, "dog": 5})
    data.load(str(tmp_path))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "ownload" not in captured.err
