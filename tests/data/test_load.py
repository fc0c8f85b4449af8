import importlib
import tarfile

import numpy as np
import pytest
import tensorflow as tf

from keras_adaptive import data

reading = importlib.import_module("keras_adaptive.data.load")

tfds = pytest.importorskip("tensorflow_datasets", reason="the data extra is not installed")


def test_digits_are_not_mirrored():
    assert not data.load("digits").flips


def pictures(folder, splits=("train", "test"), classes=("cat", "dog"), size=(6, 5), count=10):
    from PIL import Image

    for split in splits:
        for label, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                color = (label * 100 + i, i, 7)
                Image.new("RGB", size, color).save(folder / split / name / f"{i}.png")
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_reads_a_folder_or_a_tar_of_images(tmp_path, packed):
    source = pictures(tmp_path / "pets")
    (source / ".git" / "train" / ".hidden").mkdir(parents=True)
    (source / ".git" / "train" / ".hidden" / "x.png").write_bytes(b"no image")
    if packed:
        with tarfile.open(tmp_path / "pets.tar.xz", "w:xz") as archive:
            archive.add(source, "pets")
        source = tmp_path / "pets.tar.xz"
    for _ in range(2):  # prepared, then found prepared
        pets = data.load("pets", data_dir=source, cache_dir=tmp_path / "cache")
        assert pets.class_names == ["cat", "dog"]
        assert pets.input_shape == (5, 6, 3)
        assert [pets.size(split) for split in data.SPLITS] == [18, 2, 20]
        x, y = pets.images("test", 20)
        np.testing.assert_array_equal(x[:, 0, 0, 0] >= 100, y == 1)
    unpacked = tmp_path / "cache" / "image_folders"
    assert len(list(unpacked.iterdir())) == 1 if packed else not unpacked.exists()


def test_images_may_stand_deep_and_hidden_ones_are_left_out(tmp_path):
    source = pictures(tmp_path / "pets" / "photos" / "2024")
    pictures(tmp_path / "pets" / ".trash")
    (source / "train" / ".DS_Store").mkdir()
    (source / "train" / "cat" / ".thumbnail.png").write_bytes(b"no image")
    pets = data.load(tmp_path / "pets")
    assert [pets.size(split) for split in data.SPLITS] == [18, 2, 20]
    assert pets.class_names == ["cat", "dog"]


def test_calibration_images_are_a_random_part_that_stays_the_same(tmp_path):
    source = pictures(tmp_path / "pets", count=50)
    pets = data.load(source)
    labels = [int(y) for _, y in pets.calibrate.as_numpy_iterator()]
    assert len(labels) == 10
    assert set(labels) == {0, 1}
    again = data.load(source)
    np.testing.assert_array_equal(again.arrays("calibrate")[0], pets.arrays("calibrate")[0])


def test_nothing_of_a_tar_file_leaves_its_folder(tmp_path):
    source = pictures(tmp_path / "pets")
    with tarfile.open(tmp_path / "pets.tar", "w") as archive:
        archive.add(source, "pets")
        archive.add(source / "train" / "cat" / "0.png", "../../outside.png")
    with pytest.raises(ValueError, match="must be a folder or a tar file.*outside.png leads out"):
        data.load(tmp_path / "pets.tar", cache_dir=tmp_path / "cache" / "deep")
    assert not list(tmp_path.rglob("outside.png"))
    assert not (tmp_path / "cache").exists()


def test_limits_and_resizes(tmp_path):
    source = pictures(tmp_path / "pets")
    pets = data.load("pets", data_dir=source, cache_dir=tmp_path, image_size=(4, 4), train_limit=7)
    assert pets.input_shape == (4, 4, 3)
    assert pets.size("train") == 7


@pytest.mark.parametrize(
    ("name", "flips"),
    [("mnist", False), ("svhn_cropped", False), ("fashion_mnist", True), ("eurosat", True)],
)
def test_digits_and_letters_of_any_name_are_not_mirrored(name, flips):
    assert reading._may_mirror(name, ["0", "1"]) is flips


@pytest.mark.slow
@pytest.mark.parametrize(("name", "flips"), [("mnist", False), ("fashion_mnist", True)])
def test_named_data_is_mirrored_as_its_name_says(name, flips):
    with tfds.testing.mock_data(num_examples=20):
        assert data.load(name).flips is flips
        assert data.load(name, flips=not flips).flips is not flips
        assert data.load(name, calibrate=0.2, image_size=16).input_shape == (16, 16, 1)


def test_parts_of_named_data_are_asked_for(monkeypatch):
    class Builder:
        info = type("Info", (), {"features": {"label": type("Label", (), {"names": []})}})
        info.splits = {"train": type("Split", (), {"num_examples": 3000})}

        def as_dataset(self, split, as_supervised):
            return split

    def parts(calibrate):
        return reading._three_splits(Builder(), "test", calibrate)[:2]

    assert parts(None) == ("train[:90%]", "train[90%:]")
    assert parts(0.25) == ("train[:75%]", "train[75%:]")
    assert parts(0.001) == ("train[:-3]", "train[-3:]")
    assert parts(500) == ("train[:-500]", "train[-500:]")


def test_named_data_goes_through_tensorflow_datasets():
    with tfds.testing.mock_data(num_examples=20):
        cifar = data.load("cifar10")
        assert cifar.flips
        assert cifar.input_shape == (32, 32, 3)
        assert len(cifar.class_names) == 10
        x, y = cifar.arrays("test")
    assert x.shape == (20, 32, 32, 3)
    assert y.max() < 10


@pytest.mark.parametrize(
    ("name", "shape", "classes", "split"),
    [
        pytest.param("cifar100", (32, 32, 3), 100, "test", marks=pytest.mark.slow),
        pytest.param("imagenet2012", (224, 224, 3), 1000, "validation", marks=pytest.mark.slow),
        ("downsampled_imagenet/32x32", (32, 32, 3), 1000, "validation"),
    ],
)
def test_results_come_from_the_split_with_labels(name, shape, classes, split, monkeypatch):
    asked = []
    with tfds.testing.mock_data(num_examples=6), monkeypatch.context() as patch:
        mocked = tfds.core.DatasetBuilder.as_dataset

        def as_dataset(self, split=None, **how):
            asked.append((self.name, split))
            return mocked(self, split=split, **how)

        patch.setattr(tfds.core.DatasetBuilder, "as_dataset", as_dataset)
        found = data.load(name)
        assert found.input_shape == shape
        assert len(found.class_names) == classes
        x, y = found.images("test", 2)
        assert x.shape == (2, *shape)
        assert x.dtype == "uint8"
        for augmentation in ("resized_crop_flip", "pad_crop_flip"):
            batches = found.batches("train", 2, training=True, augmentation=augmentation)
            assert next(iter(batches))[0].shape == (2, *shape)
    assert asked[-1][1] == split
    assert asked[0][0] == name.split("/")[0].replace("downsampled_imagenet", "imagenet_resized")


def test_photographs_are_scaled_by_their_shorter_side_and_cut_around_the_middle():
    height, width = 100, 200
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, 0 * rows], axis=-1).astype("uint8")
    photos = tf.data.Dataset.from_tensors((image, 0))
    cut = next(iter(reading._of_one_size(photos, (56, 56), 64 / 56)))[0].numpy().astype(float)
    assert cut.shape == (56, 56, 3)
    scale = 64 / 100  # the shorter side becomes 64, and 4 of 64 go on each side
    expected_rows = (np.arange(56) + 4 + 0.5) / scale - 0.5
    expected_columns = (np.arange(56) + (128 - 56) // 2 + 0.5) / scale - 0.5
    np.testing.assert_allclose(cut[:, 20, 0], expected_rows, atol=1)
    np.testing.assert_allclose(cut[20, :, 1], expected_columns, atol=1)


def test_a_path_comes_first(tmp_path, monkeypatch):
    pictures(tmp_path / "pets")
    pets = data.load(str(tmp_path / "pets"), cache_dir=tmp_path / "cache", image_size=4)
    assert pets.input_shape == (4, 4, 3)
    assert pets.flips
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10").mkdir()  # a known name stays a name
    with tfds.testing.mock_data(num_examples=20):
        assert len(data.load("cifar10").class_names) == 10
    with pytest.raises(ValueError, match="`data_dir` must exist"):
        data.load(tmp_path / "missing")


@pytest.mark.parametrize("size", [0, (4,), (4, -1), 2.5, "64", True, (4, 4, 3)])
def test_rejects_impossible_sizes(size):
    with pytest.raises(ValueError, match="Received: image_size="):
        data.load("digits", image_size=size)


def test_integers_of_numpy_are_taken():
    asked = {"image_size": (np.int64(6), np.int32(4)), "train_limit": np.int64(7)}
    digits = data.load("digits", **asked)
    assert digits.input_shape == (6, 4, 1)
    assert digits.size("train") == 7
    assert data.load("digits", image_size=np.int64(4)).input_shape == (4, 4, 1)
    assert data.load("digits", image_size=np.array([4, 6])).input_shape == (4, 6, 1)
    assert len(digits.images("test", np.int64(3))[0]) == 3
    assert len(next(iter(digits.batches("test", np.int64(5))))[0]) == 5


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True])
def test_rejects_impossible_counts(digits, wrong):
    with pytest.raises(ValueError, match="`train_limit` must be an integer of at least 1"):
        data.load("digits", train_limit=wrong)
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1"):
        digits.batches("test", wrong)
    with pytest.raises(ValueError, match="`count` must be an integer of at least 1"):
        digits.images("test", wrong)


def test_without_a_network_the_error_comes_soon_and_says_what_to_do(tmp_path, monkeypatch):
    import requests
    from tensorflow_datasets.core.download import downloader

    tried = []

    def no_network(self, method, url, **how):
        tried.append(downloader.MAX_RETRIES)
        raise requests.exceptions.ConnectionError("no route")

    before = downloader.MAX_RETRIES
    monkeypatch.setattr(requests.Session, "request", no_network)
    with pytest.raises(ValueError, match="give `data_dir`.*name=cifar10 .ConnectionError: no rou"):
        data.load("cifar10", cache_dir=tmp_path)
    assert set(tried) == {reading.RETRIES}
    assert before == downloader.MAX_RETRIES > reading.RETRIES


def test_archives_fetched_by_hand_are_asked_for(tmp_path):
    with pytest.raises(ValueError, match="name=imagenet2012 .AssertionError: Manual directory"):
        data.load("imagenet2012", cache_dir=tmp_path)


def test_rejects_what_is_no_data(tmp_path):
    with pytest.raises(ValueError, match="`data_dir` must exist"):
        data.load("pets", data_dir=tmp_path / "missing")
    for name in ("/no/such/folder", "./pictures", "pets.tar.gz"):  # not a data set's name
        with pytest.raises(ValueError, match="no such folder or file. Received: data_dir="):
            data.load(name)
    for name in ("data_dir", "cache_dir"):
        with pytest.raises(
            TypeError, match=f"`{name}` must be a string or a path. Received: {name}=5"
        ):
            data.load("pets", **{name: 5})
    with pytest.raises(ValueError, match="`name` must be a path or the name of a data set"):
        data.load("")
    (tmp_path / "file.tar").write_text("not a tar")
    with pytest.raises(ValueError, match="must be a folder or a tar file"):
        data.load("pets", data_dir=tmp_path / "file.tar", cache_dir=tmp_path)
    pictures(tmp_path / "half", splits=("train",))
    with pytest.raises(ValueError, match="must hold images as test/<class>"):
        data.load("pets", data_dir=tmp_path / "half", cache_dir=tmp_path)
    with pytest.raises(ValueError, match="give `data_dir`.*Received: name=no_such_data_set"):
        data.load("no_such_data_set", cache_dir=tmp_path)


def test_mean_and_deviation_are_those_of_each_channel(rng):
    images = rng.integers(0, 256, (30, 4, 5, 3), dtype="uint8")
    images[..., 1] //= 3
    mean, std = reading._pixel_statistics(
        tf.data.Dataset.from_tensor_slices((images, np.zeros(30)))
    )
    np.testing.assert_allclose(mean, images.mean((0, 1, 2)) / 255)
    np.testing.assert_allclose(std, images.std((0, 1, 2)) / 255)
