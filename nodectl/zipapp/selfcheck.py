"""Is this nodectl.pyz what was built? Members against the index, then the file as a whole.

This finds damage (a bad copy, a bad disk). It cannot find a forger, who would write a new index:
compare the build id with the one that was published for that.
"""

import hashlib
import re
from typing import NamedTuple

from nodectl.errors import SelfInvalid
from nodectl.zipapp.archive import Archive
from nodectl.zipapp.pack import ContentHash

_HEAD = re.compile(rb"#!/usr/bin/env python3\n# sha256 of what follows: ([0-9a-f]{64})\n")
_HEAD_MAX = 256
_BLOCK = 1 << 20
_HINT = "copy nodectl.pyz to this machine again"


class Checked(NamedTuple):
    """What was found to be whole."""

    members: int
    bytes_read: int  # of the file itself


def verify(archive: Archive) -> Checked:
    """Read the whole archive back and compare.

    Raises:
        SelfInvalid: a member, or the file around the members, is not what was built; the
            sentence names which.
    """
    content = ContentHash()
    for name in sorted(archive.members):
        content.add(name, _checked_member(archive, name))
    if content.build_id() != archive.build_id:
        raise SelfInvalid(f"the build id of {archive.path} does not fit its members", hint=_HINT)
    _check_file(archive)
    return Checked(len(archive.members), archive.size())


def _checked_member(archive: Archive, name: str) -> bytes:
    """Return a member's bytes when they are what the index says."""
    try:
        data = archive.read(name)
    except OSError as exc:
        raise SelfInvalid(f"{name} in {archive.path} is damaged", hint=_HINT) from exc
    if hashlib.sha256(data).hexdigest() != archive.members[name].sha256:
        raise SelfInvalid(f"{name} in {archive.path} is damaged", hint=_HINT)
    return data


def _check_file(archive: Archive) -> None:
    """Compare the whole file with the hash in its second line."""
    head = _HEAD.match(archive.read_raw(0, _HEAD_MAX))
    if head is None:
        raise SelfInvalid(f"the first two lines of {archive.path} are damaged", hint=_HINT)
    state, offset = hashlib.sha256(), head.end()
    while block := archive.read_raw(offset, _BLOCK):
        state.update(block)
        offset += len(block)
    if state.hexdigest() != head[1].decode():
        raise SelfInvalid(f"{archive.path} is damaged outside of its members", hint=_HINT)
