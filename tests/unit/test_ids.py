"""Ids and names: what a string must be to become one."""

import pytest

from nodectl.ids import ID_BYTES, checked_name, id_from_hex


def test_an_id_goes_to_text_and_back() -> None:
    value = bytes(range(ID_BYTES))
    assert id_from_hex(value.hex()) == value


@pytest.mark.parametrize(
    "text",
    ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n", " " + "0" * 63, "\u0660" * 64],
)
def test_anything_but_64_lower_case_digits_is_no_id(text: str) -> None:
    with pytest.raises(ValueError, match="not an id"):
        id_from_hex(text)


@pytest.mark.parametrize("text", ["a", "9", "node-01.rack_2", "A" * 63])
def test_usable_names_pass_unchanged(text: str) -> None:
    assert checked_name(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "A" * 64, ".", "..", ".a", "-a", "_a", "a/b", "a b", "a\n", "ä", "a\0", "a:b", "../a"],
)
def test_names_unsafe_in_a_path_url_or_table_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a usable name"):
        checked_name(text)


def test_a_refusal_shows_no_more_than_a_line_of_what_came() -> None:
    with pytest.raises(ValueError, match="not a usable name") as caught:
        checked_name("x" * 100_000)
    assert len(str(caught.value)) < 300
