"""An image sealed again with the keys of today, when those of the realm were changed.

Every frame is opened and sealed anew as it is compressed; nothing is compressed again. The same
image and the same keys always give the same root: a run that was cut off is simply repeated, and
what it had stored already is passed over. The old image stays as it was.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nodectl.content.block import BlockManifest
from nodectl.content.block_format import BlockChunk, encode_block_part
from nodectl.content.format import encode_part
from nodectl.content.frame import FrameCodec, FrameRef
from nodectl.content.manifest import Entry, RootBlock
from nodectl.content.opening import Manifest, open_manifest
from nodectl.content.stored_manifest import PartWriter, stored
from nodectl.errors import ContentInvalid
from nodectl.events import Observer, StepProgress
from nodectl.ids import Root
from nodectl.store.model import Store, StoredFrame
from nodectl.units import MIB

STEP = "reseal"
_BATCH = 16 * MIB  # sealed bytes stored with one durable write


@dataclass(frozen=True, slots=True, kw_only=True)
class Resealed:
    """What came of it."""

    root: Root
    block: RootBlock
    new_frames: int
    new_bytes: int


class _Resealer:
    """Seals frames again and stores them in batches."""

    def __init__(self, store: Store, codec: FrameCodec, observer: Observer, total: int) -> None:
        self._store = store
        self._codec = codec
        self._observer = observer
        self._total = total
        self._pending: list[StoredFrame] = []
        self._pending_bytes = 0
        self._done = 0
        self.new_frames = 0
        self.new_bytes = 0

    def again(self, refs: Sequence[FrameRef]) -> list[FrameRef]:
        """Return what the frames are called when they are sealed with the keys of today."""
        new = []
        for ref, sealed in zip(refs, self._old(refs), strict=True):
            frame = self._codec.reseal(sealed, ref)
            self.put(stored(frame))
            new.append(frame.ref)
            self._done += ref.plain_len
        self._observer.on(StepProgress(step=STEP, done=self._done, total=self._total))
        return new

    def _old(self, refs: Sequence[FrameRef]) -> Iterator[bytes]:
        return self._store.get_many([ref.frame_id for ref in refs])

    def put(self, frame: StoredFrame) -> None:
        """Store one frame, sooner or later."""
        self._pending.append(frame)
        self._pending_bytes += len(frame.sealed)
        if self._pending_bytes >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Make all that was put durable."""
        absent = set(self._store.missing([frame.frame_id for frame in self._pending]))
        new = {frame.frame_id: frame for frame in self._pending if frame.frame_id in absent}
        self._store.put_many(list(new.values()))
        self.new_frames += len(new)
        self.new_bytes += sum(len(frame.sealed) for frame in new.values())
        self._pending.clear()
        self._pending_bytes = 0


def reseal(root: Root, store: Store, codec: FrameCodec, observer: Observer) -> Resealed:
    """Seal an image again, into the same store; the root block goes in last.

    Args:
        root: an image of which `store` holds every frame.
        store: holds it, and will hold the new one beside it.
        codec: with the keys of today, and those that open the image.
        observer: hears how many plain bytes are done.

    Raises:
        FrameMissing, ContentInvalid, NoSpace: as the words say; what was stored stays.
    """
    manifest = open_manifest(root, store, codec)
    work = _Resealer(store, codec, observer, manifest.block.plain_bytes)
    writer = PartWriter(codec, work.put)
    parts = [writer.add(part) for part in _parts(manifest, work)]
    old = manifest.block
    totals = (old.entries, old.plain_bytes, old.sealed_bytes)
    new_root, block, frame = writer.finish(manifest.head, old.kind, totals, parts)
    work.flush()
    store.put_many([frame])
    return Resealed(
        root=new_root, block=block, new_frames=work.new_frames, new_bytes=work.new_bytes
    )


def _parts(manifest: Manifest, work: _Resealer) -> Iterator[bytes]:
    """Yield the plain bytes of each part that holds entries or chunks, with the new references."""
    if isinstance(manifest, BlockManifest):
        for chunks in manifest.ranges():
            refs = work.again([chunk.ref for chunk in chunks])
            pairs = zip(chunks, refs, strict=True)
            yield encode_block_part([BlockChunk(chunk.offset, ref) for chunk, ref in pairs])
        return
    for number in range(manifest.part_count):
        yield encode_part(_with(work, manifest.columns(number).entries()))


def _with(work: _Resealer, entries: Sequence[Entry]) -> list[Entry]:
    refs = work.again([ref for entry in entries for ref in entry.chunks])
    new, at = [], 0
    for entry in entries:
        end = at + len(entry.chunks)
        new.append(entry._replace(chunks=tuple(refs[at:end])) if entry.chunks else entry)
        at = end
    if at != len(refs):
        raise ContentInvalid("the chunks of a part do not fit its entries")
    return new
