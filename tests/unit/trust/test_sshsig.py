"""SSH signatures, made by the real ssh-keygen where it is there."""

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from nodectl.errors import ContentInvalid, InvalidInput
from nodectl.ids import Root
from nodectl.trust.release import Release, publisher_of, verify_release, with_ssh_signature
from nodectl.trust.sshsig import parse_public_key, parse_signature, signed_blob

REALM = "ab" * 16
RELEASE = Release(
    realm=REALM,
    name="golden",
    generation=3,
    root=Root(bytes(32)),
    kind="tree",
    created=1_700_000_000,
    totals={"files": 2},
)
needs_ssh = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="ssh-keygen is not here")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "id_ed25519"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "site", "-f", str(path)], check=True
    )
    return path


def _sign(key: Path, message: bytes, *, namespace: str = "nodectl", hash_: str = "sha512") -> str:
    statement = key.with_name("statement")
    statement.write_bytes(message)
    statement.with_name("statement.sig").unlink(missing_ok=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-O", f"hashalg={hash_}",
         "-f", str(key), str(statement)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return statement.with_name("statement.sig").read_text()


@needs_ssh
@pytest.mark.parametrize("hash_", ["sha512", "sha256"])
def test_a_release_signed_by_ssh_keygen_counts_if_its_key_is_pinned(key: Path, hash_: str) -> None:
    public = parse_public_key(key.with_suffix(".pub").read_text())
    signed = with_ssh_signature(RELEASE, _sign(key, RELEASE.signed_bytes(), hash_=hash_))
    document = signed.to_json()
    assert document["form"] == f"sshsig-{hash_}"
    assert verify_release(document, realm=REALM, publishers={public}) == signed
    with pytest.raises(ContentInvalid, match="unknown publisher"):
        verify_release(document, realm=REALM, publishers={bytes(32)})
    for changed in (
        {**document, "form": "ed25519"},
        {**document, "form": "sshsig-md5"},
        {name: value for name, value in document.items() if name != "form"},
        {**document, "release": {**document["release"], "generation": 4}},
    ):
        with pytest.raises(ContentInvalid):
            verify_release(changed, realm=REALM, publishers={public})


@needs_ssh
def test_a_signature_for_something_else_is_refused(key: Path) -> None:
    public = parse_public_key(key.with_suffix(".pub").read_text())
    with pytest.raises(InvalidInput, match="another namespace"):
        with_ssh_signature(RELEASE, _sign(key, RELEASE.signed_bytes(), namespace="git"))
    other = with_ssh_signature(RELEASE, _sign(key, b"another message"))
    with pytest.raises(ContentInvalid, match="is wrong"):
        verify_release(other.to_json(), realm=REALM, publishers={public})


@needs_ssh
def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", str(key)], check=True)
    with pytest.raises(InvalidInput, match="no Ed25519"):
        parse_public_key(key.with_suffix(".pub").read_text())
    with pytest.raises(InvalidInput, match="Ed25519 key"):
        parse_signature(_sign(key, b"x"))


def test_the_signed_blob_is_what_the_specification_says() -> None:
    key = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    blob = signed_blob(b"message", "sha256")
    assert blob.startswith(b"SSHSIG\x00\x00\x00\x07nodectl\x00\x00\x00\x00\x00\x00\x00\x06sha256")
    Ed25519PublicKey.from_public_bytes(publisher_of(key)).verify(key.sign(blob), blob)


@pytest.mark.parametrize(
    "text",
    ["", "x", "-----BEGIN SSH SIGNATURE-----\n-----END SSH SIGNATURE-----",
     "-----BEGIN SSH SIGNATURE-----\n!!!\n-----END SSH SIGNATURE-----",
     "-----BEGIN SSH SIGNATURE-----\nU1NIU0lHAAAAAQ==\n-----END SSH SIGNATURE-----"],
)  # fmt: skip
def test_nonsense_is_no_signature(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_signature(text)


@pytest.mark.parametrize(
    "text", ["", "zz", "ab" * 31, "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-x A"]
)
def test_nonsense_is_no_public_key(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_public_key(text)
