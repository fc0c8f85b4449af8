import tarfile

import numpy as np
import pytest

from keras_adaptive import data

tfds = pytest.importorskip("tensorflow_datasets", reason="the data extra is not installed")


def test_digits_come_in_three_splits_that_share_nothing(digits):
    images = {
        s: [x.tobytes() for x, _ in getattr(digits, s).as_numpy_iterator()] for s in data.SPLITS
    }
    assert [len(images[s]) for s in data.SPLITS] == [digits.size(s) for s in data.SPLITS]
    assert sum(map(len, images.values())) == 1797
    everything = [image for s in data.SPLITS for image in set(images[s])]
    assert len(everything) == len(set(everything))


def test_training_pixels_are_standardised(digits):
    x, y = digits.arrays("train")
    assert x.dtype == "float32"
    assert x.mean() == pytest.approx(0, abs=1e-4)
    assert x.std() == pytest.approx(1, abs=1e-3)
    assert set(y) == set(range(10))


def test_digits_are_not_mirrored():
    assert not data.load("digits").flips


def test_training_batches_are_shuffled_and_moved_others_are_not(digits):
    x, y = digits.arrays("train")
    training = next(iter(digits.batches("train", 64, training=True)))
    plain = next(iter(digits.batches("train", 64)))
    np.testing.assert_array_equal(plain[0], x[:64])
    assert training[0].shape == (64, 8, 8, 1)
    assert not np.array_equal(training[1], y[:64])
    shifted = sum(any(np.array_equal(image, one) for one in x) for image in training[0].numpy())
    assert shifted < 64


def pictures(folder, splits=("train", "test"), classes=("cat", "dog"), size=(6, 5), count=10):
    from PIL import Image

    for split in splits:
        for label, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                colour = (label * 100 + i, i, 7)
                Image.new("RGB", size, colour).save(folder / split / name / f"{i}.png")
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
    assert len(list((tmp_path / "cache" / "image_folders").iterdir())) == 1


def test_limits_and_resizes(tmp_path):
    source = pictures(tmp_path / "pets")
    pets = data.load("pets", data_dir=source, cache_dir=tmp_path, image_size=(4, 4), train_limit=7)
    assert pets.input_shape == (4, 4, 3)
    assert pets.size("train") == 7


def test_named_data_goes_through_tensorflow_datasets():
    with tfds.testing.mock_data(num_examples=20):
        cifar = data.load("cifar10")
        assert cifar.input_shape == (32, 32, 3)
        assert len(cifar.class_names) == 10
        x, y = cifar.arrays("test")
    assert x.shape == (20, 32, 32, 3)
    assert y.max() < 10


def test_rejects_what_is_no_data(tmp_path):
    with pytest.raises(ValueError, match="`data_dir` must exist"):
        data.load("pets", data_dir=tmp_path / "missing")
    (tmp_path / "file.tar").write_text("not a tar")
    with pytest.raises(ValueError, match="must be a folder or a tar file"):
        data.load("pets", data_dir=tmp_path / "file.tar", cache_dir=tmp_path)
    pictures(tmp_path / "half", splits=("train",))
    with pytest.raises(ValueError, match="must hold images as test/<class>"):
        data.load("pets", data_dir=tmp_path / "half", cache_dir=tmp_path)
    with pytest.raises(ValueError, match="give `data_dir`.*Received: name=no_such_data_set"):
        data.load("no_such_data_set", cache_dir=tmp_path)


def test_rejects_unknown_split(digits):
    with pytest.raises(ValueError, match="Received: split=validation"):
        digits.size("validation")


def test_augmentations_keep_size_and_kind(digits):
    for augmentation in data.AUGMENTATIONS:
        batches = digits.batches("train", 8, training=True, augmentation=augmentation)
        images, labels = next(iter(batches))
        assert images.shape == (8, 8, 8, 1)
        assert labels.shape == (8,)
        assert np.isfinite(images).all()
    with pytest.raises(ValueError, match="`augmentation` must be one of.*Received: .*spin"):
        digits.batches("train", training=True, augmentation="spin")


def test_without_augmentation_training_images_are_as_they_are(digits):
    x, _ = digits.arrays("train")
    plain = digits.batches("train", 64, training=True, augmentation=None)
    known = {image.tobytes() for image in x}
    assert all(image.tobytes() in known for image in next(iter(plain))[0].numpy())
