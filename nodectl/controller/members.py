"""Who belongs to the realm: join tokens are issued and spent here, nodes are added and removed.

All state is in the catalog; a token's use and a node's name are taken by compare-and-set, so that a
token for one use is used once however many machines try at the same moment.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from nodectl.catalog.model import ABSENT, Catalog
from nodectl.catalog.records import NodeRecord, node_key, token_key
from nodectl.controller.publishers import Publishers
from nodectl.errors import NameTaken, TokenRefused, UnknownNode, UnknownToken, WriteConflict
from nodectl.trust.certificate import issue_member
from nodectl.trust.realm import Realm
from nodectl.trust.release import publisher_of
from nodectl.trust.token import (
    ANY_MACHINE,
    Machine,
    Role,
    Token,
    TokenRecord,
    new_token,
    record_of,
)

_NODES = node_key("")  # the keys of all of them begin so
_LOOK_EVERY_S = 0.05
_OVERLAP_S = 3600  # how long a certificate counts after its successor was issued
_SPEND_TRIES = 1000  # conflicts one after the other: far more than machines that join at once


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRequest:
    """What a machine sends in order to join."""

    realm_id: str
    token_id: str
    token_secret: bytes = field(repr=False)
    name: str
    node_secret: bytes = field(repr=False)  # made by the node: sent again, it is the same join
    macs: tuple[str, ...] = ()  # of its network cards, as it says itself
    request: bytes = b""  # PKCS#10, PEM: for its certificate
    replaces: bool = False  # it proved that it is the node that has this name now


class Members:
    """The nodes and join tokens of one realm."""

    def __init__(
        self,
        catalog: Catalog,
        realm: Realm,
        now: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Work on a catalog; `now` is the controller's clock, seconds since 1970."""
        self._catalog = catalog
        self._realm = realm
        self._now = now
        self._publishers = Publishers(catalog, realm, now)
        self._trust = realm.trust_mark()
        # `find` is asked with each request of each member. What is written here is forgotten at
        # once; for what others wrote the catalog is asked `_LOOK_EVERY_S`.
        self._known: dict[str, NodeRecord] = {}
        self._known_at = catalog.revision()
        self._monotonic = monotonic
        self._looked = monotonic()
        self._knowing = threading.Lock()

    def use(self, realm: Realm) -> None:
        """Go on with other keys of the same realm."""
        self._realm = realm
        self._trust = realm.trust_mark()

    def issue_token(
        self,
        urls: tuple[str, ...],
        *,
        role: Role,
        ttl_s: int,
        uses: int,
        machine: Machine = ANY_MACHINE,
        replaces: bool = False,
    ) -> Token:
        """Make a join token; only a hash of its secret is kept.

        With `replaces` it lets its machine take the place of the member of its name.
        """
        token = new_token(urls, self._realm.ca_sha256(), self._realm.realm_id)
        end = int(self._now()) + ttl_s
        record = record_of(
            token, role=role, expires=end, uses=uses, machine=machine, replaces=replaces
        )
        self._catalog.put(token_key(token.token_id), record.to_json(), expected=ABSENT)
        return token

    def tokens(self) -> tuple[TokenRecord, ...]:
        """Return all join tokens, used and expired ones too, by id."""
        return tuple(TokenRecord.from_json(dict(d.value)) for d in self._catalog.list("tokens/"))

    def revoke_token(self, token_id: str) -> None:
        """Forget a join token: nobody joins with it any more.

        Raises:
            UnknownToken: there is none of that id.
        """
        try:
            document = self._catalog.get(token_key(token_id))
        except ValueError:
            document = None
        if document is None:
            raise UnknownToken(
                f"no token has the id {token_id[:40]!r}", hint="nodectl token list shows all"
            )
        self._catalog.delete(token_key(token_id), expected=document.revision)

    def forget_token(self, token_id: str) -> None:
        """Forget a join token, if it is there."""
        with contextlib.suppress(UnknownToken, WriteConflict):
            self.revoke_token(token_id)

    def token_is_good(self, token_id: str) -> bool:
        """Say whether somebody can still join with a token."""
        document = self._catalog.get(token_key(token_id))
        if document is None:
            return False
        record = TokenRecord.from_json(dict(document.value))
        return record.uses_left > 0 and self._now() < record.expires

    def spend_again(self, token_id: str) -> None:
        """Take a use of a token that the catalog has forgotten."""
        for _ in range(_SPEND_TRIES):
            document = self._catalog.get(token_key(token_id)) if token_id else None
            if document is None:
                return
            record = TokenRecord.from_json(dict(document.value))
            if record.uses_left < 1:
                return
            try:
                self._put_token(record.used(), document.revision)
            except WriteConflict:
                continue
            return

    def add_first(self, name: str, secret: bytes) -> NodeRecord:
        """Add the machine that makes the realm."""
        return self._add(
            NodeRecord(name=name, role=Role.OPERATOR, secret=secret, joined=int(self._now()))
        )

    def join(
        self,
        request: JoinRequest,
        *,
        replaced: Callable[[NodeRecord], None] = lambda _before: None,
    ) -> NodeRecord:
        """Add a machine that shows a token.

        `replaced` hears of a member whose place a boot ticket's machine is about to take.

        Raises:
            TokenRefused: the token is unknown, wrong, expired, used, or of another realm.
            NameTaken: another node has the name; the token's use is not spent.
        """
        if request.realm_id != self._realm.realm_id:
            raise TokenRefused(
                "the join token belongs to another realm",
                hint=f"make one on the controller of {self._realm.name}: nodectl token create",
            )
        present = self.find(request.name)
        if present is not None and _is_same_join(present, request):
            return present
        replaces = request.replaces or self._checked_token(request)[0].replaces
        if present is not None and not replaces:
            raise _name_taken(request.name)
        token = self._spend(request)
        if present is not None and token.replaces:
            replaced(present)
        node = NodeRecord(
            name=request.name,
            role=token.role,
            secret=request.node_secret,
            joined=int(self._now()),
            token_id=request.token_id,
        )
        try:
            return self.change(node) if replaces else self._add(node)
        except WriteConflict as exc:
            self._give_back(request.token_id)
            raise _name_taken(request.name) from exc

    def find(self, name: str) -> NodeRecord | None:
        """Return a node, or None; what another process wrote is seen within `_LOOK_EVERY_S`."""
        with self._knowing:
            if self._monotonic() - self._looked >= _LOOK_EVERY_S:
                self._forget_changed()
            known = self._known.get(name)
            if known is None:
                document = self._catalog.get(node_key(name))
                if document is None:
                    return None
                known = self._known[name] = NodeRecord.from_json(document.value)
            return known

    def _forget_changed(self) -> None:
        """Forget the records of nodes that were written since the last look."""
        self._looked = self._monotonic()
        revision = self._catalog.revision()
        if revision == self._known_at:
            return
        if revision < self._known_at:
            self._known.clear()
        # What is written after `revision` was asked is found by the next look once more.
        for change in self._catalog.changes(self._known_at, prefix=_NODES):
            self._known.pop(change.key.removeprefix(_NODES), None)
        self._known_at = revision

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Forget what is known of a node when it has been written, or was tried to be."""
        with self._knowing:
            try:
                yield
            finally:
                self._known.pop(name, None)

    def get(self, name: str) -> NodeRecord:
        """Return a node.

        Raises:
            UnknownNode: there is none of that name.
        """
        found = self.find(name)
        if found is None:
            raise UnknownNode(f"no node is named {name}", hint="nodectl node list shows all")
        return found

    def list(self) -> tuple[NodeRecord, ...]:
        """Return all nodes by name."""
        return tuple(NodeRecord.from_json(d.value) for d in self._catalog.list("nodes/"))

    def remove(self, name: str) -> None:
        """Remove a node: its secret is worth nothing from now on.

        Raises:
            UnknownNode: there is none of that name.
        """
        document = self._catalog.get(node_key(name))
        if document is None:
            raise UnknownNode(f"no node is named {name}", hint="nodectl node list shows all")
        with self._writing(name):
            self._catalog.delete(node_key(name), expected=document.revision)

    def _add(self, node: NodeRecord) -> NodeRecord:
        with self._writing(node.name):
            self._catalog.put(node_key(node.name), node.to_json(), expected=ABSENT)
        return node

    def change(self, node: NodeRecord) -> NodeRecord:
        """Write a node's record in the place of the one it has, if any."""
        document = self._catalog.get(node_key(node.name))
        expected = ABSENT if document is None else document.revision
        with self._writing(node.name):
            self._catalog.put(node_key(node.name), node.to_json(), expected=expected)
        return node

    def _checked_token(self, request: JoinRequest) -> tuple[TokenRecord, int]:
        """Return the token's record and its revision."""
        try:
            document = self._catalog.get(token_key(request.token_id))
        except ValueError:
            document = None
        if document is None:
            raise TokenRefused("the join token is wrong: no token has its id")
        record = TokenRecord.from_json(dict(document.value))
        record.check(request.token_secret, int(self._now()))
        record.check_machine(request.name, request.macs)
        return record, document.revision

    def _spend(self, request: JoinRequest) -> TokenRecord:
        for _ in range(_SPEND_TRIES):
            record, revision = self._checked_token(request)
            try:
                self._put_token(record.used(), revision)
            except WriteConflict:
                continue
            return record
        raise WriteConflict("too many machines use this token at once", hint="join again")

    def _give_back(self, token_id: str) -> None:
        for _ in range(_SPEND_TRIES):
            document = self._catalog.get(token_key(token_id))
            if document is None:
                return
            record = TokenRecord.from_json(dict(document.value))
            try:
                self._put_token(record.given_back(), document.revision)
            except WriteConflict:
                continue
            return

    def _put_token(self, record: TokenRecord, revision: int) -> None:
        self._catalog.put(token_key(record.token_id), record.to_json(), expected=revision)

    def certify(self, name: str, request: bytes, *, keep: bool = True) -> bytes:
        """Issue a certificate for a member and return it, PEM.

        The one before it stays good for `_OVERLAP_S` (processes that began with it go on), unless
        `keep` is False.

        Raises:
            InvalidInput: the request is none.
            UnknownNode: there is no such member.
        """
        pem, issued = issue_member(self._realm.issuer(), request, name=name, now=self._now())
        issued = replace(issued, ca=self._trust)
        for _ in range(_SPEND_TRIES):
            document = self._catalog.get(node_key(name))
            if document is None:
                break
            node = NodeRecord.from_json(document.value)
            old = node.certificates[:1] if keep else ()
            changed = replace(node, certificates=(issued, *old))
            try:
                with self._writing(name):
                    self._catalog.put(node_key(name), changed.to_json(), expected=document.revision)
            except WriteConflict:
                continue
            return pem
        raise UnknownNode(f"no node is named {name}", hint="nodectl node list shows all")

    def renewal_due(self, node: NodeRecord) -> bool:
        """Say whether a member should ask for a new certificate."""
        return not node.certificates or node.certificates[0].due(self._now(), self._trust)

    def renewed(self, name: str, request: bytes) -> dict[str, Any]:
        """Issue the next certificate of a member; return what it is told."""
        return {**self._facts(), "certificate": self.certify(name, request).decode("ascii")}

    def welcome(self, node: NodeRecord, certificate: bytes) -> dict[str, Any]:
        """Return what a node that joined is told: everything for its node.json but its secrets."""
        return {
            **self._facts(),
            "realm_id": self._realm.realm_id,
            "realm_name": self._realm.name,
            "node": node.name,
            "role": node.role.value,
            "certificate": certificate.decode("ascii"),
        }

    def _facts(self) -> dict[str, Any]:
        """Return what every member learns again when its certificate is renewed."""
        return {
            "ca_pem": self._realm.trusted().decode("ascii"),
            "content_keys": self._realm.content_keys().to_hex(),
            "job_keys": [publisher_of(self._realm.job_key).hex()],
            "publishers": [one.to_json() for one in self._publishers.list()],
        }


def good_certificate(node: NodeRecord, serial: str, now: float) -> bool:
    """Say whether a certificate of a member counts: the newest, or for a while the one before."""
    for index, one in enumerate(node.certificates):
        if one.serial == serial:
            replaced = node.certificates[0].begins + _OVERLAP_S if index else one.ends
            return now < min(one.ends, replaced)
    return False


def _is_same_join(present: NodeRecord, request: JoinRequest) -> bool:
    """Say whether this is a join whose answer was lost, sent again."""
    return present.secret == request.node_secret and present.token_id == request.token_id


def _name_taken(name: str) -> NameTaken:
    return NameTaken(
        f"another node is named {name}",
        hint=f"choose another --name, or on the controller: nodectl node remove {name}",
    )
