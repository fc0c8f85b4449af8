import pytest

from keras_adaptive._files import write_whole


def test_writes_text_and_bytes(tmp_path):
    write_whole(tmp_path / "a", "text")
    write_whole(tmp_path / "a", b"bytes")
    assert (tmp_path / "a").read_bytes() == b"bytes"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_whole(tmp_path / "a", "old")
    with pytest.raises(TypeError):
        write_whole(tmp_path / "a", 3)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_needs_a_folder(tmp_path):
    with pytest.raises(ValueError, match="folder of `path` must exist"):
        write_whole(tmp_path / "missing" / "a", "text")
