"""Images in folders named by split and class, read by tensorflow_datasets."""

import hashlib
import io
import tarfile
from pathlib import Path


def datasets():
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            "Data other than the digits needs tensorflow_datasets: "
            "pip install 'keras_adaptive[data]'"
        ) from error
    return tensorflow_datasets


def cut(builder, evaluated="test"):
    """The last tenth of the train split becomes the calibrate split."""
    splits = [
        builder.as_dataset(split=split, as_supervised=True)
        for split in ("train[:90%]", "train[90%:]", evaluated)
    ]
    return *splits, list(builder.info.features["label"].names)


def local(source, cache_dir):
    if not source.exists():
        raise ValueError(
            f"`data_dir` must exist: there is no such folder or file. Received: data_dir={source}"
        )
    tfds = datasets()
    root = Path(cache_dir or tfds.core.constants.DATA_DIR).expanduser()
    folder = root / "image_folders" / _digest(source)
    prepared = list(folder.glob("image_folders/*/dataset_info.json"))
    if prepared:
        return cut(tfds.builder_from_directory(prepared[0].parent))

    found = {(split, label) for split, label, _, _ in images(source, read=False)}
    class_names = sorted({label for _, label in found})
    for split in ("train", "test"):
        if not any(part == split for part, _ in found):
            raise ValueError(
                f"`data_dir` must hold images as {split}/<class>/<image>. "
                f"Received: data_dir={source}, which has none"
            )

    class ImageFolders(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Images in folders named by split and class."""

        VERSION = tfds.core.Version("1.0.0")
        name = "image_folders"

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=class_names),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, _):
            return {split: self._generate_examples(split) for split in ("train", "test")}

        def _generate_examples(self, wanted):
            for _, label, name, content in images(source, only=wanted):
                yield f"{label}/{name}", {"image": io.BytesIO(content), "label": label}

    builder = ImageFolders(data_dir=str(folder))
    builder.download_and_prepare()
    return cut(builder)


def _digest(source):
    """Changes when the file or the folder's listing does."""
    facts = [str(source.resolve())]
    for path in [source] if source.is_file() else sorted(source.rglob("*")):
        stat = path.stat()
        facts.append(f"{path.name} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def images(source, only=None, read=True):
    """Yields `(split, class, file name, content)` from a folder or a tar file."""

    def place(parts):
        known = len(parts) >= 3 and parts[-3] in ("train", "test")
        visible = known and not any(part.startswith(".") for part in parts[-3:])
        return parts[-3:] if visible and only in (None, parts[-3]) else None

    if source.is_dir():
        for path in sorted(source.rglob("*")):
            where = place(path.relative_to(source).parts)
            if where and path.is_file():
                yield *where, path.read_bytes() if read else None
        return
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                where = place(Path(member.name).parts)
                if where and member.isfile():
                    yield *where, archive.extractfile(member).read() if read else None
    except tarfile.ReadError as error:
        raise ValueError(
            f"`data_dir` must be a folder or a tar file. Received: data_dir={source}"
        ) from error
