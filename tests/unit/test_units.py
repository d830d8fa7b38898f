"""Sizes and durations, from and for people."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodectl.units import GIB, KIB, MIB, TIB, format_duration, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("512", 512),
        ("512B", 512),
        ("1k", KIB),
        ("64M", 64 * MIB),
        ("64 MiB", 64 * MIB),
        ("64mb", 64 * MIB),
        ("1.5 GiB", 3 * GIB // 2),
        (" 2T ", 2 * TIB),
        # Past 2**53 a float would round: whole numbers stay exact.
        ("9007199254740993", 9007199254740993),
        ("8796093022209T", 8796093022209 * TIB),
    ],
)
def test_sizes_are_read(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "M", "-1", "1P", "1 2", "1e3", "1,5G", "0x10", "1..5", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["0.5", "1.0001K"])
def test_a_fraction_of_a_byte_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whole number"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (KIB, "1 KiB"),
        (1500 * MIB, "1.46 GiB"),
        (999 * GIB, "999 GiB"),
        (5000 * TIB, "5000 TiB"),
    ],
)
def test_sizes_are_written_with_three_digits(size: int, expected: str) -> None:
    assert format_size(size) == expected


@settings(deadline=None, max_examples=200)
@given(st.integers(min_value=0, max_value=900 * TIB))
def test_a_written_size_is_right_within_its_digits(size: int) -> None:
    number, unit = format_size(size).split()
    factor = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}[unit]
    assert float(number) * factor == pytest.approx(size, rel=0.006)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, "0.00 s"),
        (0.844, "0.84 s"),
        (12.4, "12 s"),
        (59.4, "59 s"),
        (59.6, "1:00"),
        (185.0, "3:05"),
        (3599.7, "1:00:00"),
        (7629.0, "2:07:09"),
    ],
)
def test_durations_are_written_as_clocks(seconds: float, expected: str) -> None:
    assert format_duration(seconds) == expected
