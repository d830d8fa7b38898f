"""A store on a file system that takes no writes: its index is read through a copy.

SQLite reads an index that was not closed in order only where it may write beside it, and on such a
file system nothing can be made again from the packs. So the index is copied, with its log, into a
temporary folder, where all of that works; the packs are only ever read here. The copy is kept until
the process ends, and the workers that it forks use the same one.
"""

import atexit
import contextlib
import shutil
import tempfile
import threading
from pathlib import Path

from nodectl.errors import StoreInvalid

_Signature = tuple[tuple[int, int, int], ...]  # of each file: inode, size, mtime in ns
_copies: dict[Path, tuple[_Signature, Path]] = {}
_lock = threading.Lock()


def copied_index(index: Path) -> Path:
    """Return a copy of an index that may be written to; it need not be there or be sound.

    Raises:
        StoreInvalid: there is no place for it.
    """
    sources = (index, index.with_name(f"{index.name}-wal"))
    with _lock:
        signature = tuple(map(_signature, sources))
        known = _copies.get(index)
        if known is not None and known[0] == signature and known[1].parent.is_dir():
            return known[1]
        copy = _copied(sources)
        atexit.register(shutil.rmtree, copy.parent, ignore_errors=True)
        _copies[index] = (signature, copy)
        return copy


def _copied(sources: tuple[Path, ...]) -> Path:
    try:
        folder = Path(tempfile.mkdtemp(prefix="nodectl-index-"))
        for source in sources:
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(source, folder / source.name)
    except OSError as exc:
        raise StoreInvalid(
            f"the store in {sources[0].parent} is on a read-only file system, and its index cannot "
            f"be copied to where it can be used: {exc}",
            hint="set TMPDIR to a folder with room for the index",
        ) from exc
    return folder / sources[0].name


def _signature(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_size, status.st_mtime_ns)
