"""Errors: one sentence, a next step, a status. Their exit codes: tests/test_house.py."""

import pytest

from nodectl.errors import DiskBusy, NodectlError


def test_an_error_is_its_sentence() -> None:
    error = DiskBusy("/dev/sda is mounted on /", hint="unmount it")
    assert str(error) == "/dev/sda is mounted on /"
    assert error.hint == "unmount it"
    assert error.exit_code == 51


def test_a_hint_may_be_absent() -> None:
    assert DiskBusy("/dev/sda is in use").hint == ""


def test_every_error_of_ours_can_be_caught_as_one() -> None:
    with pytest.raises(NodectlError):
        raise DiskBusy("/dev/sda is in use")
