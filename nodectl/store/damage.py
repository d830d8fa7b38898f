"""What the index says when its own bytes are not what was written, and what is done about it.

SQLite finds a part of such damage when it meets it. The rest are rows that cannot be, or that name
what is not there; a wrong row costs a lookup and never gives a wrong frame, since every frame is
checked against its id before it is used. An index that is found damaged is marked by a file beside
it, and the next process that opens the store makes it again from the packs.
"""

import contextlib
import functools
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from nodectl.errors import NodectlError, StoreInvalid
from nodectl.store.refusals import is_read_only, no_space, read_only

# The second: no room for the 32 KiB that processes share (the -shm file).
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
# 0: from Python's side of SQLite (text that is no UTF-8), or our own check. ERROR: a table is gone.
_DAMAGE = {
    0,
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_TOOBIG,
}
# The second: where a message of SQLite quotes bytes of a damaged schema that are no UTF-8.
ERRORS = (sqlite3.DatabaseError, UnicodeDecodeError)
_OURS = (sqlite3.ProgrammingError, sqlite3.InterfaceError)  # wrong use: a bug, no damage


class HasPath(Protocol):
    """Whose methods may meet damage."""

    @property
    def path(self) -> Path:
        """The index file."""


def is_full(error: Exception) -> bool:
    """Say whether SQLite found the file system full."""
    return getattr(error, "sqlite_errorcode", None) in _FULL


def is_damage(error: Exception) -> bool:
    """Say whether an error can only come from bytes of the index that are not what was written."""
    # The lower byte is the kind, the rest (an extended code) tells more of it.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in _DAMAGE and not isinstance(error, _OURS)


def mark_of(path: Path) -> Path:
    """Return the file that says of an index that it is damaged."""
    return path.with_name(f"{path.name}.damaged")


def outside(path: Path, error: Exception) -> NodectlError:
    """Return what the file system or another process did to an index, in one sentence."""
    if is_full(error):
        return no_space(path.parent)
    if is_read_only(path.parent):
        return read_only(path.parent)
    return StoreInvalid(
        f"cannot use the index {path}: {error}",
        hint="the kernel's log tells whether the disk has errors; ls -l, who may write there",
    )


P = ParamSpec("P")
R = TypeVar("R")
H = TypeVar("H", bound=HasPath)


def telling(method: Callable[Concatenate[H, P], R]) -> Callable[Concatenate[H, P], R]:
    """Let a method of an index say in one sentence what SQLite found; mark a damaged index."""

    @functools.wraps(method)
    def told(self: H, /, *args: P.args, **keywords: P.kwargs) -> R:
        try:
            return method(self, *args, **keywords)
        except _OURS:
            raise
        except ERRORS as exc:
            if not is_damage(exc):
                raise outside(self.path, exc) from exc
            with contextlib.suppress(OSError):
                mark_of(self.path).touch(mode=0o600)
            raise StoreInvalid(
                f"the index {self.path} is damaged ({exc}); the packs beside it are the truth",
                hint="start the command again: the index is made anew from the packs"
                " (restart nodectl serve where it runs)",
            ) from exc

    return told
