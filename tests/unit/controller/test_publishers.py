import pytest

from nodectl.catalog.memory import MemoryCatalog
from nodectl.controller.publishers import Publishers
from nodectl.errors import AlreadyThere, InvalidInput, UnknownPublisher
from nodectl.trust.publisher import trusted_keys
from nodectl.trust.realm import Realm, create_realm
from nodectl.trust.release import publisher_of

KEY = b"k" * 32


@pytest.fixture(scope="module")
def realm() -> Realm:
    return create_realm("lab", now=0)


def test_the_realms_own_key_is_the_first_and_can_be_revoked(realm: Realm) -> None:
    publishers = Publishers(MemoryCatalog(), realm, lambda: 50.0)
    own = publisher_of(realm.publisher)
    assert [one.key for one in publishers.list()] == [own]
    publishers.revoke("realm")
    assert trusted_keys(publishers.list(), 50) == frozenset()


def test_a_key_is_added_expires_and_is_added_again(realm: Realm) -> None:
    now = [50.0]
    publishers = Publishers(MemoryCatalog(), realm, lambda: now[0])
    publishers.add(KEY, name="site", ttl_s=10)
    assert KEY in trusted_keys(publishers.list(), now[0])
    with pytest.raises(AlreadyThere, match="as site"):
        publishers.add(KEY, name="other")
    now[0] = 60.0
    assert KEY not in trusted_keys(publishers.list(), now[0])
    publishers.add(KEY, name="site")
    assert KEY in trusted_keys(publishers.list(), 10**9)


def test_a_revoked_key_stays_revoked(realm: Realm) -> None:
    publishers = Publishers(MemoryCatalog(), realm, lambda: 50.0)
    publishers.add(KEY, name="site")
    assert publishers.revoke(KEY.hex()[:8]).revoked
    with pytest.raises(InvalidInput, match="was revoked"):
        publishers.add(KEY, name="site")
    with pytest.raises(UnknownPublisher):
        publishers.revoke("nobody")
    with pytest.raises(UnknownPublisher):
        publishers.revoke("")
