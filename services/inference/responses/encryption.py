"""Encryption of stored responses: AES-256-GCM, with a key derived for each account; and keyed digests.

A sealed text is a format byte, four bytes that identify the secret, the nonce, and the ciphertext with its tag. The
text is compressed before, and bound to its account and id, so that one record cannot take the place of another.
"""

import hmac
import os
import zlib
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_FORMAT = b"\x01"
_ID_BYTES, _NONCE_BYTES, _KEY_BYTES = 4, 12, 32
_DIGEST_BYTES = 16
_HEAD_BYTES = len(_FORMAT) + _ID_BYTES + _NONCE_BYTES
_COMPRESSION = 1
"""zlib's fastest level. JSON of conversations shrinks to a third or less."""


class Undecryptable(Exception):
    """A text was sealed with another secret, for another account or id, or is damaged."""


class Cipher:
    """Seals texts with the first of several secrets, and opens those that were sealed with any of them."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = {_derived(secret, b"id", _ID_BYTES): secret for secret in reversed(secrets)}
        self._first = _derived(secrets[0], b"id", _ID_BYTES)

    def seal(self, text: bytes, *, account_id: str, response_id: str) -> bytes:
        """Return a text compressed and encrypted."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._aes(self._first, account_id).encrypt(
            nonce, zlib.compress(text, _COMPRESSION), _bound_to(account_id, response_id)
        )
        return b"".join((_FORMAT, self._first, nonce, sealed))

    def open(self, sealed: bytes, *, account_id: str, response_id: str) -> bytes:
        """Return the text of `seal`.

        Raises:
            Undecryptable: It was sealed with another secret, for another account or id, or is damaged.
        """
        secret_id, nonce = sealed[1 : 1 + _ID_BYTES], sealed[1 + _ID_BYTES : _HEAD_BYTES]
        if sealed[:1] != _FORMAT or secret_id not in self._secrets:
            raise Undecryptable
        try:
            compressed = self._aes(secret_id, account_id).decrypt(
                nonce, sealed[_HEAD_BYTES:], _bound_to(account_id, response_id)
            )
        except (InvalidTag, ValueError) as exc:
            raise Undecryptable from exc
        return zlib.decompress(compressed)

    def digests(self, content: bytes, *, account_id: str) -> list[str]:
        """Return a keyed digest of `content` by each secret, that of the first secret first: 128 bits in hexadecimal.

        Without a secret, it cannot be found out from a digest whether it is that of a certain content.
        """
        purpose = b"digests " + account_id.encode()
        ordered = [self._first, *(one for one in self._secrets if one != self._first)]
        keys = (_derived(self._secrets[one], purpose, _KEY_BYTES) for one in ordered)
        return [hmac.digest(key, content, "sha256")[:_DIGEST_BYTES].hex() for key in keys]

    def _aes(self, secret_id: bytes, account_id: str) -> AESGCM:
        # With a key for each account, random nonces suffice for 2^32 responses of one account.
        return AESGCM(_derived(self._secrets[secret_id], b"account " + account_id.encode(), _KEY_BYTES))


def _derived(secret: str, purpose: bytes, length: int) -> bytes:
    info = b"stack stored responses: " + purpose
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=info).derive(secret.encode())


def _bound_to(account_id: str, response_id: str) -> bytes:
    return f"{account_id}\0{response_id}".encode()
