"""Releases: published here, signed here, numbered here.

The generation of a new release is the last one plus 1, decided by compare-and-set: of two that are
published at the same moment, one gets the next number and the other the one after it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from blake3 import blake3

from nodectl.catalog.model import ABSENT, Catalog, Document
from nodectl.catalog.records import ReleaseRecord, release_key, root_key
from nodectl.controller.publishers import Publishers
from nodectl.errors import ContentInvalid, UnknownImage, WriteConflict
from nodectl.ids import Root
from nodectl.trust.publisher import trusted_keys
from nodectl.trust.realm import Realm
from nodectl.trust.release import Release, sign_release, verify_release, with_ssh_signature

_PUBLISH_TRIES = 100
_EPOCH_KEY = "swarm/epoch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """What an operator wants to publish."""

    name: str
    root: Root
    root_block: bytes = field(repr=False)
    kind: str
    totals: Mapping[str, int]
    origin: str  # the node that holds the frames


class Releases:
    """The releases of one realm."""

    def __init__(self, catalog: Catalog, realm: Realm, now: Callable[[], float]) -> None:
        """Work on a catalog; `now` is the controller's clock, seconds since 1970."""
        self._catalog = catalog
        self._realm = realm
        self._now = now
        self.publishers = Publishers(catalog, realm, now)
        epoch = catalog.get(_EPOCH_KEY)
        self._epoch = 0 if epoch is None else int(epoch.value["epoch"])

    def use(self, realm: Realm) -> None:
        """Go on with other keys of the same realm."""
        self._realm = realm

    def publish(self, wanted: Publication) -> ReleaseRecord:
        """Make the next generation of a name; the same root again is the same release.

        Raises:
            ContentInvalid: the root block is not what the root says.
        """
        if blake3(wanted.root_block).digest() != wanted.root:
            raise ContentInvalid(f"the root block of {wanted.name} does not match its root")
        for _ in range(_PUBLISH_TRIES):
            last = self._last(wanted.name)
            try:
                if last is not None and last.signed.release.root == wanted.root:
                    return self._keep_root(wanted, last)
                record = self._next(wanted, last)
                key = release_key(wanted.name, record.signed.release.generation)
                self._catalog.put(key, record.to_json(), expected=ABSENT)
                return self._keep_root(wanted, record)
            except WriteConflict:
                continue
        raise WriteConflict(f"{wanted.name} is published by too many at once", hint="try again")

    def sign(self, name: str, generation: int, armored: str) -> ReleaseRecord:
        """Give a release a signature that was made elsewhere, in place of the one it has.

        Raises:
            UnknownImage: there is no such release.
            InvalidInput: it is no SSH signature.
            ContentInvalid: it is wrong, or by nobody who is a publisher now.
        """
        for _ in range(_PUBLISH_TRIES):
            record = self.get(name, generation)
            document = self._catalog.get(release_key(name, generation))
            signed = with_ssh_signature(record.signed.release, armored)
            keys = trusted_keys(self.publishers.list(), self._now())
            verify_release(signed.to_json(), realm=self._realm.realm_id, publishers=keys)
            changed = ReleaseRecord(signed=signed, origin=record.origin)
            expected = ABSENT if document is None else document.revision
            try:
                self._catalog.put(
                    release_key(name, generation), changed.to_json(), expected=expected
                )
            except WriteConflict:
                continue
            return changed
        raise WriteConflict(f"{name} is signed by too many at once", hint="try again")

    def get(self, name: str, generation: int | None = None) -> ReleaseRecord:
        """Return one generation of a name, the last one by default.

        Raises:
            UnknownImage: there is none.
        """
        if generation is None:
            last = self._last(name)
            if last is not None:
                return last
            raise UnknownImage(f"no image is named {name}", hint="nodectl image list shows all")
        document = self._catalog.get(release_key(name, generation))
        if document is None:
            raise UnknownImage(
                f"image {name} has no generation {generation}",
                hint=f"nodectl image show {name} shows those it has",
            )
        return ReleaseRecord.from_json(document.value)

    def list(self, name: str = "") -> tuple[ReleaseRecord, ...]:
        """Return all releases (of one name), sorted by name and generation."""
        prefix = f"releases/{name}/" if name else "releases/"
        return tuple(ReleaseRecord.from_json(doc.value) for doc in self._catalog.list(prefix))

    def of_root(self, root: Root) -> tuple[ReleaseRecord, bytes]:
        """Return the last release of a root, and its root block.

        Raises:
            UnknownImage: no release has this root.
        """
        document = self._catalog.get(root_key(root))
        if document is None:
            raise UnknownImage(f"no image has the root {root.hex()}")
        value = document.value
        return self.get(value["name"], value["generation"]), bytes.fromhex(value["root_block"])

    def name_of(self, root: Root) -> str | None:
        """Return the image of which this was published last as a generation, or None."""
        document = self._catalog.get(root_key(root))
        return None if document is None else str(document.value["name"])

    def names_of(self, root: Root) -> frozenset[str]:
        """Return all images of which this is a generation; reads every release."""
        records = (ReleaseRecord.from_json(doc.value) for doc in self._catalog.list("releases/"))
        return frozenset(r.signed.release.name for r in records if r.signed.release.root == root)

    def swarm_key(self, root: Root) -> bytes:
        """Return the present key of a root's swarm."""
        return self._realm.key.swarm_key(root, self._epoch)

    def change_swarm_keys(self) -> None:
        """Give every swarm another key, which who was removed from the realm does not hear."""
        for _ in range(_PUBLISH_TRIES):
            document = self._catalog.get(_EPOCH_KEY)
            expected = ABSENT if document is None else document.revision
            epoch = 1 + (0 if document is None else int(document.value["epoch"]))
            try:
                self._catalog.put(_EPOCH_KEY, {"epoch": epoch}, expected=expected)
            except WriteConflict:
                continue
            self._epoch = epoch
            return
        raise WriteConflict("too many nodes are removed at once", hint="try again")

    def _last(self, name: str) -> ReleaseRecord | None:
        found: tuple[Document, ...] = self._catalog.list(f"releases/{name}/")
        return ReleaseRecord.from_json(found[-1].value) if found else None

    def _next(self, wanted: Publication, last: ReleaseRecord | None) -> ReleaseRecord:
        release = Release(
            realm=self._realm.realm_id,
            name=wanted.name,
            generation=1 if last is None else last.signed.release.generation + 1,
            root=wanted.root,
            kind=wanted.kind,
            created=int(self._now()),
            totals=wanted.totals,
        )
        return ReleaseRecord(
            signed=sign_release(release, self._realm.publisher), origin=wanted.origin
        )

    def _keep_root(self, wanted: Publication, record: ReleaseRecord) -> ReleaseRecord:
        """Write what tickets are made from; also heals a publication that was cut off here."""
        key = root_key(wanted.root)
        present = self._catalog.get(key)
        value = {
            "name": wanted.name,
            "generation": record.signed.release.generation,
            "root_block": wanted.root_block.hex(),
        }
        if present is None or present.value != value:
            expected = ABSENT if present is None else present.revision
            self._catalog.put(key, value, expected=expected)
        return record
