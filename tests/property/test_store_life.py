"""A store over a long life: anything may happen, a crash at any moment, and nothing needed is lost.

The machine puts frames under leases, names them by roots, drops roots, collects, scrubs, damages
packs, and crashes: at a chosen call of write, fsync, fdatasync, rename, ftruncate or unlink the
process "dies" (a BaseException that the code cannot handle), what was not synced may be gone, the
index may fall back to an older state or be lost, and the store is opened again from what is there.

`NODECTL_STORE_STEPS=10000` sets how many steps the long run takes, `NODECTL_STORE_SEED` which ones.
"""

import contextlib
import functools
import gc
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from nodectl.ids import ChunkId, FrameId
from nodectl.store.disk import DiskStore
from nodectl.store.gc import GcOptions, collect
from nodectl.store.index import Index
from nodectl.store.lease import lease
from nodectl.store.model import StoredFrame
from nodectl.store.scrub import Pacing, scrub

SEED = int(os.environ.get("NODECTL_STORE_SEED", "7"))
STEPS = int(os.environ.get("NODECTL_STORE_STEPS", "200"))
NO_GRACE = GcOptions(grace_s=-10.0)
PACING = Pacing(rate=0, now=lambda: 1.0, monotonic=lambda: 1.0, pause=lambda _: None)
CALLS = ("write", "fsync", "fdatasync", "rename", "replace", "ftruncate", "unlink")


class Crash(BaseException):
    """The process died here."""


@functools.cache
def frame(number: int) -> StoredFrame:
    sealed = random.Random(number).randbytes(50 + number * 37 % 900)
    return StoredFrame(
        FrameId(blake3(sealed).digest()), ChunkId(blake3(b"c" + sealed).digest()), 7, sealed
    )


def close_all_beneath(folder: Path) -> None:
    """Close every file there is open: with them a process that dies loses its locks."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):
            if str(entry.readlink()).startswith(str(folder)):
                os.close(int(entry.name))


class Disk:
    """Counts the calls that change files, dies at one of them, and knows what was synced."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._real = {name: getattr(os, name) for name in CALLS}
        self.left = -1  # calls until the crash, -1: none
        self.synced: dict[str, int] = {}  # pack path: bytes that are durable
        self.dead = False

    @contextlib.contextmanager
    def patched(self) -> Iterator[None]:
        for name in CALLS:
            setattr(os, name, self._wrapped(name))
        try:
            yield
        finally:
            for name, real in self._real.items():
                setattr(os, name, real)

    def _wrapped(self, name: str) -> Callable[..., Any]:
        real = self._real[name]

        def call(*args: Any, **keywords: Any) -> Any:  # noqa: ANN401 - stands for any of them
            if self.dead:
                raise Crash  # a dead process does nothing more, whatever `finally` wants
            if self.left == 0:
                self.dead = True
                if name == "write" and self._rng.random() < 0.5:
                    real(args[0], bytes(args[1])[: self._rng.randrange(len(args[1]) + 1)])
                elif name != "write" and self._rng.random() < 0.5:
                    real(*args, **keywords)  # died just after it
                raise Crash
            self.left -= self.left > 0
            result = real(*args, **keywords)
            if name in {"fsync", "fdatasync"}:
                path = Path(f"/proc/self/fd/{args[0]}").readlink()
                self.synced[str(path)] = os.fstat(args[0]).st_size
            return result

        return call

    def lose_unsynced(self, packs: Path) -> None:
        """A power cut: of each pack what was not synced is gone, in part or all."""
        for path in packs.glob("*.pack"):
            size, synced = path.stat().st_size, self.synced.get(str(path), 0)
            if size > synced:
                os.truncate(path, self._rng.randint(synced, size))


class Machine:
    """The model beside the store: which frames were acknowledged, and which are needed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.disk = Disk(self.rng)
        self.folder = folder / "store"
        self.snapshot = folder / "older"
        self.roots: dict[int, frozenset[int]] = {}  # what must be here
        self.damaged: set[int] = set()  # hit by a flipped bit: may be missing, never wrong
        self.counts = dict.fromkeys(("crash", "gc", "scrub", "deleted", "waited", "found"), 0)
        self.numbers = {frame(number).frame_id: number for number in range(400)}
        self.leases: list[tuple[contextlib.ExitStack, frozenset[int]]] = []
        self.store = DiskStore(self.folder)

    def live(self) -> list[FrameId]:
        return [frame(number).frame_id for numbers in self.roots.values() for number in numbers]

    # ------------------------------------------------------------ what happens

    def put(self) -> None:
        """A capture begins: its frames are stored, some of them were here; no root yet."""
        numbers = frozenset(self.rng.sample(range(400), self.rng.randint(1, 25)))
        stack = contextlib.ExitStack()
        stack.enter_context(lease(self.folder))
        try:
            chosen = [frame(number) for number in numbers]
            for first in range(0, len(chosen), 7):
                self.store.put_many(chosen[first : first + 7])
        except BaseException:
            stack.close()
            raise
        self.damaged -= numbers & self.damaged & self.here(numbers)
        self.leases.append((stack, numbers))

    def publish(self) -> None:
        """A capture ends: its root is remembered, then its lease is given back."""
        if self.leases:
            stack, numbers = self.leases.pop(self.rng.randrange(len(self.leases)))
            self.roots[self.rng.randrange(10**9)] = numbers
            stack.close()

    def give_up(self) -> None:
        if self.leases:
            stack, _ = self.leases.pop(self.rng.randrange(len(self.leases)))
            stack.close()

    def drop_root(self) -> None:
        if self.roots:
            del self.roots[self.rng.choice(list(self.roots))]

    def gc(self) -> None:
        self.counts["gc"] += 1
        report = collect(self.store, self.live, NO_GRACE)
        self.counts["deleted"] += report.deleted_packs
        self.counts["waited"] += bool(report.waits_for)
        assert {self.numbers[FrameId(bytes.fromhex(one))] for one in report.damaged} <= self.damaged

    def scrub(self) -> None:
        self.counts["scrub"] += 1
        state = scrub(self.store, PACING, restart=True)
        found = {self.numbers[FrameId(bytes.fromhex(one))] for one in state.damaged}
        assert found <= self.damaged
        self.counts["found"] += len(found)
        here = self.needed() - set(self.lost())
        for number in here:
            assert self.store.get(frame(number).frame_id) == frame(number).sealed

    def flip(self) -> None:
        """A bit of a frame rots on the disk."""
        row = self.rng.choice(list(self.store.index.rows()) or [None])
        if row is None or len(self.damaged) > 5:
            return
        at = row.offset + self.rng.randrange(row.sealed_len)
        with (self.folder / "packs" / f"{row.pack}.pack").open("r+b", buffering=0) as file:
            byte = os.pread(file.fileno(), 1, at)[0] ^ (1 << self.rng.randrange(8))
            os.pwrite(file.fileno(), bytes([byte]), at)
        self.damaged.add(self.numbers[row.frame_id])

    def repair(self) -> None:
        """What is missing comes back from the swarm."""
        scrub(self.store, PACING, restart=True)
        lost = self.lost()
        self.store.put_many([frame(number) for number in lost])
        self.damaged.clear()

    def reopen(self) -> None:
        self.store.close()
        self.store = DiskStore(self.folder)

    def keep_index(self) -> None:
        """Remember the index as it is: after a power cut it may be this old."""
        self.store.index.close()
        shutil.rmtree(self.snapshot, ignore_errors=True)
        self.snapshot.mkdir()
        for path in self.folder.glob("index.sqlite*"):
            shutil.copy2(path, self.snapshot / path.name)

    # ------------------------------------------------------------ crashes

    def crash(self) -> None:
        """Everybody died; what comes back is what the disk holds."""
        self.counts["crash"] += 1
        self.disk.dead, self.disk.left = False, -1
        for stack, _ in self.leases:
            with contextlib.suppress(OSError):
                stack.close()
        self.leases.clear()
        self.store._writer._fd = -1
        self.store.close()
        gc.collect()
        close_all_beneath(self.folder)
        self._lose()
        self.store = DiskStore(self.folder)

    def _lose(self) -> None:
        """Take away what a power cut may take: unsynced bytes, news in the index, all of it."""
        how = self.rng.random()
        if how < 0.5:
            self.disk.lose_unsynced(self.folder / "packs")
            if how < 0.25:
                for path in self.folder.glob("index.sqlite*"):
                    path.unlink()
            if how < 0.15 and self.snapshot.is_dir():
                for path in self.snapshot.iterdir():
                    shutil.copy2(path, self.folder / path.name)

    # ------------------------------------------------------------ what must hold

    def needed(self) -> set[int]:
        return {number for numbers in self.roots.values() for number in numbers} | {
            number for _, numbers in self.leases for number in numbers
        }

    def here(self, numbers: frozenset[int]) -> set[int]:
        return {
            number
            for number in numbers
            if self.store.get(frame(number).frame_id) == frame(number).sealed
        }

    def lost(self) -> list[int]:
        missing = self.store.missing(frame(number).frame_id for number in sorted(self.needed()))
        return [self.numbers[one] for one in missing]

    def check(self) -> None:
        """Look at what is needed without asking for it: asking saves what is condemned."""
        connection = self.store.index._connection()
        for number in self.needed() - self.damaged:
            one = frame(number)
            rows = [
                row
                for table in ("frames", "condemned")
                for row in connection.execute(
                    f"SELECT pack, offset, sealed_len, chunk_id FROM {table} WHERE frame_id = ?",
                    (one.frame_id,),
                )
            ]
            assert rows, "an acknowledged frame is gone"
            pack, offset, sealed_len, chunk_id = rows[0]
            fd = os.open(self.folder / "packs" / f"{pack}.pack", os.O_RDONLY)
            assert os.pread(fd, sealed_len, offset) == one.sealed
            os.close(fd)
            assert chunk_id == one.chunk_id

    def step(self) -> None:
        names = ("put", "publish", "give_up", "drop_root", "gc", "scrub", "flip", "repair")
        name = self.rng.choices(
            (*names, "reopen", "keep_index"), weights=(9, 7, 1, 4, 7, 2, 1, 1, 1, 1)
        )[0]
        if name in {"put", "gc", "scrub", "repair"} and self.rng.random() < 0.4:
            self.disk.left = self.rng.randrange(25)
        try:
            getattr(self, name)()
            self.disk.left = -1
        except Crash:
            self.crash()


def run(folder: Path, seed: int, steps: int) -> dict[str, int]:
    machine = Machine(folder, seed)
    with machine.disk.patched():
        for number in range(steps):
            machine.step()
            machine.check()
            if number % 50 == 49:
                _same_after_rebuild(machine)
    machine.store.close()
    return machine.counts


def _same_after_rebuild(machine: Machine) -> None:
    """An index made again from the packs knows all that is needed."""
    machine.store.close()
    for path in machine.folder.glob("index.sqlite*"):
        path.unlink()
    machine.store = DiskStore(machine.folder)
    machine.check()


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make packs small, and a run the same each time."""
    names = random.Random(SEED)
    monkeypatch.setattr("nodectl.store.packs.PACK_MAX", 6_000)
    monkeypatch.setattr("secrets.token_hex", lambda size: names.randbytes(size).hex())


def test_a_long_life_with_crashes_loses_nothing(tmp_path: Path) -> None:
    counts = run(tmp_path, seed=SEED, steps=STEPS)
    assert min(counts[name] for name in ("crash", "gc", "scrub", "deleted", "waited")) > 0, counts


@pytest.mark.parametrize("point", ["save", "drop", "move_pack", "condemn"])
def test_a_crash_between_two_index_changes_loses_nothing(
    tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, but the process dies just before or after a change of the index."""
    rng = random.Random(point)
    machine = Machine(tmp_path, 3)
    real = getattr(Index, point)

    def dies(self: Index, *args: object, **keywords: object) -> object:
        roll = rng.random()
        if roll < 0.1:
            machine.disk.dead = True
            raise Crash
        result = real(self, *args, **keywords)
        if roll < 0.2:
            machine.disk.dead = True
            raise Crash
        return result

    for _ in range(60):
        with monkeypatch.context() as patch, machine.disk.patched():
            patch.setattr(Index, point, dies)
            machine.step()
        machine.check()
    machine.store.close()
