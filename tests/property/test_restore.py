"""Real trees on disk, for many shapes: captured, restored and captured again they are the same."""

import os
import shutil
import tempfile
from pathlib import Path

from content_lab import ContentLab
from hypothesis import given, settings
from hypothesis import strategies as st

BLOCK = 4096
MIB = 1 << 20

names = st.binary(min_size=1, max_size=4).filter(
    lambda name: name not in {b".", b".."} and not set(name) & set(b"\0/")
)
# Pieces at offsets; what lies between is a hole.
contents = st.lists(
    st.tuples(
        st.sampled_from([0, 1, BLOCK, 5 * BLOCK, MIB - BLOCK, MIB, 3 * MIB]),
        st.sampled_from([(b"x", 1), (b"words ", 700), (b"\0", BLOCK), (b"\xff", MIB + 1)]),
    ),
    max_size=3,
)
leaves = st.one_of(
    st.tuples(st.just("file"), contents, st.sampled_from([0, 0, 2 * MIB + 7])),
    st.tuples(st.just("link"), names, st.just(0)),
    st.tuples(st.just("fifo"), st.none(), st.just(0)),
    st.tuples(st.just("hard"), st.none(), st.just(0)),
)
shapes = st.recursive(
    st.dictionaries(names, leaves, min_size=1, max_size=4),
    lambda inner: st.dictionaries(names, leaves | inner, min_size=1, max_size=4),
    max_leaves=12,
)


def _make(folder: Path, shape: object, files: list[Path]) -> None:
    assert isinstance(shape, dict)
    for number, (name, what) in enumerate(sorted(shape.items(), key=lambda item: item[0])):
        path = folder / os.fsdecode(name)
        if isinstance(what, dict):
            path.mkdir()
            _make(path, what, files)
            path.chmod(0o700 + number)
        else:
            _make_leaf(path, what, files)
        if not path.is_symlink():
            os.setxattr(path, "user.n", b"%d" % number) if not path.is_fifo() else None
        os.utime(path, ns=(0, number * 1_000_000_007), follow_symlinks=False)


def _make_leaf(path: Path, what: tuple[str, object, int], files: list[Path]) -> None:
    kind, detail, longer = what
    if kind == "link":
        path.symlink_to(os.fsdecode(detail))
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "hard" and files:
        os.link(files[-1], path)
    else:
        with path.open("wb") as file:
            for offset, (piece, times) in detail or []:
                file.seek(offset, os.SEEK_CUR)
                file.write(piece * times)
            file.truncate(file.tell() + longer)
        files.append(path)


@settings(deadline=None, max_examples=12)
@given(shapes, shapes)
def test_a_tree_comes_back_whatever_stood_there(shape: object, other: object) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        lab = ContentLab(folder / "lab")
        for name, one in (("tree", shape), ("copy", other)):
            (folder / name).mkdir()
            _make(folder / name, one, [])
        report = lab.capture(folder / "tree")
        assert lab.capture(folder / "tree").root == report.root
        # Into nothing, and over another tree.
        for name in ("fresh", "copy"):
            lab.restore(report.root, folder / name)
            assert lab.capture(folder / name).root == report.root
            assert lab.verify(report.root, folder / name).differences == ()
        assert lab.restore(report.root, folder / "copy", deep=True).written_files == 0
        lab.store.close()
    finally:
        shutil.rmtree(folder)
