"""What images are cloned with, at the controller: layouts, options, scripts.

Kept sealed in the catalog like a site's secrets: a script runs as root on every node, so whoever
can write the catalog alone must not change one. Each node is handed what the inventory's image and
layout name.
"""

from collections.abc import Mapping
from typing import Any

from nodectl.catalog.cloning import PREFIX, CloneConfig, CloneOptions, Part, PartKind, PartName
from nodectl.catalog.model import ABSENT, Catalog, Document
from nodectl.controller.inventories import Inventories
from nodectl.controller.sealed import Sealer
from nodectl.disk.text import parse_layout
from nodectl.errors import ContentInvalid, PathMissing
from nodectl.trust.realm import Realm

_NEAREST = 3


class CloneParts:
    """The parts of one realm."""

    def __init__(self, catalog: Catalog, realm: Realm, inventory: Inventories) -> None:
        """Work on a catalog; `inventory` says what a node is meant to run."""
        self._catalog = catalog
        self._inventory = inventory
        self.use(realm)

    def use(self, realm: Realm) -> None:
        """Go on with other keys of the same realm: what an older one sealed is sealed again."""
        self._sealer = Sealer(realm)
        for document in self._catalog.list(PREFIX) if realm.old_keys else ():
            part = self._open(document)
            self._catalog.put(document.key, self._seal(part), expected=document.revision)

    def put(self, part: Part) -> None:
        """Keep a part, in the place of the one of its kind and name.

        Raises:
            LayoutInvalid: it is a disk layout with mistakes.
        """
        if part.what.kind is PartKind.DISKLAYOUT:
            parse_layout(part.text, source=f"disk layout {part.what.name}")
        document = self._catalog.get(part.what.key)
        expected = ABSENT if document is None else document.revision
        self._catalog.put(part.what.key, self._seal(part), expected=expected)

    def list(self) -> tuple[PartName, ...]:
        """Return what there is, without the texts."""
        return tuple(_name(document) for document in self._catalog.list(PREFIX))

    def find(self, kind: PartKind, name: str) -> Part | None:
        """Return a part, or None."""
        document = self._catalog.get(PartName(kind=kind, name=name, title="").key)
        return None if document is None else self._open(document)

    def get(self, kind: PartKind, name: str) -> Part:
        """Return a part.

        Raises:
            PathMissing: there is none.
        """
        found = self.find(kind, name)
        if found is None:
            raise PathMissing(
                f"there is no {kind} of the name {name}",
                hint="nodectl cloner image-details shows what an image has",
            )
        return found

    def remove(self, kind: PartKind, name: str) -> None:
        """Forget a part.

        Raises:
            PathMissing: there is none.
        """
        document = self._catalog.get(self.get(kind, name).what.key)
        if document is not None:
            self._catalog.delete(document.key, expected=document.revision)

    def of_node(self, name: str, image: str = "") -> CloneConfig:
        """Return what a node is cloned with, with its own image or another one.

        Its layout is its own, else its image's.
        """
        found = self._inventory.find(name)
        if found is None:
            return self.of_image(image, "")
        return self.of_image(image or found[0].image, found[0].layout)

    def of_image(self, image: str, disklayout: str) -> CloneConfig:
        """Return what an image on a layout (empty: the one it was captured with) is cloned with."""
        parts = [
            part
            for kind in PartKind
            if kind is not PartKind.DISKLAYOUT and image
            if (part := self.find(kind, image)) is not None
        ]
        options = [part for part in parts if part.what.kind is PartKind.OPTIONS]
        if not disklayout and options:
            disklayout = CloneOptions.from_text(options[0].text).disklayout
        layout = self.find(PartKind.DISKLAYOUT, disklayout) if disklayout else None
        if layout is not None:
            parts.append(layout)
        return CloneConfig(image=image, disklayout=disklayout, parts=tuple(parts))

    def _seal(self, part: Part) -> dict[str, object]:
        said = part_fields(part.what)
        return {"part": said, "sealed": self._sealer.seal(part.content, {"part": said})}

    def _open(self, document: Document) -> Part:
        what = _name(document)
        content = self._sealer.open(document.value["sealed"], {"part": part_fields(what)})
        if content is None or what.key != document.key:
            raise ContentInvalid(
                f"the {what.kind} of {what.name} was changed in the catalog, or sealed by another "
                "realm",
                hint="upload it again",
            )
        return Part(what=what, content=content)


def part_fields(what: PartName) -> dict[str, Any]:
    """Return the JSON of a part's name."""
    return {"kind": what.kind.value, "name": what.name, "title": what.title}


def _name(document: Document) -> PartName:
    said: Mapping[str, Any] = document.value["part"]
    return PartName(kind=PartKind(said["kind"]), name=said["name"], title=said["title"])
