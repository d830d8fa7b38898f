"""Secrets at the controller: sealed, bound to their group and path, for its nodes alone."""

import base64
import dataclasses
import json

import pytest

from nodectl.catalog.inventory import NodeInventory
from nodectl.catalog.memory import MemoryCatalog
from nodectl.catalog.site_files import FilledFile, SiteFile
from nodectl.controller.inventories import Inventories
from nodectl.controller.site_files import SiteFiles
from nodectl.controller.site_files_api import parse_file
from nodectl.errors import ContentInvalid, InvalidInput, NameTaken, PathMissing
from nodectl.trust.keys import RealmKey
from nodectl.trust.realm import Realm, create_realm

SECRET = b"a munge key that nobody sees"


@pytest.fixture(scope="module")
def realm() -> Realm:
    return create_realm("lab", now=0)


def _given(
    name: str = "munge", group: str = "gpu", path: str = "/etc/m", **more: str
) -> FilledFile:
    document = {
        "name": name, "kind": "secret", "group": group, "path": path, "owner": "root",
        "mode": "0400", **more,
    }  # fmt: skip
    return FilledFile(file=SiteFile.from_json(document), content=SECRET)


def _lab(realm: Realm) -> tuple[MemoryCatalog, SiteFiles]:
    catalog = MemoryCatalog()
    inventory = Inventories(catalog)
    inventory.put(NodeInventory(name="n1", groups=("gpu",)), expected=0)
    inventory.put(NodeInventory(name="n2", groups=("cpu",)), expected=0)
    return catalog, SiteFiles(catalog, realm, inventory)


def test_only_nodes_of_the_group_get_it(realm: Realm) -> None:
    _, files = _lab(realm)
    files.put(_given())
    files.put(_given("ca", group="all", path="/etc/ca"))
    names = {node: [one.file.name for one in files.of_node(node)] for node in ("n1", "n2", "n3")}
    assert names == {"n1": ["ca", "munge"], "n2": ["ca"], "n3": ["ca"]}
    assert files.of_node("n1")[1].content == SECRET
    files.remove("munge")
    assert len(files.of_node("n1")) == 1
    for call in (files.remove, files.get):
        with pytest.raises(PathMissing):
            call("munge")


def test_the_catalog_holds_nothing_that_can_be_read(realm: Realm) -> None:
    catalog, files = _lab(realm)
    files.put(_given())
    files.put(_given())  # again: another nonce
    (document,) = catalog.list("files/")
    text = json.dumps(dict(document.value))
    assert SECRET.decode() not in text
    assert SECRET.hex() not in text
    assert SECRET.decode() not in repr(files.get("munge"))


@pytest.mark.parametrize("field", ["group", "path", "owner", "mode", "name"])
def test_who_writes_the_catalog_cannot_give_it_to_others(realm: Realm, field: str) -> None:
    catalog, files = _lab(realm)
    files.put(_given())
    document = catalog.get("files/munge")
    assert document is not None
    other = {"group": "all", "path": "/tmp/x", "owner": "nobody", "mode": "0444", "name": "m"}
    changed = {**document.value, "file": {**document.value["file"], field: other[field]}}
    catalog.put("files/munge", changed, expected=document.revision)
    with pytest.raises(ContentInvalid, match="was changed in the catalog"):
        files.of_node("n1")


def test_a_change_of_the_realm_key_seals_it_again(realm: Realm) -> None:
    catalog, files = _lab(realm)
    files.put(_given())
    changed = dataclasses.replace(realm, key=RealmKey.generate(), old_keys=(realm.key,))
    files.use(changed)
    assert files.of_node("n1")[0].content == SECRET
    done = dataclasses.replace(changed, old_keys=())
    assert SiteFiles(catalog, done, Inventories(catalog)).get("munge").content == SECRET
    with pytest.raises(ContentInvalid):
        SiteFiles(catalog, realm, Inventories(catalog)).get("munge")


def test_one_place_has_one_file(realm: Realm) -> None:
    _, files = _lab(realm)
    files.put(_given())
    files.put(_given(mode="0440"))
    assert files.list()[0].mode == 0o440
    with pytest.raises(NameTaken, match="munge is the /etc/m of the group gpu already"):
        files.put(_given("other"))
    with pytest.raises(NameTaken, match="is the name of a secret"):
        files.put(_given(kind="template"))
    files.put(_given("other", group="cpu"))


@pytest.mark.parametrize("content", ["no base64!", base64.b64encode(bytes(300_000)).decode(), 7])
def test_a_wrong_content_is_refused_and_not_shown(content: object) -> None:
    body = json.dumps({**_given().file.to_json(), "content": content}).encode()
    with pytest.raises(InvalidInput) as caught:
        parse_file(body)
    assert str(content)[:9] not in str(caught.value)
