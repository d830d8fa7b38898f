"""What images are cloned with: sealed at the controller, handed out as the inventory says."""

import dataclasses
import json

import pytest

from nodectl.catalog.cloning import CloneOptions, Part, PartKind, PartName
from nodectl.catalog.inventory import NodeInventory
from nodectl.catalog.memory import MemoryCatalog
from nodectl.controller.cloning import CloneParts
from nodectl.controller.cloning_api import parse_part
from nodectl.controller.inventories import Inventories
from nodectl.disk.model import default_layout
from nodectl.disk.text import format_layout
from nodectl.errors import ContentInvalid, InvalidInput, LayoutInvalid, PathMissing
from nodectl.trust.keys import RealmKey
from nodectl.trust.realm import Realm, create_realm

LAYOUT = format_layout(default_layout()).encode()
SCRIPT = b"#!/bin/sh\necho a word that nobody sees\n"


@pytest.fixture(scope="module")
def realm() -> Realm:
    return create_realm("lab", now=0)


def _part(kind: PartKind, name: str, content: bytes, title: str = "") -> Part:
    return Part(what=PartName(kind=kind, name=name, title=title), content=content)


def _options(**more: str) -> bytes:
    return CloneOptions(**more).to_text().encode()  # type: ignore[arg-type]


def _lab(realm: Realm) -> tuple[MemoryCatalog, CloneParts]:
    catalog = MemoryCatalog()
    inventory = Inventories(catalog)
    inventory.put(NodeInventory(name="n1", image="golden"), expected=0)
    inventory.put(NodeInventory(name="n2", image="golden", layout="big"), expected=0)
    inventory.put(NodeInventory(name="n3"), expected=0)
    return catalog, CloneParts(catalog, realm, inventory)


def test_a_node_gets_what_its_image_and_layout_name(realm: Realm) -> None:
    _, parts = _lab(realm)
    parts.put(_part(PartKind.DISKLAYOUT, "small", LAYOUT))
    parts.put(_part(PartKind.DISKLAYOUT, "big", LAYOUT))
    parts.put(_part(PartKind.OPTIONS, "golden", _options(disklayout="small")))
    parts.put(_part(PartKind.POST, "golden", SCRIPT, "last.sh"))
    parts.put(_part(PartKind.PRE, "other", SCRIPT))
    given = {node: parts.of_node(node) for node in ("n1", "n2", "n3", "nobody")}
    assert {node: (one.image, one.disklayout) for node, one in given.items()} == {
        "n1": ("golden", "small"), "n2": ("golden", "big"), "n3": ("", ""), "nobody": ("", ""),
    }  # fmt: skip
    assert [part.what.kind for part in given["n1"].parts] == ["options", "post", "disklayout"]
    post = given["n2"].part(PartKind.POST)
    assert post is not None
    assert (post.content, post.what.title) == (SCRIPT, "last.sh")
    assert given["n3"].parts == given["nobody"].parts == ()


def test_who_has_the_catalog_alone_neither_reads_nor_changes_a_script(realm: Realm) -> None:
    catalog, parts = _lab(realm)
    parts.put(_part(PartKind.POST, "golden", SCRIPT))
    document = catalog.get("cloning/post/golden")
    assert document is not None
    assert b"nobody sees" not in json.dumps(document.value).encode()
    assert b"nobody sees" not in bytes.fromhex(document.value["sealed"])
    # The script of one image put under another, as a script of another kind, or under its title.
    catalog.put("cloning/pre/golden", document.value, expected=0)
    other = {"part": {"kind": "post", "name": "other", "title": ""}, **document.value}
    catalog.put("cloning/post/other", other, expected=0)
    title = {**document.value, "part": {**document.value["part"], "title": "x"}}
    catalog.put("cloning/post/golden", title, expected=document.revision)
    for kind, name in (
        (PartKind.PRE, "golden"),
        (PartKind.POST, "other"),
        (PartKind.POST, "golden"),
    ):
        with pytest.raises(ContentInvalid, match="changed in the catalog"):
            parts.get(kind, name)


def test_parts_live_on_when_the_realm_key_changes(realm: Realm) -> None:
    catalog, parts = _lab(realm)
    parts.put(_part(PartKind.POST, "golden", SCRIPT))
    rotated = dataclasses.replace(realm, key=RealmKey.generate(), old_keys=(realm.key,))
    parts.use(rotated)
    parts.use(dataclasses.replace(rotated, old_keys=()))
    assert parts.get(PartKind.POST, "golden").content == SCRIPT
    parts.remove(PartKind.POST, "golden")
    assert catalog.list("cloning/") == ()
    for call in (parts.get, parts.remove):
        with pytest.raises(PathMissing, match="no post of the name golden"):
            call(PartKind.POST, "golden")


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (PartKind.POST, b"echo no interpreter"),
        (PartKind.PRE, b""),
        (PartKind.OPTIONS, b"{}"),
        (PartKind.OPTIONS, b"[" * 100_000),
        (PartKind.OPTIONS, b"\xff"),
        (PartKind.OPTIONS, _options(compress="slow")),
        (PartKind.OPTIONS, _options(disklayout="../x")),
        (PartKind.PRE, b"#!" + b"x" * ((256 << 10) + 1)),
    ],
)
def test_what_is_no_part_is_refused(kind: PartKind, content: bytes) -> None:
    with pytest.raises(InvalidInput):
        _part(kind, "golden", content)


def test_a_layout_with_mistakes_is_not_kept(realm: Realm) -> None:
    _, parts = _lab(realm)
    with pytest.raises(LayoutInvalid):
        parts.put(_part(PartKind.DISKLAYOUT, "bad", LAYOUT.replace(b"ext4", b"ext9")))
    assert parts.list() == ()


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"content": "?"}', b'{"content": 1}', b'{"content": "IyE=", "more": 1}',
     b'{"content": "IyE=", "title": "a/b"}', b'{"content": "IyE=", "title": "\\n"}'],
)  # fmt: skip
def test_a_body_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_part(body, PartKind.PRE, "golden")
