"""Which nodes an image is for. By default for every node of the realm; an operator may name them.

An image that is restricted is listed for, and its tickets (with the key of its swarm) are given to,
the nodes named and the operators; nobody else gets one sealed byte of it, since peers answer who
has that key. An installer is not asked for by name: it gets what a job names it for. What is
restricted later changes the keys of all swarms, as the removal of a node does.
"""

from collections.abc import Callable, Iterable

from nodectl.catalog.model import ABSENT, Catalog
from nodectl.catalog.records import NodeRecord
from nodectl.errors import WriteConflict
from nodectl.trust.token import Role

_PREFIX = "access/"
_TRIES = 100


class Access:
    """The images that are not for everybody."""

    def __init__(self, catalog: Catalog, has_job: Callable[[str, str], bool]) -> None:
        """Work on a catalog; `has_job` says whether a job names a node for an image."""
        self._catalog = catalog
        self._has_job = has_job

    def nodes(self, image: str) -> tuple[str, ...] | None:
        """Return whom an image is for besides operators, by name; None: every node."""
        document = self._catalog.get(_PREFIX + image)
        return None if document is None else tuple(document.value["nodes"])

    def may_have(self, node: NodeRecord, image: str) -> bool:
        """Say whether a member may have an image."""
        if node.role is Role.OPERATOR:
            return True
        named = self.nodes(image)
        if named is not None and node.name not in named:
            return False
        return node.role is Role.NODE or self._has_job(node.name, image)

    def shut_out(self, nodes: Iterable[NodeRecord], image: str) -> list[str]:
        """Return those of some members that an image is not for, if a job names them."""
        named = self.nodes(image)
        if named is None:
            return []
        allowed = frozenset(named)
        return [n.name for n in nodes if n.role is not Role.OPERATOR and n.name not in allowed]

    def set(self, image: str, nodes: Iterable[str] | None) -> None:
        """Say whom an image is for; None: every node."""
        value = None if nodes is None else {"nodes": sorted(set(nodes))}
        for _ in range(_TRIES):
            document = self._catalog.get(_PREFIX + image)
            try:
                if value is not None:
                    expected = ABSENT if document is None else document.revision
                    self._catalog.put(_PREFIX + image, value, expected=expected)
                elif document is not None:
                    self._catalog.delete(_PREFIX + image, expected=document.revision)
            except WriteConflict:
                continue
            return
        raise WriteConflict(f"too many say at once whom {image} is for", hint="try again")

    def forget(self, node: str) -> None:
        """Take a node out of every list: who gets its name later is another machine."""
        for document in self._catalog.list(_PREFIX):
            nodes = document.value["nodes"]
            if node in nodes:
                self.set(document.key.removeprefix(_PREFIX), [n for n in nodes if n != node])
