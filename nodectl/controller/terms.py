"""How fast the swarm of an image may go, and whether it rests: kept in the catalog, for all nodes.

Nodes hear of it with the answer to each announcement, and go on by what they heard last while no
controller answers.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from aiohttp import web

from nodectl.catalog.model import ABSENT, Catalog
from nodectl.controller import wire
from nodectl.controller.releases import Releases
from nodectl.errors import InvalidInput, WriteConflict
from nodectl.swarm.terms import WEIGHT_MAX, Terms

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Note = Callable[..., None]  # (request, what, whom, **details): writes the audit log
_PREFIX = "terms/"
_TRIES = 100
CLONE_WEIGHT = 10  # times the weight of an image, while a node is being cloned from it


class SwarmTerms:
    """The terms of each image, and the paths of the control API that show and set them."""

    def __init__(
        self, catalog: Catalog, releases: Releases, note: Note, cloning: Callable[[str], bool]
    ) -> None:
        """Work on a catalog; `note` writes the audit log, `cloning` names images in use."""
        self._cloning = cloning
        self._catalog = catalog
        self._releases = releases
        self._note = note

    def of(self, image: str) -> Terms:
        """Return the terms of an image's swarms."""
        document = self._catalog.get(_PREFIX + image)
        return Terms() if document is None else Terms.from_json(document.value)

    def in_force(self, image: str) -> Terms:
        """Return the terms that nodes are to keep to now: a clone goes before a sync by itself."""
        terms = self.of(image)
        if not self._cloning(image):
            return terms
        return replace(terms, weight=min(WEIGHT_MAX, CLONE_WEIGHT * terms.weight))

    def set(self, image: str, terms: Terms) -> None:
        """Write the terms of an image's swarms."""
        for _ in range(_TRIES):
            document = self._catalog.get(_PREFIX + image)
            expected = ABSENT if document is None else document.revision
            try:
                self._catalog.put(_PREFIX + image, terms.to_json(), expected=expected)
            except WriteConflict:
                continue
            return
        raise WriteConflict(f"too many change the swarm of {image} at once", hint="try again")

    def routes(self) -> Mapping[tuple[str, str], Handler]:
        """Return the handler of each path."""
        return {
            ("GET", "/v1/releases/{name}/swarm"): self._show,
            ("PUT", "/v1/releases/{name}/swarm"): self._set,
        }

    async def _show(self, request: web.Request) -> web.Response:
        name = wire.parse_name(request.match_info["name"])
        self._releases.get(name)
        return web.json_response(self.of(name).to_json())

    async def _set(self, request: web.Request) -> web.Response:
        name = wire.parse_name(request.match_info["name"])
        self._releases.get(name)
        terms = parse_terms(await request.read())
        self.set(name, terms)
        self._note(request, "swarm terms", name, **terms.to_json())
        return web.json_response(terms.to_json())


def parse_terms(body: bytes) -> Terms:
    """Return the terms that a body says.

    Raises:
        InvalidInput: it says none.
    """
    fields = wire.Fields(body, where="terms")
    given = {
        "paused": fields.take("paused", bool),
        "upload_rate": fields.optional_count("upload_rate"),
        "download_rate": fields.optional_count("download_rate"),
        "weight": fields.count("weight"),
    }
    fields.end()
    try:
        return Terms.from_json(given)
    except ValueError as exc:
        raise InvalidInput(f"terms: {exc}") from exc
