"""The pepper: the HMAC secret without which stolen key digests are useless."""

import hmac
from dataclasses import dataclass, field
from hashlib import sha256

_ID_CHARACTERS = 12


@dataclass(frozen=True, slots=True)
class Pepper:
    """A secret for the HMAC of keys and tokens."""

    secret: bytes = field(repr=False)

    @property
    def id(self) -> str:
        """Fingerprint stored with each digest. It identifies the pepper without revealing it."""
        return self.digest("pepper-id")[:_ID_CHARACTERS]

    def digest(self, text: str) -> str:
        """Return the HMAC-SHA256 of `text` as 64 hex characters."""
        return hmac.new(self.secret, text.encode(), sha256).hexdigest()
