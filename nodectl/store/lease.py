"""Leases: what a running capture, fetch or restore relies on is not collected under its feet.

    FOLDER/leases/PID-RANDOM     held with an exclusive flock by whoever works on the store

A lease is taken before the first look into the store and kept until a root that is remembered names
what the work relies on. A process that dies gives its leases back by dying; its file is removed by
the next gc. What gc does about leases is told in gc.py.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from nodectl.fsio import make_private_folder
from nodectl.store.refusals import as_store_error, is_read_only

_FOLDER = "leases"


@contextlib.contextmanager
def reading_lease(store: Path) -> Iterator[None]:
    """Keep gc off as `lease` does; on a file system that takes no writes none can come.

    Raises:
        NoSpace: the file system is full.
    """
    with contextlib.nullcontext() if is_read_only(store) else lease(store):
        yield


@contextlib.contextmanager
def lease(store: Path) -> Iterator[None]:
    """Keep gc from deleting what is used in the store folder `store`, while the block runs.

    Raises:
        NoSpace, StoreInvalid: the file system is full, or read-only.
    """
    folder = store / _FOLDER
    while True:
        path = folder / f"{os.getpid()}-{secrets.token_hex(8)}"
        fd = _made(path)
        try:
            # gc may have seen the file before it was locked, and taken it for a dead one.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:
                break
        except BlockingIOError:
            pass
        os.close(fd)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(fd)


def _made(path: Path) -> int:
    try:
        make_private_folder(path.parent.parent)
        make_private_folder(path.parent)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise as_store_error(exc, path.parent.parent) from exc


def living_leases(store: Path) -> tuple[str, ...]:
    """Return the names of the leases whose holders live; the files of dead ones are removed."""
    living: list[str] = []
    if is_read_only(store):
        return ()
    for path in sorted((store / _FOLDER).glob("*")):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            living.append(path.name)
        finally:
            os.close(fd)
    return tuple(living)
