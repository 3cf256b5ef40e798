"""Encryption of TOTP secrets (AES-256-GCM), and digests of recovery codes, under the pepper.

A secret must be read to check a code, so it cannot be stored as a digest. The key is derived from the pepper and the
account, and the text is bound to the account, so that a row cannot take the place of another.
"""

import base64
import binascii
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from services.auth.keys.pepper import Pepper
from services.auth.totp.codes import Secret
from services.common.errors import FailedPrecondition

_NONCE_BYTES, _KEY_BYTES = 12, 32


class Vault:
    """Seals secrets under the pepper, and opens those that were sealed under it or a previous one."""

    def __init__(self, pepper: Pepper, *, accepted: Sequence[Pepper] = ()) -> None:
        self._peppers = (pepper, *accepted)

    def seal(self, secret: Secret, account_id: str) -> str:
        """Return an encrypted secret as text."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = _aes(self._peppers[0], account_id).encrypt(nonce, secret.content, account_id.encode())
        return base64.b64encode(nonce + sealed).decode()

    def open(self, sealed: str, account_id: str) -> Secret:
        """Return the secret of `seal`.

        Raises:
            FailedPrecondition: It was sealed under a pepper that is not accepted any more.
        """
        for pepper in self._peppers:
            try:
                content = base64.b64decode(sealed, validate=True)
                nonce, text = content[:_NONCE_BYTES], content[_NONCE_BYTES:]
                return Secret(_aes(pepper, account_id).decrypt(nonce, text, account_id.encode()))
            except (InvalidTag, ValueError, binascii.Error):
                continue
        raise FailedPrecondition(
            "Your second factor cannot be checked, because the service's secrets were changed. Tell the operator, who "
            "can reset it.",
            reason="totp_unreadable",
        )

    def digests(self, recovery_code: str, account_id: str) -> Sequence[str]:
        """Return the digests of a recovery code, that under the current pepper first."""
        return [pepper.digest(f"recovery code {account_id} {recovery_code}") for pepper in self._peppers]


def _aes(pepper: Pepper, account_id: str) -> AESGCM:
    info = b"stack totp secret: " + account_id.encode()
    return AESGCM(HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=info).derive(pepper.secret))
