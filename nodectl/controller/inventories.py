"""The inventory of all nodes: read, written by compare-and-set, and nothing claimed twice.

A copy of all documents is kept in memory and brought up to date from the catalog's changes before
each use, so that whoever else writes the catalog is seen.
"""

from collections.abc import Iterator, Sequence

from nodectl.catalog.inventory import PREFIX, NodeInventory, inventory_key
from nodectl.catalog.inventory_text import read_inventory
from nodectl.catalog.model import ABSENT, Catalog
from nodectl.errors import NameTaken, UnknownNode, WriteConflict

_SHOWN = 10


class Inventories:
    """What is said of each node of one realm."""

    def __init__(self, catalog: Catalog) -> None:
        """Work on a catalog."""
        self._catalog = catalog
        self._seen = 0  # the catalog's revision that `_known` is of
        self._known: dict[str, tuple[NodeInventory, int]] = {}
        self._owners: dict[str, str] = {}  # "MAC ...", "address ..." -> node

    def find(self, name: str) -> tuple[NodeInventory, int] | None:
        """Return what is said of a node and its revision, or None."""
        self._refresh()
        return self._known.get(name)

    def get(self, name: str) -> tuple[NodeInventory, int]:
        """Return what is said of a node and its revision.

        Raises:
            UnknownNode: nothing is.
        """
        found = self.find(name)
        if found is None:
            raise UnknownNode(
                f"the inventory has no node {name}", hint="nodectl node list shows all"
            )
        return found

    def list(self) -> tuple[tuple[NodeInventory, int], ...]:
        """Return everything with its revision, by name."""
        self._refresh()
        return tuple(self._known[name] for name in sorted(self._known))

    def rack(self, name: str) -> str:
        """Return the rack that a node stands in; an empty text when nobody said."""
        found = self.find(name)
        return "" if found is None else found[0].rack

    def with_mac(self, mac: str) -> NodeInventory | None:
        """Return the node that has a hardware address (lower case), or None."""
        self._refresh()
        name = self._owners.get(f"MAC {mac}")
        return None if name is None else self._known[name][0]

    def put(self, wanted: NodeInventory, *, expected: int) -> int:
        """Write what is said of a node whose revision is `expected`; return the next revision.

        Raises:
            WriteConflict: somebody else wrote it, or it is there already (`expected` 0).
            NameTaken: another node has one of its MACs or addresses.
        """
        self.check((wanted,))
        name = wanted.name
        try:
            document = self._catalog.put(inventory_key(name), wanted.to_json(), expected=expected)
        except WriteConflict as exc:
            if expected == ABSENT:
                raise NameTaken(
                    f"the inventory has a node {name} already",
                    hint=f"change it: nodectl node set {name}",
                ) from exc
            raise WriteConflict(
                f"the inventory of {name} was changed meanwhile", hint="look at it and repeat"
            ) from exc
        return document.revision

    def check(self, wanted: Sequence[NodeInventory]) -> None:
        """Refuse MACs and addresses that another node has; also among the nodes given.

        Raises:
            NameTaken: each that is taken, with its owner.
        """
        self._refresh()
        replaced = {one.name for one in wanted}
        owners = {what: who for what, who in self._owners.items() if who not in replaced}
        taken = []
        for one in wanted:
            for what in _claims(one):
                other = owners.setdefault(what, one.name)
                if other != one.name:
                    taken.append(f"{other} has the {what} that {one.name} would get")
        if taken:
            more = f" (and {len(taken) - _SHOWN} more)" if len(taken) > _SHOWN else ""
            raise NameTaken(
                "; ".join(taken[:_SHOWN]) + more, hint="nothing was written; change one of the two"
            )

    def remove(self, name: str) -> None:
        """Forget what is said of a node.

        Raises:
            UnknownNode: nothing is.
        """
        _, revision = self.get(name)
        self._catalog.delete(inventory_key(name), expected=revision)

    def _refresh(self) -> None:
        now = self._catalog.revision()
        if now == self._seen:
            return
        for change in self._catalog.changes(self._seen, prefix=PREFIX):
            name = change.key.removeprefix(PREFIX)
            self._forget(name)
            if change.document is not None:
                found = read_inventory(change.document.value, name=name, source=change.key)
                self._known[name] = (found, change.revision)
                self._owners |= dict.fromkeys(_claims(found), name)
        self._seen = now

    def _forget(self, name: str) -> None:
        before = self._known.pop(name, None)
        for what in _claims(before[0]) if before else ():
            if self._owners.get(what) == name:  # not already somebody else's
                del self._owners[what]


def _claims(one: NodeInventory) -> Iterator[str]:
    """Yield what only one node of a realm may have."""
    for mac in one.all_macs():
        yield f"MAC {mac}"
    for address in one.all_addresses():
        yield f"address {address}"
    if one.bmc:
        yield f"BMC address {one.bmc}"
