import struct

import pytest

from nodectl.zipapp.pack import deflate, strip_native


def library(*, debug: bytes) -> bytes:
    """Return an ELF file with one segment of 100 bytes, debug bytes and a section table."""
    header = bytearray(64)
    header[:6] = b"\x7fELF\2\1"
    struct.pack_into("<Q", header, 32, 64)  # program headers right behind
    struct.pack_into("<HH", header, 54, 56, 1)
    struct.pack_into("<Q", header, 40, 64 + 56 + 100 + len(debug))  # section table
    struct.pack_into("<HHH", header, 58, 64, 3, 2)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 120, 0, 0, 100, 100, 4096)
    return bytes(header) + segment + b"S" * 100 + debug + b"section table"


def test_only_what_segments_hold_is_left() -> None:
    slim = strip_native(library(debug=b"D" * 5000))
    assert len(slim) == 64 + 56 + 100
    assert slim.endswith(b"S" * 100)


def test_nobody_looks_for_the_lost_section_table() -> None:
    slim = strip_native(library(debug=b"D"))
    assert struct.unpack_from("<Q", slim, 40) == (0,)
    assert struct.unpack_from("<HH", slim, 60) == (0, 0)


def test_debug_symbols_do_not_change_the_result() -> None:
    assert strip_native(library(debug=b"one")) == strip_native(library(debug=b"two, longer"))


@pytest.mark.parametrize("data", [b"", b"MZ", b"\x7fELF\1\1" + bytes(60)])
def test_what_is_no_64_bit_library_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="ELF"):
        strip_native(data)


def test_what_does_not_shrink_is_stored() -> None:
    assert deflate(b"x") == b"x"
    assert len(deflate(b"x" * 1000)) < 50
