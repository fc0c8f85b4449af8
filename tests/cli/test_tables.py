"""Tables show names as they are, and numbers to the right."""

from keras_adaptive.cli import tables


def test_nothing_is_broken_or_taken_for_markup(capsys):
    names = ["[red]" + "a" * 300, "b"]
    tables.show("title", ("name", "count[lr=0.1][/x]"), [(names[0], 5), (names[1], 1234)])
    title, _, head, _, first, second, *_ = capsys.readouterr().out.splitlines()
    assert title.strip() == "title"
    assert head.split() == ["name", "count[lr=0.1][/x]"]
    assert first.split() == [names[0], "5"]
    assert second.split() == ["b", "1234"]
    assert first.rstrip().endswith("5")
    assert second.rstrip().endswith("1234")
    assert len(first.rstrip()) == len(second.rstrip())
