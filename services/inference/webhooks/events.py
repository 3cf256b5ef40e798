"""Events, signed as Standard Webhooks defines it (https://www.standardwebhooks.com)."""

import base64
import hmac
from dataclasses import dataclass
from hashlib import sha256

_USER_AGENT = "stack-webhooks"


class NotDelivered(Exception):
    """An event did not arrive.

    Attributes:
        is_gone: Whether the receiver answered that it wants no more events.
    """

    def __init__(self, message: str, *, is_gone: bool = False) -> None:
        super().__init__(message)
        self.is_gone = is_gone


@dataclass(frozen=True, slots=True)
class Event:
    """An event to send."""

    id: str
    """The same for each attempt, so that the receiver can ignore repetitions."""
    body: bytes
    timestamp: int
    """Unix seconds of this attempt."""

    def headers(self, secret: bytes) -> dict[str, str]:
        """Return the headers, with the signature under a secret."""
        signed = f"{self.id}.{self.timestamp}.".encode() + self.body
        signature = base64.b64encode(hmac.digest(secret, signed, sha256)).decode()
        return {
            "content-type": "application/json",
            "user-agent": _USER_AGENT,
            "webhook-id": self.id,
            "webhook-timestamp": str(self.timestamp),
            "webhook-signature": f"v1,{signature}",
        }
