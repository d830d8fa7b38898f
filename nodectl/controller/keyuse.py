"""Which releases are sealed with a realm key that is being given up."""

from nodectl.catalog.model import Catalog
from nodectl.catalog.records import ReleaseRecord, root_key
from nodectl.content.format import decode_root_block
from nodectl.content.frame import realm_tag
from nodectl.errors import ContentInvalid
from nodectl.trust.realm import Realm


def of_other_keys(catalog: Catalog, realm: Realm) -> tuple[ReleaseRecord, ...]:
    """Return the releases that the present realm key alone does not open, by name."""
    tag = realm_tag(realm.key.content_keys())
    records = (ReleaseRecord.from_json(doc.value) for doc in catalog.list("releases/"))
    return tuple(one for one in records if _tag_of(catalog, one) != tag)


def _tag_of(catalog: Catalog, record: ReleaseRecord) -> bytes:
    document = catalog.get(root_key(record.signed.release.root))
    if document is None:
        return b""
    try:
        return decode_root_block(bytes.fromhex(document.value["root_block"])).realm_tag
    except ContentInvalid:
        return b""
