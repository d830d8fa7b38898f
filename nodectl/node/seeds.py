"""Seeds on the spot: what stands on the target already need not come from the network.

Chunks of an image that the store lacks are looked for where the image would put them: at their
places in an older copy of a disk, in the files of an older tree. What is found there and has the
right ChunkId is compressed and sealed again, and stored if that gives the frame that the manifest
names. So a seed is never trusted: one that changed, or is being changed, is no seed.
"""

import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from nodectl.content.beneath import Beneath
from nodectl.content.block import BlockManifest
from nodectl.content.frame import LEVEL_BEST, LEVEL_FAST, FrameCodec, FrameRef, realm_tag
from nodectl.content.manifest import Entry, Kind, record_places
from nodectl.content.opening import Manifest
from nodectl.content.stored_manifest import stored
from nodectl.content.tree import TreeManifest
from nodectl.errors import PathMissing, UnsafePath
from nodectl.ids import FrameId
from nodectl.store.model import Store, StoredFrame
from nodectl.trust.keys import ContentKeys

_BATCH = 64  # frames stored together
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC

Place = tuple[int, FrameRef]  # offset and chunk


def take_seed(
    manifest: Manifest,
    store: Store,
    seed: Path,
    keys: ContentKeys,
    *,
    stopped: Callable[[], bool] = lambda: False,
) -> int:
    """Store what the seed has and the store lacks; return its sealed bytes.

    A seed that is not there, or of another kind than the image, gives nothing. Reads no more when
    `stopped` says so; it is asked from this thread, before each chunk.

    Raises:
        FrameMissing, ContentInvalid: of the manifest, whose parts must be here.
        NoSpace: the store is full.
    """
    resealer = _Resealer(_keys_of(manifest, keys), stopped)
    if isinstance(manifest, TreeManifest):
        found = _from_tree(manifest, store, seed, resealer)
    else:
        found = _from_image(manifest, store, seed, resealer)
    taken = 0
    while frames := list(itertools.islice(found, _BATCH)):
        sealed_len = {frame.frame_id: len(frame.sealed) for frame in frames}
        taken += sum(sealed_len[one] for one in store.missing(sealed_len))
        store.put_many(frames)
    return taken


def _keys_of(manifest: Manifest, keys: ContentKeys) -> ContentKeys:
    """Return the keys that the image was sealed with: the realm's, or some that were before."""
    tag = manifest.block.realm_tag
    return next((one for one in keys.older if realm_tag(one) == tag), keys)


def _from_image(
    manifest: BlockManifest, store: Store, seed: Path, resealer: "_Resealer"
) -> Iterator[StoredFrame]:
    try:
        fd = _open_if(seed, None, stat.S_ISREG, stat.S_ISBLK)
    except OSError:
        return
    try:
        for chunks in manifest.ranges():
            missing = set(store.missing(chunk.ref.frame_id for chunk in chunks))
            yield from resealer.frames(fd, ((one.offset, one.ref) for one in chunks), missing)
    finally:
        os.close(fd)


def _from_tree(
    manifest: TreeManifest, store: Store, seed: Path, resealer: "_Resealer"
) -> Iterator[StoredFrame]:
    try:
        beneath = Beneath(seed)
    except PathMissing:
        return
    with beneath:
        for entry, missing in _wanted_files(manifest, store):
            yield from _from_file(beneath, entry, resealer, missing)


def _wanted_files(manifest: TreeManifest, store: Store) -> Iterator[tuple[Entry, set[FrameId]]]:
    """Yield the files that lack a frame, a large one as often as it has records.

    With each comes the set of what the store lacks of its part of the manifest.
    """
    for columns in manifest.parts():
        missing = set(store.missing(columns.frame_ids))
        for entry in columns.entries() if missing else ():
            is_file = entry.kind in {Kind.FILE, Kind.MORE}
            if is_file and any(ref.frame_id in missing for ref in entry.chunks):
                yield entry, missing


def _from_file(
    beneath: Beneath, entry: Entry, resealer: "_Resealer", missing: set[FrameId]
) -> Iterator[StoredFrame]:
    try:
        directory, name = beneath.place(entry.path)
        fd = _open_if(name, directory, stat.S_ISREG)
    except (OSError, UnsafePath):  # not there, or something else by now
        return
    try:
        yield from resealer.frames(fd, record_places(entry), missing)
    finally:
        os.close(fd)


def _open_if(name: Path | bytes, directory: int | None, *kinds: Callable[[int], bool]) -> int:
    """Open what is of one of these kinds; below a directory links are not followed.

    It is looked at first: opening alone does something to a tape or a watchdog.

    Raises:
        OSError: it is of no such kind, or cannot be read.
    """
    follow = directory is None
    mode = os.stat(name, dir_fd=directory, follow_symlinks=follow).st_mode
    if not any(kind(mode) for kind in kinds):
        raise FileNotFoundError(name)
    return os.open(name, _OPEN | (0 if follow else os.O_NOFOLLOW), dir_fd=directory)


class _Resealer:
    """Makes frames of what is read at the places of chunks, where that is right."""

    def __init__(self, keys: ContentKeys, stopped: Callable[[], bool]) -> None:
        # Which level a frame was made with is not recorded: it is the one that gives its id. The
        # one that did so last is tried first.
        self._codecs = [FrameCodec(keys, level=level) for level in (LEVEL_FAST, LEVEL_BEST)]
        self._stopped = stopped

    def frames(
        self, fd: int, places: Iterable[Place], missing: set[FrameId]
    ) -> Iterator[StoredFrame]:
        """Yield those of the missing frames that can be made; they are missing no more."""
        for offset, ref in places:
            if ref.frame_id not in missing:
                continue
            if self._stopped():
                return
            frame = self._frame(fd, offset, ref)
            if frame is not None:
                missing.discard(ref.frame_id)
                yield frame

    def _frame(self, fd: int, offset: int, ref: FrameRef) -> StoredFrame | None:
        try:
            plain = os.pread(fd, ref.plain_len, offset)
        except OSError:  # EIO: the network has it
            return None
        if len(plain) != ref.plain_len or self._codecs[0].chunk_id(plain) != ref.chunk_id:
            return None
        for codec in self._codecs:
            frame = codec.seal(plain, ref.chunk_id)
            if frame.ref == ref:
                self._codecs.sort(key=lambda one: one is not codec)
                return stored(frame)
        return None
