"""The store on disk against the one in memory, through reopening, torn writes and a lost index."""

import shutil
import tempfile
from pathlib import Path

from blake3 import blake3
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nodectl.ids import ChunkId, FrameId
from nodectl.store import packs
from nodectl.store.disk import DiskStore
from nodectl.store.memory import MemoryStore
from nodectl.store.model import StoredFrame

numbers = st.integers(0, 30)


def frame(number: int) -> StoredFrame:
    sealed = number.to_bytes(2, "little") * (1 + number * 37)
    chunk = ChunkId(blake3(b"c" + sealed).digest())
    return StoredFrame(FrameId(blake3(sealed).digest()), chunk, 2 * len(sealed), sealed)


ALL = [frame(number).frame_id for number in range(31)]


class StoreMachine(RuleBasedStateMachine):
    """What was acknowledged is there, whatever happens to the process and to the index."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.pack_max, packs.PACK_MAX = packs.PACK_MAX, 5_000
        self.model = MemoryStore()
        self.store = DiskStore(self.folder)

    def teardown(self) -> None:
        self.store.close()
        packs.PACK_MAX = self.pack_max
        shutil.rmtree(self.folder)

    @rule(batch=st.lists(numbers, max_size=6))
    def put(self, batch: list[int]) -> None:
        frames = [frame(number) for number in batch]
        self.store.put_many(frames)
        self.model.put_many(frames)

    @rule(batch=st.lists(numbers, max_size=6))
    def put_through_another_process(self, batch: list[int]) -> None:
        """As a worker of a capture does: a writer of its own, told to the index afterwards."""
        frames = [frame(number) for number in batch]
        with packs.PackWriter(self.store.packs) as writer:
            placed = [writer.append(one) for one in frames]
        self.store.add_packed(placed)
        self.model.put_many(frames)

    @rule(asked=st.lists(numbers, max_size=8))
    def get(self, asked: list[int]) -> None:
        ids = [ALL[number] for number in asked]
        absent = set(self.model.missing(ids))
        here = [one for one in ids if one not in absent]
        assert list(self.store.get_many(here)) == list(self.model.get_many(here))

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = DiskStore(self.folder)

    @rule()
    def lose_the_index(self) -> None:
        self.store.close()
        for path in self.folder.glob("index.sqlite*"):
            path.unlink()
        self.store = DiskStore(self.folder)

    @precondition(lambda self: any(self.store.packs.iterdir()))
    @rule(which=numbers, number=numbers, cut=st.integers(1, 75), index=st.booleans())
    def tear_a_write(self, which: int, number: int, cut: int, index: bool) -> None:  # noqa: FBT001
        """A crash in the middle of an append: bytes that nobody was told of."""
        self.store.close()
        found = sorted(self.store.packs.iterdir())
        torn = frame(number).sealed[: cut * 3] + b"NCFR" + bytes(cut)
        with found[which % len(found)].open("ab") as file:
            file.write(b"NCFR\xff\xff\0\0" + torn)
        if index:
            for path in self.folder.glob("index.sqlite*"):
                path.unlink()
        self.store = DiskStore(self.folder)

    @rule(which=numbers)
    def lose_the_last_rows(self, which: int) -> None:
        """A power cut after the packs were synced and before the index was."""
        found = sorted(self.store.packs.iterdir())
        if found:
            self.store.index.forget_pack(found[which % len(found)].stem)
        self.reopen()

    @invariant()
    def same_frames(self) -> None:
        assert self.store.missing(ALL) == self.model.missing(ALL)
        ours, theirs = self.store.statistics(), self.model.statistics()
        assert (ours.frames, ours.sealed_bytes) == (theirs.frames, theirs.sealed_bytes)


StoreMachine.TestCase.settings = settings(deadline=None, max_examples=12, stateful_step_count=20)
TestStore = StoreMachine.TestCase
