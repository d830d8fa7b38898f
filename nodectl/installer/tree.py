"""Files taken from a tree into an archive: with the links on the way, and the libraries they need.

Paths are those of the tree: a link in it leads within it, however it is mounted here. Nothing of
the tree is run.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from nodectl.errors import PathMissing, PathUnreadable
from nodectl.installer.cpio import Entry, folder, link
from nodectl.installer.elf import Elf, parse_elf

_LINKS_MAX = 40  # on the way to one file, as the kernel has it
_LIBRARY_FOLDERS = (
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/usr/local/lib64",
    "/usr/local/lib",
)
_ELF_MAX = 256 << 20  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A library that something needs and the tree has not."""

    name: str
    needed_by: str


class Taken:
    """What is taken from one tree so far."""

    def __init__(self, root: Path) -> None:
        """Begin with nothing.

        Raises:
            PathMissing: there is no such folder.
        """
        if not root.is_dir():
            raise PathMissing(f"{root} is no folder: it should be the root of a system")
        self.root = root
        self.missing: list[Missing] = []
        self._entries: dict[str, Entry] = {}  # path without leading "/"
        self._library_folders = tuple(self._configured_folders())
        self._waiting: list[tuple[str, Elf]] = []

    def entries(self) -> tuple[Entry, ...]:
        """Return everything taken, with the libraries."""
        self._take_libraries()
        return tuple(self._entries.values())

    def find(self, path: str) -> str | None:
        """Return the path of the file, folder or link's end that a path leads to, or None."""
        steps = self._walk(path)
        return None if steps is None else steps[-1]

    def exists(self, path: str) -> bool:
        """Say whether a path leads to something."""
        return self.find(path) is not None

    def read(self, path: str) -> bytes:
        """Return the content of a file of the tree."""
        real = self.find(path)
        if real is None:
            raise PathMissing(f"{path} is not in {self.root}")
        return self._read(real)

    def text(self, path: str) -> str:
        """Return the text of a file; an empty one where it is not there."""
        return self.read(path).decode("utf-8", "replace") if self.exists(path) else ""

    def names(self, path: str) -> list[str]:
        """Return what a folder holds, sorted; nothing where it is not there."""
        real = self.find(path)
        if real is None or not self._here(real).is_dir():
            return []
        return sorted(each.name for each in self._here(real).iterdir())

    def is_folder(self, path: str) -> bool:
        """Say whether a path leads to a folder."""
        real = self.find(path)
        return real is not None and self._here(real).is_dir()

    def take(self, path: str) -> str | None:
        """Take a file with the links that lead to it; return where it is, None: it is not there."""
        steps = self._walk(path)
        if steps is None:
            return None
        for step in steps[:-1]:
            target = self._here(step).readlink()
            self._entries.setdefault(step.lstrip("/"), link(step.lstrip("/"), str(target)))
        self._take_real(steps[-1])
        return steps[-1]

    def take_all(self, path: str, *, but: Sequence[str] = ()) -> None:
        """Take a folder with what is in it; names in `but` are left out at every depth."""
        for name in self.names(path):
            if name in but:
                continue
            inner = f"{path}/{name}"
            if self.is_folder(inner) and not self._here(inner).is_symlink():
                self.take_all(inner, but=but)
            else:
                self.take(inner)

    def status(self, path: str) -> os.stat_result:
        """Return what stat(2) says of the file that a path leads to."""
        return self._here(self.find(path) or path).stat()

    def is_link(self, path: str) -> bool:
        """Say whether a path itself is a link."""
        return self._here(path).is_symlink()

    def library(self, name: str) -> str | None:
        """Return where the tree has a library of a name, or None."""
        places = (f"{folder}/{name}" for folder in self._library_folders)
        return next((place for place in places if self.exists(place)), None)

    def need(self, name: str, *, by: str) -> None:
        """Take a library that something needs which is not of the tree."""
        place = self.library(name)
        if place is None:
            self.missing.append(Missing(name=name, needed_by=by))
        else:
            self.take(place)

    def has(self, path: str) -> bool:
        """Say whether something was taken or put at a path, without leading "/"."""
        return path in self._entries

    def put(self, entry: Entry) -> None:
        """Add something that is not from the tree; takes the place of what was taken."""
        self._entries[entry.path] = entry

    def _here(self, path: str) -> Path:
        return Path(f"{self.root}{path}")

    def _read(self, real: str) -> bytes:
        try:
            return self._here(real).read_bytes()
        except OSError as exc:
            raise PathUnreadable(f"{self._here(real)} cannot be read: {exc.strerror}") from exc

    def _walk(self, path: str) -> list[str] | None:
        """Return the links met on the way to a path, and at last what it leads to."""
        todo = list(PurePosixPath(path).parts[1:])
        steps: list[str] = []
        at = ""
        while todo:
            name = todo.pop(0)
            if name == "..":
                at = at.rpartition("/")[0]
                continue
            at = f"{at}/{name}"
            try:
                mode = self._here(at).lstat().st_mode
            except OSError:
                return None
            if not stat.S_ISLNK(mode):
                continue
            steps.append(at)
            if len(steps) > _LINKS_MAX:
                return None
            target = str(self._here(at).readlink())
            at = "" if target.startswith("/") else at.rpartition("/")[0]
            todo = [part for part in PurePosixPath(target).parts if part != "/"] + todo
        return [*steps, at or "/"]

    def _take_real(self, real: str) -> None:
        """Take what is no link: a folder, or a file and what it needs."""
        path = real.lstrip("/")
        if not path or path in self._entries:
            return
        status = self._here(real).stat()
        if stat.S_ISDIR(status.st_mode):
            self._entries[path] = folder(path)
            return
        if not stat.S_ISREG(status.st_mode):
            return
        mode = stat.S_IFREG | (0o755 if status.st_mode & 0o111 else 0o644)
        self._entries[path] = Entry(
            path=path, mode=mode, size=status.st_size, read=partial(self._read, real)
        )
        with self._here(real).open("rb") as file:
            is_elf = file.read(4) == b"\x7fELF"
        if is_elf and ".ko" not in path and status.st_size <= _ELF_MAX:
            found = parse_elf(self._read(real))
            if found is not None:
                self._waiting.append((real, found))

    def _take_libraries(self) -> None:
        while self._waiting:
            user, elf = self._waiting.pop()
            if elf.interpreter and self.take(elf.interpreter) is None:
                self.missing.append(Missing(name=elf.interpreter, needed_by=user))
            for name in elf.needed:
                found = next((p for p in self._places(name, user, elf) if self._fits(p, elf)), None)
                if found is None:
                    self.missing.append(Missing(name=name, needed_by=user))
                else:
                    self.take(found)

    def _places(self, name: str, user: str, elf: Elf) -> Iterable[str]:
        if "/" in name:
            return (name,)
        origin = os.path.dirname(user)  # noqa: PTH120 - a text
        own = [each.replace("${ORIGIN}", origin).replace("$ORIGIN", origin) for each in elf.search]
        return (f"{each}/{name}" for each in (*own, *self._library_folders))

    def _fits(self, path: str, user: Elf) -> bool:
        """Say whether the library at a path is of the user's architecture."""
        real = self.find(path)
        if real is None:
            return False
        with self._here(real).open("rb") as file:
            head = file.read(64)
        return head[:6] == b"\x7fELF\x02\x01" and int.from_bytes(head[18:20], "little") == (
            user.machine
        )

    def _configured_folders(self) -> Iterator[str]:
        """Yield where the tree's dynamic loader looks: ld.so.conf(5), Debian's and usual places."""
        texts = [self.text("/etc/ld.so.conf")]
        names = self.names("/etc/ld.so.conf.d")
        texts += [self.text(f"/etc/ld.so.conf.d/{name}") for name in names if name[-5:] == ".conf"]
        found = [line.strip() for text in texts for line in text.splitlines()]
        yield from (line for line in found if line.startswith("/"))
        for usual in ("/lib", "/usr/lib"):
            yield from (f"{usual}/{n}" for n in self.names(usual) if n.endswith("-linux-gnu"))
        yield from _LIBRARY_FOLDERS
