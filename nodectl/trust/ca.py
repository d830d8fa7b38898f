"""The realm's certificate authority: makes it, issues from it, and checks against it.

Keys are ECDSA P-256 (every TLS 1.3 stack has it). Certificates carry no useful dates: they run
from 1970 to the end of year 9999 (RFC 5280, 4.1.2.5: "no well-defined expiration date"), and time
checks are switched off as well, because the clock of an installer may say 1970 or 2099. What makes
a certificate good is that the realm's pinned CA signed it for the name that is asked for.

The controller is asked for by one fixed name, whatever its address is: `CONTROLLER_NAME`.
"""

import datetime as dt
import hashlib
import ssl
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CONTROLLER_NAME = "controller.nodectl"
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, openssl/x509_vfy.h; no name in Python's ssl
_BEGIN = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_END = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A certificate with its private key, both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)  # PKCS#8, not encrypted: its file has mode 0600


def make_authority(realm_name: str) -> Credential:
    """Make a new CA for a realm."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _subject(f"nodectl realm {realm_name}")
    builder = (
        _builder(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(ca=True), critical=True)
    )
    return _credential(builder.sign(key, hashes.SHA256()), key)


def issue_controller(authority: Credential) -> Credential:
    """Issue a certificate for the controller: a TLS server named `CONTROLLER_NAME`."""
    signer = x509.load_pem_x509_certificate(authority.certificate)
    signer_key = serialization.load_pem_private_key(authority.key, None)
    if not isinstance(signer_key, ec.EllipticCurvePrivateKey):
        raise TypeError("a realm's CA key is an elliptic curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key.public_key())
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    builder = (
        _builder(_subject(CONTROLLER_NAME), signer.subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(ca=False), critical=True)
        .add_extension(server, critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(CONTROLLER_NAME)]), critical=False)
        .add_extension(issuer_id, critical=False)
    )
    return _credential(builder.sign(signer_key, hashes.SHA256()), key)


def fingerprint(certificate_pem: bytes) -> bytes:
    """Return SHA-256 over the DER bytes of a certificate: 32 bytes."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate_pem.decode("ascii"))).digest()


def server_context(certificate_chain: str, key: str, ca_pem: bytes) -> ssl.SSLContext:
    """Return the TLS side of a controller; the first two arguments are paths of PEM files.

    Clients are asked for a certificate of the realm's CA (`ca_pem`, one or more). A machine that
    joins has none yet, so its absence is no error here: `controller/auth.py` lets nobody without
    one reach more than the join.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate_chain, key)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0  # each connection is checked anew: no session outlives a CA
    context.verify_flags = ssl.VerifyFlags(context.verify_flags | _NO_CHECK_TIME)
    context.load_verify_locations(cadata=ca_pem.decode("ascii"))
    return context


class ChangingServer:
    """The TLS side of a controller whose certificate and CAs may change while it listens.

    New connections get what `use` was told last; those that are open go on as they began.
    """

    def __init__(self, first: ssl.SSLContext) -> None:
        """Begin with one context, which stays the one to listen with."""
        self.context = first
        self._present = first
        # Called for each new connection, also for one that names no server (OpenSSL,
        # SSL_CTX_set_tlsext_servername_callback); it may put another context in its place.
        first.sni_callback = self._switch

    def use(self, context: ssl.SSLContext) -> None:
        """Use another context for the connections to come."""
        self._present = context

    def _switch(
        self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _: ssl.SSLContext
    ) -> None:
        connection.context = self._present


def client_context(ca_pem: bytes) -> ssl.SSLContext:
    """Return the TLS side of a member: trusts this realm's CA and nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the chain and the name
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags = ssl.VerifyFlags(context.verify_flags | _NO_CHECK_TIME)
    context.load_verify_locations(cadata=ca_pem.decode("ascii"))
    return context


def unverified_context() -> ssl.SSLContext:
    """Return a TLS side that accepts anybody: only to look at a chain, never to send on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def presented_chain(connection: ssl.SSLObject) -> tuple[bytes, ...]:
    """Return the certificates that the other side presented, as PEM, its own first.

    Python 3.13 made this public; 3.11 and 3.12 have it on the inner object only.
    """
    public = getattr(connection, "get_unverified_chain", None)
    if public is not None:
        return tuple(ssl.DER_cert_to_PEM_cert(der).encode("ascii") for der in public())
    inner = connection._sslobj  # type: ignore[attr-defined]  # noqa: SLF001 - see above
    return tuple(str(cert.public_bytes()).encode("ascii") for cert in inner.get_unverified_chain())


def _subject(common_name: str) -> x509.Name:
    # X.520 bounds a common name at 64 characters; a realm name may have 63.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGIN)
        .not_valid_after(_END)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def key_usage(*, ca: bool) -> x509.KeyUsage:
    """Return what a key may be used for: to sign certificates, or to prove who one is."""
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _credential(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Credential:
    return Credential(
        certificate=certificate.public_bytes(serialization.Encoding.PEM),
        key=key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
