"""The files of a site at the controller: sealed in the catalog, handed to the nodes of their group.

A document is `{"file": {...}, "sealed": hex}`; the file's own fields are bound to the content
(`sealed.py`), so that a secret cannot be given another group or path by whoever can write the
catalog. Content is in no log, error or audit entry.
"""

from nodectl.catalog.model import ABSENT, Catalog, Document
from nodectl.catalog.site_files import EVERYBODY, PREFIX, FilledFile, SiteFile, file_key
from nodectl.controller.inventories import Inventories
from nodectl.controller.sealed import Sealer
from nodectl.errors import ContentInvalid, NameTaken, PathMissing
from nodectl.trust.realm import Realm


class SiteFiles:
    """The secrets and templates of one realm."""

    def __init__(self, catalog: Catalog, realm: Realm, inventory: Inventories) -> None:
        """Work on a catalog; `inventory` says who is in what group."""
        self._catalog = catalog
        self._inventory = inventory
        self.use(realm)

    def use(self, realm: Realm) -> None:
        """Go on with other keys of the same realm: what an older one sealed is sealed again."""
        self._sealer = Sealer(realm)
        for document in self._catalog.list(PREFIX) if realm.old_keys else ():
            filled = self._open(document)
            self._catalog.put(document.key, self._seal(filled), expected=document.revision)

    def put(self, filled: FilledFile) -> None:
        """Keep a file, in the place of the one of its name.

        Raises:
            NameTaken: another file of the same group is for the same path.
        """
        file = filled.file
        for other in self.list():
            same = (other.group, other.path) == (file.group, file.path)
            if same and other.name != file.name:
                raise NameTaken(
                    f"{other.name} is the /{file.path} of the group {file.group} already",
                    hint=f"remove it: nodectl {other.kind} remove {other.name}",
                )
        document = self._catalog.get(file_key(file.name))
        if document is not None and _file(document).kind is not file.kind:
            raise NameTaken(f"{file.name} is the name of a {_file(document).kind}")
        expected = ABSENT if document is None else document.revision
        self._catalog.put(file_key(file.name), self._seal(filled), expected=expected)

    def list(self) -> tuple[SiteFile, ...]:
        """Return all files by name, without their content."""
        return tuple(_file(document) for document in self._catalog.list(PREFIX))

    def get(self, name: str) -> FilledFile:
        """Return a file with its content.

        Raises:
            PathMissing: there is none of that name.
        """
        return self._open(self._document(name))

    def remove(self, name: str) -> SiteFile:
        """Forget a file; nodes keep what was placed. Return what it was.

        Raises:
            PathMissing: there is none of that name.
        """
        document = self._document(name)
        self._catalog.delete(document.key, expected=document.revision)
        return _file(document)

    def of_node(self, name: str) -> tuple[FilledFile, ...]:
        """Return what a node is given: the files of its groups, by name."""
        found = self._inventory.find(name)
        groups = {EVERYBODY, *(found[0].groups if found else ())}
        return tuple(
            self._open(document)
            for document in self._catalog.list(PREFIX)
            if _file(document).group in groups
        )

    def _document(self, name: str) -> Document:
        document = self._catalog.get(file_key(name))
        if document is None:
            raise PathMissing(
                f"there is no secret or template {name}",
                hint="nodectl secret list and nodectl template list show all",
            )
        return document

    def _seal(self, filled: FilledFile) -> dict[str, object]:
        sealed = self._sealer.seal(filled.content, filled.file.to_json())
        return {"file": filled.file.to_json(), "sealed": sealed}

    def _open(self, document: Document) -> FilledFile:
        file = _file(document)
        content = self._sealer.open(document.value["sealed"], file.to_json())
        if content is None:
            raise ContentInvalid(
                f"the {file.kind} {file.name} was changed in the catalog, or sealed by another "
                "realm",
                hint=f"set it again: nodectl {file.kind} set {file.name}",
            )
        return FilledFile(file=file, content=content)


def _file(document: Document) -> SiteFile:
    return SiteFile.from_json(document.value["file"])
