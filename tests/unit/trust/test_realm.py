import datetime as dt
import ssl
from pathlib import Path

import pytest

from nodectl.errors import NoRealm, PathUnreadable
from nodectl.trust.ca import (
    CONTROLLER_NAME,
    client_context,
    fingerprint,
    presented_chain,
    server_context,
    unverified_context,
)
from nodectl.trust.realm import Realm, chain_files, create_realm, load_realm, write_realm


@pytest.fixture(scope="module")
def realm() -> Realm:
    return create_realm("lab", now=1_700_000_000)


def test_a_realm_reads_back_and_its_files_are_private(realm: Realm, tmp_path: Path) -> None:
    write_realm(realm, tmp_path / "realm")
    again = load_realm(tmp_path / "realm")
    assert again.key == realm.key
    assert (again.realm_id, again.name, again.created) == (realm.realm_id, "lab", 1_700_000_000)
    assert again.publishers() == realm.publishers()
    assert again.controller == realm.controller
    modes = {f.name: f.stat().st_mode & 0o777 for f in (tmp_path / "realm").iterdir()}
    assert set(modes.values()) == {0o600}, modes
    assert (tmp_path / "realm").stat().st_mode & 0o777 == 0o700


def test_no_secret_is_shown(realm: Realm) -> None:
    shown = repr(realm)
    assert "PRIVATE KEY" not in shown
    assert repr(realm.key.secret) not in shown


def test_two_realms_share_nothing(realm: Realm) -> None:
    other = create_realm("lab", now=1_700_000_000)
    assert other.realm_id != realm.realm_id
    assert other.key != realm.key
    assert other.ca_sha256() != realm.ca_sha256()
    assert other.publishers() != realm.publishers()


def test_no_realm_and_a_damaged_one_are_told_apart(realm: Realm, tmp_path: Path) -> None:
    with pytest.raises(NoRealm):
        load_realm(tmp_path)
    write_realm(realm, tmp_path)
    (tmp_path / "realm.key").write_text("short")
    with pytest.raises(PathUnreadable):
        load_realm(tmp_path)


def _server(folder: Path) -> ssl.SSLContext:
    return server_context(*chain_files(folder), (folder / "ca.pem").read_bytes())


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> ssl.SSLObject:
    """Run a TLS handshake in memory and return the client's side."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    left = client.wrap_bio(to_client, to_server, server_hostname=name)
    right = server.wrap_bio(to_server, to_client, server_side=True)
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for side in (left, right):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                continue
        if len(done) == 2:
            return left
    pytest.fail("the handshake does not end")


def test_a_member_accepts_its_controller_only(realm: Realm, tmp_path: Path) -> None:
    write_realm(realm, tmp_path / "r")
    server = _server(tmp_path / "r")
    good = _handshake(server, client_context(realm.authority.certificate), CONTROLLER_NAME)
    assert good.version() == "TLSv1.3"
    other = create_realm("other", now=0)
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(server, client_context(other.authority.certificate), CONTROLLER_NAME)
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(server, client_context(realm.authority.certificate), "other.nodectl")


def test_the_presented_chain_ends_in_the_ca(realm: Realm, tmp_path: Path) -> None:
    write_realm(realm, tmp_path / "r")
    server = _server(tmp_path / "r")
    side = _handshake(server, unverified_context(), CONTROLLER_NAME)
    chain = presented_chain(side)
    assert [fingerprint(pem) for pem in chain] == [
        fingerprint(realm.controller.certificate),
        realm.ca_sha256(),
    ]
    assert chain[1] == realm.authority.certificate


def test_dates_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installer's clock may say anything: here every certificate ran out in 1971."""
    monkeypatch.setattr("nodectl.trust.ca._END", dt.datetime(1971, 1, 1, tzinfo=dt.UTC))
    old = create_realm("old", now=0)
    write_realm(old, tmp_path / "r")
    server = _server(tmp_path / "r")
    _handshake(server, client_context(old.authority.certificate), CONTROLLER_NAME)


def test_tls_1_2_is_refused(realm: Realm, tmp_path: Path) -> None:
    write_realm(realm, tmp_path / "r")
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(cadata=realm.authority.certificate.decode())
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        _handshake(_server(tmp_path / "r"), old, CONTROLLER_NAME)
