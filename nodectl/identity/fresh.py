"""Random values of a node, made anew at each deployment where nothing is kept."""

import secrets
from collections.abc import Callable

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from nodectl.identity.hostkeys import KEY_TYPES

_SEED_BYTES = 512  # what systemd-random-seed(8) keeps
_RSA_BITS = 3072  # ssh-keygen's default
_PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_MAKERS: dict[str, Callable[[], _PrivateKey]] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ecdsa": lambda: ec.generate_private_key(ec.SECP256R1()),
    "rsa": lambda: rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS),
}


def fresh_host_keys(comment: str) -> dict[str, bytes]:
    """Return a new key of each type: "rsa" the private file, "rsa.pub" the public line.

    Made with the library and not with ssh-keygen, which an installer need not have.
    """
    made = {}
    for kind in KEY_TYPES:
        key = _MAKERS[kind]()
        made[kind] = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        made[f"{kind}.pub"] = public + f" {comment}\n".encode()
    return made


def fresh_seed() -> bytes:
    """Return the seed for the kernel's random source at the first start."""
    return secrets.token_bytes(_SEED_BYTES)
