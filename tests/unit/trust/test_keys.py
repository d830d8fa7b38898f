"""The realm key and what is derived from it."""

import dataclasses

import pytest

from nodectl.ids import Root
from nodectl.trust.keys import ContentKeys, RealmKey

KEY = RealmKey(secret=bytes(range(32)))
ROOT = Root(b"r" * 32)


def test_derived_keys_never_change() -> None:
    """Golden: every store and manifest ever written depends on these values."""
    assert KEY.content_keys().to_hex() == {
        "chunk_id": "1fbb35d4f4e41f7ac2835a9168c6d62c02db836ed2c36ee9ed9c41e3e7e8b540",
        "seal": "0ccd6e4e2e47ff04c2dcd28729552a68e071dab82133634424754aeea51a24f2",
        "nonce": "792ba7981892de4a984f66c43fc53d0d3b6f5977900bf1257ce087312a5746e1",
    }
    assert (
        KEY.swarm_key(ROOT).hex()
        == "5416cc9e2de85703d3548606cf6c7c82983e9884b1720e261980697c53267af0"
    )


def test_each_purpose_has_a_key_of_its_own() -> None:
    keys = KEY.content_keys()
    values = [keys.chunk_id, keys.seal, keys.nonce, KEY.swarm_key(ROOT), KEY.secret]
    assert len(set(values)) == len(values)


def test_each_manifest_has_a_swarm_key_of_its_own() -> None:
    assert KEY.swarm_key(ROOT) != KEY.swarm_key(Root(b"s" * 32))
    assert len(KEY.swarm_key(ROOT)) == 32


def test_two_realms_share_nothing() -> None:
    one, two = RealmKey.generate(), RealmKey.generate()
    assert one != two
    assert one.content_keys() != two.content_keys()
    assert one.swarm_key(ROOT) != two.swarm_key(ROOT)


def test_content_keys_go_to_hex_and_back() -> None:
    keys = KEY.content_keys()
    assert ContentKeys.from_hex(keys.to_hex()) == keys


@pytest.mark.parametrize(
    "change",
    [
        {"chunk_id": ""},
        {"seal": "00" * 31},
        {"nonce": "zz" * 32},
        {"extra": "00" * 32},
    ],
)
def test_documents_that_are_no_content_keys_are_refused(change: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"."):
        ContentKeys.from_hex({**KEY.content_keys().to_hex(), **change})


def test_an_absent_key_is_refused() -> None:
    document = KEY.content_keys().to_hex()
    del document["nonce"]
    with pytest.raises(ValueError, match="chunk_id, seal and nonce"):
        ContentKeys.from_hex(document)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_keys_of_a_wrong_length_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        RealmKey(secret=bytes(length))
    with pytest.raises(ValueError, match="32 bytes"):
        ContentKeys(chunk_id=bytes(32), seal=bytes(32), nonce=bytes(length))


def test_no_key_is_ever_shown() -> None:
    older = RealmKey(secret=b"o" * 32).content_keys()
    keys = dataclasses.replace(KEY.content_keys(), older=(older,))
    shown = repr(KEY) + repr(keys)
    secrets = (keys.chunk_id, keys.seal, keys.nonce, older.chunk_id, older.seal, older.nonce)
    for secret in (KEY.secret, *secrets):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown


def test_keys_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        KEY.secret = bytes(32)  # type: ignore[misc]
