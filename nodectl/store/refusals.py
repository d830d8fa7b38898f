"""What a store says when its file system takes no writes: it is full, or read-only."""

import contextlib
import errno
import os
from pathlib import Path

from nodectl.errors import READ_ONLY_HINT, NoSpace, StoreInvalid


def no_space(folder: Path) -> NoSpace:
    """Return what a store on a full file system says."""
    return NoSpace(
        f"no space left for the store in {folder}",
        hint="free space there and start again: what is stored is whole and is not sent twice",
    )


def read_only(folder: Path) -> StoreInvalid:
    """Return what a store on a file system that takes no writes says."""
    return StoreInvalid(
        f"the store in {folder} is on a read-only file system, which this would write to: nothing "
        "was changed",
        hint=READ_ONLY_HINT,
    )


def is_read_only(folder: Path) -> bool:
    """Say whether a folder is on a file system that takes no writes."""
    with contextlib.suppress(OSError):
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    return False


def refuse_read_only(folder: Path) -> None:
    """Refuse work on a store that would change it, where nothing can.

    Raises:
        StoreInvalid: its file system takes no writes.
    """
    if is_read_only(folder):
        raise read_only(folder)


def as_store_error(exc: OSError, folder: Path) -> Exception:
    """Return a refusal of the file system as the store says it; any other error as it is."""
    if exc.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return no_space(folder)
    if exc.errno == errno.EROFS:
        return read_only(folder)
    return exc
