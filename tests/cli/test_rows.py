"""Tables keep their columns aligned, whatever letters are in them."""

from questlog.cli.rows import display_width, table_text


def test_wide_letters_take_two_columns() -> None:
    text = table_text(["name", "n"], [["剣", "1"], ["👨‍👩‍👧", "2"], ["ñu", "3"]], [False, True])
    assert [display_width(line) for line in text.splitlines()] == [7] * 5


def test_a_value_that_is_too_wide_is_cut_to_fit() -> None:
    text = table_text(["name", "n"], [["剣" * 30, "1"], ["x" * 60, "2"]], [False, True], width=24)
    assert [display_width(line) for line in text.splitlines()] == [24] * 4
    assert text.count("…") == 2
