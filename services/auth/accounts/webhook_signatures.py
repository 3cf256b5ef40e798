"""Signatures of webhooks, as Standard Webhooks defines them (https://www.standardwebhooks.com).

The signature is an HMAC-SHA256 of the id, the time of the attempt and the body. A provider signs each attempt to
deliver an event again, with the id of the event and the time of the attempt.
"""

import base64
import binascii
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from services.common.errors import PermissionDenied

SECRET_PREFIX = "whsec_"
TOLERANCE_SECONDS = 300
_SECRET_BYTES_MIN, _SECRET_BYTES_MAX = 24, 64  # The range of Standard Webhooks.
_ID_CHARACTERS_MAX = 200
_SIGNATURES_MAX = 10


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """A webhook as it was received."""

    webhook_id: str
    """Header `webhook-id`."""
    timestamp: str
    """Header `webhook-timestamp`: Unix seconds of the attempt."""
    signature: str
    """Header `webhook-signature`: one or more `v1,…`, separated by spaces."""
    body: bytes


class WebhookVerifier:
    """Verifies signatures under any of several secrets, so that secrets can be replaced without a gap."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = secrets

    @property
    def is_enabled(self) -> bool:
        """Whether there is a secret."""
        return bool(self._secrets)

    def verify(self, message: SignedMessage, *, now: datetime) -> None:
        """Check that a message was signed with a secret, less than five minutes ago.

        Raises:
            PermissionDenied: The signature or the time is invalid.
        """
        # Digits outside ASCII, signs and spaces are invalid in a header that was signed.
        if not (message.timestamp.isascii() and message.timestamp.isdigit() and len(message.timestamp) <= 12):
            raise _denied("webhook-timestamp must be the time of the attempt in Unix seconds.", "invalid_timestamp")
        is_printable = message.webhook_id.isascii() and message.webhook_id.isprintable()
        if not 1 <= len(message.webhook_id) <= _ID_CHARACTERS_MAX or not is_printable:
            raise _denied(f"webhook-id must have 1 to {_ID_CHARACTERS_MAX} ASCII characters.", "invalid_webhook_id")
        if not self._is_signed(message):
            raise _denied(
                "webhook-signature does not match the request. Sign `{id}.{timestamp}.{body}` with the secret in "
                "AUTH_PLAN_WEBHOOK_SECRETS.",
                "invalid_signature",
            )
        if abs(now.timestamp() - int(message.timestamp)) > TOLERANCE_SECONDS:
            raise _denied(
                f"webhook-timestamp is more than {TOLERANCE_SECONDS} s from the current time. Sign each attempt with "
                "its own time, and check the clocks.",
                "timestamp_out_of_range",
            )

    def _is_signed(self, message: SignedMessage) -> bool:
        given = [text.removeprefix("v1,") for text in message.signature.split() if text.startswith("v1,")]
        signed = f"{message.webhook_id}.{message.timestamp}.".encode() + message.body
        expected = [base64.b64encode(hmac.digest(secret, signed, sha256)) for secret in self._secrets]
        # Compare bytes: texts with characters outside ASCII cannot be compared.
        return any(hmac.compare_digest(one.encode(), other) for one in given[:_SIGNATURES_MAX] for other in expected)


def parse_secrets(text: str) -> tuple[bytes, ...]:
    """Return the secrets in a list like `whsec_…,whsec_…`, in which each is Base64 of 24 to 64 bytes.

    Raises:
        ValueError: A secret is invalid.
    """
    return tuple(_parse_secret(part.strip()) for part in text.split(",") if part.strip())


def _parse_secret(text: str) -> bytes:
    try:
        secret = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        secret = b""
    if not text.startswith(SECRET_PREFIX) or not _SECRET_BYTES_MIN <= len(secret) <= _SECRET_BYTES_MAX:
        raise ValueError(
            f"must be secrets like {SECRET_PREFIX}…, with Base64 of {_SECRET_BYTES_MIN} to {_SECRET_BYTES_MAX} random "
            'bytes: echo "whsec_$(openssl rand -base64 32)"'
        )
    return secret


def _denied(message: str, reason: str) -> PermissionDenied:
    return PermissionDenied(message, reason=reason)
