"""Restoring what no capture would write, and into what somebody changes: nothing leaves the target.

The manifests here are made without the writer, as a member of the realm could who keeps to no rule.
"""

import contextlib
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from content_lab import CODEC, ContentLab, listing

from nodectl.content.format import encode_part
from nodectl.content.frame import FrameRef
from nodectl.content.manifest import RECORD_CHUNKS_MAX, Entry, Kind
from nodectl.content.writing import temporary_path
from nodectl.errors import ContentInvalid, NoSpace, UnsafePath
from nodectl.units import MIB

ROOT = Entry(b"", Kind.DIRECTORY, 0o755)
REFUSED = (ContentInvalid, UnsafePath)

pytestmark = pytest.mark.usefixtures("outside")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[ContentLab]:
    one = ContentLab(tmp_path / "lab")
    one.seal(b"evil")
    one.seal(bytes(MIB))
    yield one
    one.store.close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "around" / "target"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def outside(target: Path) -> Iterator[Path]:
    """Yield a folder beside the target; nothing around the target may change."""
    path = target.parent / "outside"
    path.mkdir()
    (path / "passwd").write_bytes(b"root")
    (path / "empty").mkdir()
    os.utime(path, ns=(1, 1))
    os.utime(path / "passwd", ns=(2, 2))
    before, etc = listing(path), Path("/etc/passwd").stat()
    yield path
    assert listing(path) == before
    assert sorted(one.name for one in target.parent.iterdir()) == ["outside", "target"]
    now = Path("/etc/passwd").stat()
    assert (now.st_ino, now.st_mode, now.st_nlink, now.st_mtime_ns) == (
        etc.st_ino,
        etc.st_mode,
        etc.st_nlink,
        etc.st_mtime_ns,
    )


def d(path: bytes) -> Entry:
    return Entry(path, Kind.DIRECTORY, 0o755)


def link(path: bytes, target: bytes) -> Entry:
    return Entry(path, Kind.SYMLINK, 0o777, target=target)


def hard(path: bytes, target: bytes) -> Entry:
    return Entry(path, Kind.LINK, target=target)


def sealed(plain: bytes) -> FrameRef:
    return CODEC.seal(plain, CODEC.chunk_id(plain)).ref


EVIL, MEBIBYTE = sealed(b"evil"), sealed(bytes(MIB))


def f(path: bytes) -> Entry:
    return Entry(path, Kind.FILE, 0o644, size=4, chunks=(EVIL,))


LARGE = [Entry(b"!large", Kind.FILE, 0o644, size=MIB + 4, chunks=(MEBIBYTE, EVIL))]


OUT = b"../outside"

MANIFESTS: dict[str, list[Entry]] = {
    "absolute": [ROOT, f(b"/tmp/nodectl-evil")],
    "parent": [ROOT, f(OUT + b"/evil")],
    "parent inside": [ROOT, d(b"a"), f(b"a/../../outside/evil")],
    "parent directory": [ROOT, d(b"..")],
    "dot": [ROOT, f(b".")],
    "dot inside": [ROOT, d(b"a"), f(b"a/./b")],
    "empty component": [ROOT, d(b"a"), f(b"a//b")],
    "ends in slash": [ROOT, f(b"a/")],
    "NUL": [ROOT, f(b"a\0b")],
    "256 bytes": [ROOT, f(b"n" * 256)],
    "long path": [ROOT, f(b"a/" * 20_000 + b"a")],
    "file as root": [f(b"")],
    "link as root": [link(b"", OUT)],
    "no root": [d(b"a"), f(b"a/evil")],
    "through a link": [ROOT, link(b"l", OUT), f(b"l/evil")],
    "link, then directory": [ROOT, link(b"l", OUT), d(b"l"), f(b"l/evil")],
    "directory, then link": [ROOT, d(b"l"), link(b"l", OUT), f(b"l/evil")],
    "through a deep link": [ROOT, d(b"a"), link(b"a/l", b"../" + OUT), f(b"a/l/e")],
    "hard link up": [ROOT, hard(b"h", OUT + b"/passwd")],
    "hard link to etc": [ROOT, hard(b"h", b"../../../../../../../../etc/passwd")],
    "hard link to absolute": [ROOT, hard(b"h", b"/etc/passwd")],
    "hard link through a link": [ROOT, hard(b"h", b"l/passwd"), link(b"l", OUT)],
    "hard link to nothing": [ROOT, hard(b"h", b"nothing")],
    "hard link to a directory": [ROOT, d(b"a"), hard(b"h", b"a")],
    "hard link to the root": [ROOT, hard(b"h", b"")],
    "hard link to itself": [ROOT, hard(b"h", b"h")],
    "hard link below a file": [ROOT, f(b"a"), hard(b"h", b"a/b")],
    "twice": [ROOT, f(b"a"), f(b"a")],
    "out of order": [ROOT, f(b"b"), f(b"a")],
    "below a file": [ROOT, f(b"a"), f(b"a/b")],
    "below a fifo": [ROOT, Entry(b"a", Kind.FIFO), f(b"a/b")],
    "below a hard link": [ROOT, d(b"a"), hard(b"h", b"a"), f(b"h/b")],
    "MORE alone": [ROOT, f(b"a")._replace(kind=Kind.MORE)],
    "MORE of another": [ROOT, f(b"a"), f(b"b")._replace(kind=Kind.MORE)],
    "size of 2^61": [ROOT, f(b"a")._replace(size=1 << 61)],
    "size of 2^63": [ROOT, Entry(b"a", Kind.FILE, size=1 << 63)],
    "size and two chunks": [
        ROOT,
        Entry(b"a", Kind.FILE, size=1 << 61, chunks=(MEBIBYTE,) * 2),
    ],
    "extent of 2^61": [
        ROOT,
        f(b"a")._replace(size=1 << 61, extents=((0, 1 << 61),)),
    ],
    "extent behind the end": [
        ROOT,
        Entry(b"a", Kind.FILE, size=5, extents=((4096, 4),), chunks=(EVIL,)),
    ],
    "mode": [ROOT, f(b"a")._replace(mode=0o10644)],
    "owner of nobody": [ROOT, f(b"a")._replace(uid=(1 << 32) - 1)],
    "kind 0": [ROOT, Entry(b"a", 0)],
    "kind 77": [ROOT, Entry(b"a", 77)],
    "device number": [ROOT, Entry(b"a", Kind.CHAR, size=1 << 40)],
    "temporary name": [ROOT, f(temporary_path(b"!large")), *LARGE],
    "temporary link": [ROOT, *LARGE, link(temporary_path(b"!large"), OUT + b"/passwd")],
}


@pytest.mark.parametrize("name", MANIFESTS)
@pytest.mark.parametrize("before", ["nothing", "links", "files"])
def test_hostile_manifests_are_refused(
    lab: ContentLab, target: Path, outside: Path, name: str, before: str
) -> None:
    if before == "links":  # whatever an entry is called, a link out stands there already
        for one in ("a", "b", "h", "l", "!large", os.fsdecode(temporary_path(b"!large"))):
            (target / one).symlink_to(outside)
    elif before == "files":
        (target / "a").mkdir()
        (target / "a" / "b").write_bytes(b"old")
        (target / "l").symlink_to(outside / "passwd")
        (target / "h").write_bytes(b"old")
    root = lab.forge([MANIFESTS[name]])
    with pytest.raises(REFUSED):
        lab.restore(root, target)


def test_a_size_that_no_file_system_takes_is_refused(lab: ContentLab, target: Path) -> None:
    """Its first record may be right (more could follow): then the file system says it."""
    refs = (lab.seal(bytes(MIB)),) * RECORD_CHUNKS_MAX
    huge = Entry(b"a", Kind.FILE, 0o644, size=1 << 61, chunks=refs)
    with pytest.raises((ContentInvalid, NoSpace)):
        lab.restore(lab.forge([[ROOT, huge]]), target)


@pytest.mark.parametrize("before", ["links", "files", "nothing"])
def test_links_that_stand_in_the_way_are_replaced_not_followed(
    lab: ContentLab, target: Path, outside: Path, before: str
) -> None:
    names = ("a", "b", "c", "d", "e")
    if before == "links":
        for one in names:
            (target / one).symlink_to(outside / ("passwd" if one != "a" else "empty"))
    elif before == "files":
        for one in names:
            os.link(outside / "passwd", target / one) if one == "b" else (target / one).mkdir()
        (target / "b").unlink()  # a hard link would change the link count outside
    entries = [
        ROOT,
        d(b"a"),
        f(b"b"),
        Entry(b"c", Kind.FIFO, 0o600),
        link(b"d", b"../outside/passwd"),
        hard(b"e", b"b"),
        f(b"a/x"),
    ]
    lab.restore(lab.forge([entries]), target)
    assert (target / "a" / "x").read_bytes() == b"evil"
    assert (target / "b").read_bytes() == b"evil"
    assert (target / "b").stat().st_ino == (target / "e").stat().st_ino
    assert str((target / "d").readlink()) == "../outside/passwd"
    assert lab.restore(lab.forge([entries]), target).written_files == 0


def test_a_hard_link_to_a_symbolic_link_does_not_follow_it(lab: ContentLab, target: Path) -> None:
    entries = [ROOT, link(b"l", b"../outside/passwd"), hard(b"m", b"l")]
    lab.restore(lab.forge([entries]), target)
    assert str((target / "m").readlink()) == "../outside/passwd"


def test_chunks_that_are_not_what_the_manifest_says_are_never_written(
    lab: ContentLab, target: Path
) -> None:
    good, other = lab.seal(b"good"), lab.seal(b"evil")
    lie = good._replace(frame_id=other.frame_id)
    root = lab.forge([[ROOT, Entry(b"a", Kind.FILE, size=4, chunks=(lie,))]])
    with pytest.raises(ContentInvalid):
        lab.restore(root, target)
    assert not (target / "a").exists()


@pytest.mark.parametrize(
    ("place", "value"), [(n, v) for n in range(6) for v in (0xFFFFFFFF, 1 << 24)]
)
def test_parts_whose_counts_lie_are_refused(
    lab: ContentLab, target: Path, place: int, value: int
) -> None:
    part = bytearray(encode_part([ROOT, f(b"a")]))
    struct.pack_into("<I", part, 4 + 4 * place, value)
    with pytest.raises(ContentInvalid):
        lab.restore(lab.forge([bytes(part)], count=2), target)


@pytest.mark.parametrize("count", [0, 1, 3, (1 << 64) - 1])
def test_a_wrong_number_of_entries_is_refused(lab: ContentLab, target: Path, count: int) -> None:
    with pytest.raises(ContentInvalid, match="not complete"):
        lab.restore(lab.forge([[ROOT, f(b"a")]], count=count), target)


@pytest.mark.parametrize("head", [b"[]", b"{}", b'{"version":1,"excludes":[""]}', b"[" * 100_000])
def test_a_hostile_head_is_refused(lab: ContentLab, target: Path, head: bytes) -> None:
    with pytest.raises(ContentInvalid):
        lab.restore(lab.forge([[ROOT]], head=head), target)


def test_a_tree_deeper_than_the_stack_is_restored(lab: ContentLab, target: Path) -> None:
    """Hostile or not: 1,500 directories in each other are a tree like any other."""
    paths = [b"/".join([b"d"] * depth) for depth in range(1, 1500)]
    entries = [ROOT, *map(d, paths), f(paths[-1] + b"/f")]
    parts = [entries[first : first + 250] for first in range(0, len(entries), 250)]
    root = lab.forge(parts)
    lab.restore(root, target)
    assert lab.verify(root, target).differences == ()
    lab.restore(lab.forge([[ROOT, f(b"a")]]), target)
    assert sorted(one.name for one in target.iterdir()) == ["a"]


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("name", ["dir", "dir/inner"])
def test_a_directory_swapped_for_a_link_meanwhile_leads_nowhere(
    lab: ContentLab,
    target: Path,
    outside: Path,
    name: str,
    fresh: bool,  # noqa: FBT001
) -> None:
    """Somebody moves a directory away and puts a link there, again and again, while we write."""
    refs = [lab.seal(b"%d" % number * 50) for number in range(40)]

    def files(folder: bytes) -> list[Entry]:
        return [
            Entry(
                b"%s/%04d" % (folder, number),
                Kind.FILE,
                0o644,
                size=refs[number % 40].plain_len,
                chunks=(refs[number % 40],),
            )
            for number in range(700)
        ]

    entries = [
        ROOT, d(b"dir"), d(b"other"), *files(b"dir"), d(b"dir/inner"), *files(b"dir/inner"),
        *files(b"other"),
    ]  # fmt: skip
    entries[3:-1400] = sorted(entries[3:-1400])
    root = lab.forge([entries])
    done = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        place, away = target / name, target / "other" / "moved"
        while not done.is_set():
            try:
                place.rename(away)
                place.symlink_to(outside)
                swaps += 1
                place.unlink()
                away.rename(place)
            except OSError:  # it is not there yet, or the restore took our link away
                if away.exists() and not os.path.lexists(place):
                    away.rename(place)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(6):
            with contextlib.suppress(UnsafePath, OSError):
                lab.restore(root, target, fresh=fresh)
    finally:
        done.set()
        thread.join()
    assert swaps > 0
