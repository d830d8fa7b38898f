"""Certificates of members: asked for by the machine, issued by the realm's CA, shown on each call.

The key is made on the machine that uses it and never leaves it; what travels is a PKCS#10 request,
which proves that the asker holds the key. A member's certificate may be a TLS client and nothing
else, so that no member can stand as the controller. It names the member (common name) and runs for
`LIFE_S`; whether its time is out is decided by the controller alone, by its own clock, together
with the serial numbers that the realm knows (`controller/auth.py`): a TLS library looks at neither.
"""

import datetime as dt
import hashlib
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nodectl.errors import InvalidInput
from nodectl.trust.ca import Credential, key_usage

LIFE_S = 365 * 86400
_REQUEST_MAX = 4096
_LATEST_S = 253_402_300_799  # the end of year 9999


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """What the controller remembers of a certificate."""

    serial: str  # upper-case hexadecimal digits, as Python's ssl shows it
    begins: int  # seconds since 1970, controller's clock
    ends: int
    ca: str  # the CAs that its member trusts with it: `Realm.trust_mark`

    def to_json(self) -> dict[str, Any]:
        """Return the object that the catalog holds."""
        return {"serial": self.serial, "begins": self.begins, "ends": self.ends, "ca": self.ca}

    def due(self, now: float, ca: str) -> bool:
        """Say whether to renew it: two thirds of its life are over, or other CAs are trusted."""
        return ca != self.ca or now >= self.begins + (self.ends - self.begins) * 2 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """Who the other side of a TLS connection proved to be."""

    name: str
    serial: str


def make_request(name: str) -> tuple[bytes, bytes]:
    """Make a key for a member; return the request for a certificate and the key, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), private


def checked_request(pem: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public key of a request whose signature proves that its maker holds the key.

    Raises:
        InvalidInput: it is no request, or not for a P-256 key.
    """
    if len(pem) > _REQUEST_MAX:
        raise InvalidInput("the request for a certificate is too long")
    try:
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise InvalidInput("the request for a certificate is not for a P-256 key")
        algorithm = request.signature_hash_algorithm
        if not isinstance(algorithm, hashes.SHA256):
            raise InvalidInput("the request for a certificate is not signed with SHA-256")
        key.verify(request.signature, request.tbs_certrequest_bytes, ec.ECDSA(algorithm))
    except (
        ValueError,
        InvalidSignature,
        UnsupportedAlgorithm,  # a curve or hash that nobody has
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
    ) as exc:
        raise InvalidInput("the request for a certificate is damaged") from exc
    return key


def issue_member(
    authority: Credential, request: bytes, *, name: str, now: float, life_s: int = LIFE_S
) -> tuple[bytes, Issued]:
    """Issue a certificate for the member `name`; only the key of the request counts.

    Returns the certificate (PEM) and what to remember of it.

    Raises:
        InvalidInput: the request is none.
    """
    key = checked_request(request)
    signer = x509.load_pem_x509_certificate(authority.certificate)
    signer_key = serialization.load_pem_private_key(authority.key, None)
    if not isinstance(signer_key, ec.EllipticCurvePrivateKey):
        raise TypeError("a realm's CA key is an elliptic curve key")
    begins = int(now)
    ends = min(begins + life_s, _LATEST_S)
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key.public_key())
    client = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(signer.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime.fromtimestamp(begins, dt.UTC))
        .not_valid_after(dt.datetime.fromtimestamp(ends, dt.UTC))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(ca=False), critical=True)
        .add_extension(client, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(issuer_id, critical=False)
        .sign(signer_key, hashes.SHA256())
    )
    issued = Issued(
        serial=serial_text(certificate.serial_number),
        begins=begins,
        ends=ends,
        ca=hashlib.sha256(authority.certificate).hexdigest(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM), issued


def serial_text(number: int) -> str:
    """Return a serial number as OpenSSL (and so Python's ssl) writes it: whole bytes."""
    text = f"{number:X}"
    return "0" * (len(text) % 2) + text


def presented(certificate: Mapping[str, Any] | None) -> Presented | None:
    """Return who a verified certificate names; `certificate` as `SSLSocket.getpeercert()` has it.

    None when no certificate was presented, or one without one common name.
    """
    if not certificate:
        return None
    names = [
        value
        for part in certificate.get("subject", ())
        for field, value in part
        if field == "commonName"
    ]
    serial = certificate.get("serialNumber")
    if len(names) != 1 or not isinstance(serial, str):
        return None
    return Presented(name=names[0], serial=serial)


def load_identity(context: ssl.SSLContext, identity: Credential) -> None:
    """Let a TLS side present a certificate.

    Python's ssl takes certificates from files only; here that is memory without a name, so that a
    key stands in one file of the state folder and nowhere else.
    """
    fd = os.memfd_create("nodectl-identity", os.MFD_CLOEXEC)
    with os.fdopen(fd, "wb") as file:
        file.write(identity.key + identity.certificate)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{fd}")
