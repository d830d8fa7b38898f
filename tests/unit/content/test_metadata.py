"""Owner, mode, times and attributes: set, compared, and what a plain user leaves out."""

import os
import stat
from pathlib import Path

import pytest

from nodectl.content.beneath import Beneath
from nodectl.content.manifest import Entry, Kind
from nodectl.content.metadata import (
    Powers,
    differences,
    same_type,
    set_on_descriptor,
    set_on_name,
    set_xattrs,
)
from nodectl.content.reading import read_xattrs

USER = Powers(owner=False, all_xattrs=False, devices=False)
NS = 1_600_000_000_123_456_789


def entry(kind: Kind = Kind.FILE, **fields: object) -> Entry:
    own = Entry(b"f", kind, 0o640, os.geteuid(), os.getegid(), NS)
    return own._replace(**fields)


def put(path: Path, wanted: Entry, powers: Powers) -> os.stat_result:
    fd = os.open(path, os.O_RDONLY)
    set_on_descriptor(fd, wanted, powers)
    os.close(fd)
    return path.stat()


def test_what_is_set_on_a_file_is_there(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    os.setxattr(path, "user.old", b"o")
    wanted = entry(xattrs=((b"user.a", b"1"), (b"user.b", b"")))
    powers = Powers.of_this_process()
    status = put(path, wanted, powers)
    assert differences(wanted, status, read_xattrs(os.fsencode(path)), powers) == []
    assert sorted(os.listxattr(path)) == ["user.a", "user.b"]


@pytest.mark.root
def test_set_id_bits_outlive_the_change_of_owner(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    status = put(path, entry(uid=1234, gid=4321, mode=0o6755), Powers.of_this_process())
    assert (status.st_uid, status.st_gid) == (1234, 4321)
    assert stat.S_IMODE(status.st_mode) == 0o6755


def test_a_plain_user_sets_and_compares_what_a_plain_user_can(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    xattrs = ((b"security.capability", b"c"), (b"trusted.t", b"t"), (b"user.a", b"1"))
    wanted = entry(uid=1, gid=1, xattrs=xattrs)
    status = put(path, wanted, USER)
    assert status.st_uid == os.geteuid()
    assert os.listxattr(path) == ["user.a"]
    assert differences(wanted, status, read_xattrs(os.fsencode(path)), USER) == []
    root = Powers(owner=True, all_xattrs=True, devices=True)
    assert len(differences(wanted, status, ((b"user.a", b"1"),), root)) == 2


def test_each_difference_is_named(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    status = put(path, entry(), USER)
    for wanted, word in (
        (entry(mode=0o600), "mode 0640, not 0600"),
        (entry(mtime_ns=NS + 1), f"mtime {NS} ns, not {NS + 1} ns"),
        (entry(xattrs=((b"user.a", b""),)), "extended attributes"),
    ):
        assert differences(wanted, status, (), USER) == [word]
    root = Powers(owner=True, all_xattrs=True, devices=True)
    owner = f"owner {status.st_uid}:{status.st_gid}"
    assert differences(entry(uid=77), status, (), root) == [f"{owner}, not 77:{status.st_gid}"]


@pytest.mark.parametrize("kind", [Kind.SYMLINK, Kind.FIFO])
def test_links_and_fifos_get_theirs_by_name(tmp_path: Path, kind: Kind) -> None:
    (tmp_path / "victim").write_bytes(b"v")
    before = (tmp_path / "victim").stat()
    if kind == Kind.SYMLINK:
        (tmp_path / "f").symlink_to("victim")
    else:
        os.mkfifo(tmp_path / "f")
    with Beneath(tmp_path) as beneath:
        set_on_name(beneath, entry(kind, mode=0o604), Powers.of_this_process())
    status = (tmp_path / "f").lstat()
    assert differences(entry(kind, mode=0o604), status, (), USER) == []
    after = (tmp_path / "victim").stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


def test_times_before_1970_and_far_ahead(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"")
    for mtime_ns in (-5_000_000_001, 0, 4_000_000_000_000_000_001):
        assert put(path, entry(mtime_ns=mtime_ns), USER).st_mtime_ns == mtime_ns


def test_attributes_that_are_right_are_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"")
    set_xattrs(os.fsencode(path), ((b"user.a", b"1"),), USER)
    ctime = path.stat().st_ctime_ns
    set_xattrs(os.fsencode(path), ((b"user.a", b"1"),), USER)
    assert path.stat().st_ctime_ns == ctime


def test_types(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    os.mkfifo(tmp_path / "p")
    (tmp_path / "l").symlink_to("f")
    stats = {
        Kind.FILE: (tmp_path / "f").lstat(),
        Kind.FIFO: (tmp_path / "p").lstat(),
        Kind.SYMLINK: (tmp_path / "l").lstat(),
        Kind.DIRECTORY: tmp_path.lstat(),
        Kind.CHAR: Path("/dev/null").lstat(),
    }
    null = os.makedev(1, 3)
    for kind in Kind:
        found = [
            other for other, status in stats.items() if same_type(entry(kind, size=null), status)
        ]
        assert found == ([kind] if kind in stats else [])
    assert not same_type(entry(Kind.CHAR, size=null + 1), stats[Kind.CHAR])
