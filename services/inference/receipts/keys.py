"""Ed25519 keys of signed receipts, as JWS (RFC 7515, RFC 8037) and JWK Set (RFC 7517).

A private key is 32 random bytes, written as 64 hexadecimal digits. A key id is the key's thumbprint (RFC 7638), so that
it needs no setting and is never given to two keys.
"""

import base64
import hashlib
import re
from collections.abc import Sequence

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_PRIVATE_KEY = re.compile(r"[0-9A-Fa-f]{64}")
_PUBLIC_KEY = re.compile(r"[0-9A-Za-z_-]{43}")
_encode = msgspec.json.Encoder().encode


class ReceiptKeys:
    """Signs with the first of several private keys, and publishes the public ones of all of them."""

    def __init__(self, private_keys: Sequence[Ed25519PrivateKey], removed: Sequence[Ed25519PublicKey] = ()) -> None:
        """Use keys.

        Args:
            private_keys: At least one; the first one signs.
            removed: Public keys of earlier private keys, with which receipts were signed.
        """
        self._signing_key = private_keys[0]
        self._id = key_id(private_keys[0].public_key())
        public_keys = [*(key.public_key() for key in private_keys), *removed]
        by_id = {key_id(key): _jwk(key) for key in public_keys}
        self._key_set = _encode({"keys": list(by_id.values())})

    @property
    def key_set(self) -> bytes:
        """The JWK Set with all public keys, as JSON text."""
        return self._key_set

    def sign(self, payload: bytes) -> str:
        """Return a payload as a JWS in compact serialization."""
        # Most libraries verify Ed25519 by the name `EdDSA`, and do not know that of RFC 9864 yet.
        header = _encode({"alg": "EdDSA", "kid": self._id, "typ": "JWT"})
        signed = f"{_base64url(header)}.{_base64url(payload)}"
        return f"{signed}.{_base64url(self._signing_key.sign(signed.encode()))}"


def parse_private_key(text: str) -> Ed25519PrivateKey:
    """Return the private key that a text describes.

    Raises:
        ValueError: The text is not 64 hexadecimal digits. The message does not contain it.
    """
    if not _PRIVATE_KEY.fullmatch(text):
        raise ValueError("expected keys of 64 hexadecimal digits; generate one with `openssl rand -hex 32`")
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(text))


def parse_public_key(text: str) -> Ed25519PublicKey:
    """Return the public key that a text describes: the member `x` of its JWK.

    Raises:
        ValueError: The text is not Base64url of 32 bytes.
    """
    if _PUBLIC_KEY.fullmatch(text):
        return Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(text + "="))
    raise ValueError("expected public keys: the member `x` of their entries in `/.well-known/jwks.json`")


def key_id(key: Ed25519PublicKey) -> str:
    """Return a key's thumbprint."""
    members = {"crv": "Ed25519", "kty": "OKP", "x": _base64url(key.public_bytes_raw())}
    return _base64url(hashlib.sha256(_encode(members)).digest())


def _jwk(key: Ed25519PublicKey) -> dict[str, str]:
    x = _base64url(key.public_bytes_raw())
    return {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": key_id(key), "alg": "EdDSA", "use": "sig"}


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
