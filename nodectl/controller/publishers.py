"""The realm's publishers: listed, added and revoked here; `trust/publisher.py` says what one is."""

from collections.abc import Callable

from nodectl.catalog.model import ABSENT, Catalog
from nodectl.errors import AlreadyThere, InvalidInput, UnknownPublisher, WriteConflict
from nodectl.trust.publisher import Publisher
from nodectl.trust.realm import Realm
from nodectl.trust.release import publisher_of

_PREFIX = "publishers/"
_TRIES = 100


class Publishers:
    """The publishers of one realm; the realm's own key is one of them from the beginning."""

    def __init__(self, catalog: Catalog, realm: Realm, now: Callable[[], float]) -> None:
        """Work on a catalog; `now` is the controller's clock, seconds since 1970."""
        self._catalog = catalog
        self._now = now
        own = publisher_of(realm.publisher)
        self._own = Publisher(key=own, name="realm", added=realm.created)

    def list(self) -> tuple[Publisher, ...]:
        """Return all, revoked and expired ones too."""
        documents = self._catalog.list(_PREFIX)
        known = {self._own.key: self._own}
        known |= {one.key: one for one in (Publisher.from_json(d.value) for d in documents)}
        return tuple(known.values())

    def add(self, key: bytes, *, name: str, ttl_s: int = 0) -> Publisher:
        """Trust a key from now on, for `ttl_s` seconds (0: for good).

        Raises:
            InvalidInput: the key was revoked: a key once lost is lost for good.
            AlreadyThere: it is trusted already.
        """
        known = {one.key: one for one in self.list()}.get(key)
        now = int(self._now())
        if known is not None and known.revoked:
            raise InvalidInput(
                f"the key of {known.name} was revoked", hint="make another key, and add that"
            )
        if known is not None and (not known.expires or now < known.expires):
            raise AlreadyThere(f"the key is known already, as {known.name}")
        return self._put(
            Publisher(key=key, name=name, added=now, expires=now + ttl_s if ttl_s else 0)
        )

    def revoke(self, text: str) -> Publisher:
        """Revoke the publisher that a name, or the beginning of its key, means.

        Raises:
            UnknownPublisher: none, or more than one.
        """
        found = [
            one
            for one in self.list()
            if one.name == text or (text and one.key.hex().startswith(text.lower()))
        ]
        if len(found) != 1:
            raise UnknownPublisher(
                f"{len(found) or 'no'} publishers are meant by {text[:70]!r}",
                hint="nodectl publisher list shows all, with their keys",
            )
        old = found[0]
        return self._put(
            Publisher(
                key=old.key, name=old.name, added=old.added, expires=old.expires, revoked=True
            )
        )

    def _put(self, one: Publisher) -> Publisher:
        for _ in range(_TRIES):
            present = self._catalog.get(_PREFIX + one.key.hex())
            expected = ABSENT if present is None else present.revision
            try:
                self._catalog.put(_PREFIX + one.key.hex(), one.to_json(), expected=expected)
            except WriteConflict:
                continue
            return one
        raise WriteConflict("too many change this publisher at once", hint="try again")
