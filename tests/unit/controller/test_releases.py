import pytest
from blake3 import blake3

from nodectl.catalog.memory import MemoryCatalog
from nodectl.controller.releases import Publication, Releases
from nodectl.errors import ContentInvalid, UnknownImage
from nodectl.ids import Root
from nodectl.trust.realm import Realm, create_realm
from nodectl.trust.release import verify_release


@pytest.fixture(scope="module")
def realm() -> Realm:
    return create_realm("lab", now=0)


@pytest.fixture
def releases(realm: Realm) -> Releases:
    return Releases(MemoryCatalog(), realm, lambda: 77.5)


def _wanted(block: bytes, name: str = "golden") -> Publication:
    return Publication(
        name=name,
        root=Root(blake3(block).digest()),
        root_block=block,
        kind="tree",
        totals={"files": 3},
        origin="c",
    )


def test_generations_count_up_and_are_signed(releases: Releases, realm: Realm) -> None:
    first = releases.publish(_wanted(b"one"))
    second = releases.publish(_wanted(b"two"))
    assert (first.signed.release.generation, second.signed.release.generation) == (1, 2)
    assert releases.get("golden") == second
    assert releases.get("golden", 1) == first
    verify_release(second.signed.to_json(), realm=realm.realm_id, publishers=realm.publishers())
    assert second.signed.release.created == 77


def test_the_same_root_again_is_the_same_release(releases: Releases) -> None:
    first = releases.publish(_wanted(b"one"))
    assert releases.publish(_wanted(b"one")) == first
    releases.publish(_wanted(b"two"))
    assert releases.publish(_wanted(b"one")).signed.release.generation == 3


def test_a_root_leads_to_its_last_release_and_its_block(releases: Releases) -> None:
    releases.publish(_wanted(b"one"))
    releases.publish(_wanted(b"two"))
    last = releases.publish(_wanted(b"one"))
    assert releases.of_root(_wanted(b"one").root) == (last, b"one")


def test_names_do_not_mix(releases: Releases) -> None:
    releases.publish(_wanted(b"one", "a"))
    releases.publish(_wanted(b"two", "a-b"))
    assert [r.signed.release.name for r in releases.list("a")] == ["a"]
    assert len(releases.list()) == 2


def test_what_is_not_there(releases: Releases) -> None:
    with pytest.raises(UnknownImage, match="named golden"):
        releases.get("golden")
    releases.publish(_wanted(b"one"))
    with pytest.raises(UnknownImage, match="generation 9"):
        releases.get("golden", 9)
    with pytest.raises(UnknownImage):
        releases.of_root(Root(bytes(32)))


def test_a_root_block_that_is_another_ones_is_refused(releases: Releases) -> None:
    wanted = _wanted(b"one")
    wrong = Publication(**{**_fields(wanted), "root_block": b"two"})
    with pytest.raises(ContentInvalid):
        releases.publish(wrong)


def _fields(wanted: Publication) -> dict[str, object]:
    return {name: getattr(wanted, name) for name in Publication.__dataclass_fields__}
