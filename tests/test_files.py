import json
import re

import pytest

from keras_adaptive._files import LARGEST, read_json, reading, shown, write_whole


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


def test_needs_the_path_of_a_file(tmp_path):
    with pytest.raises(ValueError, match="`path` must be a file. .*, which is a folder"):
        write_whole(tmp_path, "a")
    with pytest.raises(TypeError, match="`path` must be a string or a path. Received: path=None"):
        write_whole(None, "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b"[1", "Expecting ',' delimiter"),
        (b"\xff", "can't decode"),
        (b"[" * 10**6, "nested more than 100 deep"),
        (b'{"a":' * 101, "nested more than 100 deep"),
        (b"[" + b"9" * 5000 + b"]", "an integer of 5000 digits"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "-Infinity"),
        (b'"' + b'\\"' * 10**6 + b"\\", "Unterminated string"),
        (b'"' + b"x" * 2000 + b'"', "more than 1,000 bytes"),
    ],
    ids=range(10),
)
def test_json_that_is_none_is_refused_by_name_before_it_costs_anything(tmp_path, content, reason):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    largest = 1000 if b"x" in content else LARGEST
    with pytest.raises(ValueError, match=re.escape(reason)) as refused:
        read_json(path, "A policy file", largest)
    assert str(refused.value).startswith(f"A policy file must hold JSON. Received: path={path} (")
    assert len(str(refused.value)) < 500


def test_brackets_in_strings_are_no_nesting(tmp_path):
    value = {"a": "[" * 500, 'b"{': ["\\", '\\"[[']}
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert read_json(tmp_path / "a.json", "It") == value


def test_what_goes_wrong_with_a_file_names_it_in_few_words(tmp_path):
    for error in (KeyError("a"), RecursionError(), OverflowError("big"), ValueError("x" * 30000)):
        with (
            pytest.raises(ValueError, match="It must be whole. Received: path=here ") as found,
            reading("here", "It must be whole"),
        ):
            raise error
        assert len(str(found.value)) < 300
    with pytest.raises(ValueError, match="^`a` of here"), reading("here", "It must be whole"):
        raise ValueError("`a` of here must be b")
    with pytest.raises(ValueError, match="which does not exist"), reading("here", "It must be"):
        (tmp_path / "missing").read_bytes()


def test_a_shown_value_is_short_and_printable():
    assert shown("a" * 300) == "a" * 197 + "..."
    assert shown("\x1b[31mred\n\u202eback") == "?[31mred ?back"
    assert shown(["a"]) == "['a']"
