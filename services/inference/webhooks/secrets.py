"""Secrets of webhooks, encrypted under the receipt keys, so that a copy of the database does not contain them."""

import base64
import os
from collections.abc import Sequence

from services.inference.responses.encryption import Cipher

_PREFIX = "whsec_"
_SECRET_BYTES = 32


class WebhookSecrets:
    """Makes, encrypts and decrypts secrets."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Encrypt under the first of `keys`, and decrypt under all of them."""
        self._cipher = Cipher(keys)

    def create(self, account_id: str, webhook_id: str) -> tuple[str, bytes]:
        """Return a new secret, as its owner gets it and encrypted."""
        secret = os.urandom(_SECRET_BYTES)
        return _PREFIX + base64.b64encode(secret).decode(), self.seal(secret, account_id, webhook_id)

    def seal(self, secret: bytes, account_id: str, webhook_id: str) -> bytes:
        """Return a secret encrypted under the first key."""
        return self._cipher.seal(secret, account_id=account_id, response_id=webhook_id)

    def open(self, sealed: bytes, account_id: str, webhook_id: str) -> bytes:
        """Return a secret.

        Raises:
            Undecryptable: Its key was removed.
        """
        return self._cipher.open(sealed, account_id=account_id, response_id=webhook_id)
