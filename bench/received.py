"""Whether what a host received is what was sent: every byte, read back from its store."""

import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from measure import REPOSITORY, Failed

sys.path.insert(0, str(REPOSITORY))

from nodectl.content.frame import FrameCodec, FrameRef, check_frame_id
from nodectl.content.opening import open_manifest
from nodectl.node.state import HeldRoot, StateFolder
from nodectl.store.disk import DiskStore

_AT_ONCE = 256  # frames


def roots(state: Path, name: str) -> dict[int, HeldRoot]:
    """Return what a state folder holds of an image: generation to root."""
    held = StateFolder(state).held_roots()
    return {one.generation: one for one in held if one.name == name}


def frames(state: Path, held: HeldRoot) -> dict[bytes, FrameRef]:
    """Return every frame of a root by its id, as the manifest in a host's own store names them."""
    folder = StateFolder(state)
    with DiskStore(folder.store) as store:
        codec = FrameCodec(folder.membership().content_keys)
        manifest = open_manifest(held.root, store, codec)
        spans = [*manifest.meta_table(), *manifest.span_table()]
    return {ref.frame_id: ref for span in spans for ref in span}


def sealed_bytes(refs: Iterable[FrameRef]) -> int:
    """Return how many bytes frames have as they travel."""
    return sum(ref.sealed_len for ref in refs)


def check(seeder: Path, hosts: Iterable[Path], name: str, generation: int) -> None:
    """Refuse a host that has another root than the seeder, or one wrong or absent byte of it.

    Every frame is read from the host's store and hashed; the ids are those that the seeder's
    manifest names.

    Raises:
        Failed: names the host.
    """
    sent = roots(seeder, name)[generation]
    refs = list(frames(seeder, sent).values())

    with ThreadPoolExecutor(2) as threads:
        for _ in threads.map(lambda host: _check_host(host, sent, refs), hosts):
            pass


def _check_host(host: Path, sent: HeldRoot, refs: Sequence[FrameRef]) -> None:
    there = roots(host, sent.name).get(sent.generation)
    if there is None or there.root != sent.root or not there.complete:
        raise Failed(f"{host.name} does not hold generation {sent.generation} of {sent.name}")
    with DiskStore(StateFolder(host).store) as store:
        for first in range(0, len(refs), _AT_ONCE):
            group = refs[first : first + _AT_ONCE]
            found = store.get_many([ref.frame_id for ref in group])
            if not all(map(_right, group, found)):
                raise Failed(f"{host.name} holds a wrong byte of {sent.name}")


def _right(ref: FrameRef, sealed: bytes) -> bool:
    return len(sealed) == ref.sealed_len and check_frame_id(sealed, ref.frame_id)
