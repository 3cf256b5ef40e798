"""The pepper: the secret without which a stolen database of key digests is of no use."""

import hmac
from dataclasses import dataclass, field
from hashlib import sha256

_ID_CHARACTERS = 12


@dataclass(frozen=True, slots=True)
class Pepper:
    """A secret under which keys are digested."""

    secret: bytes = field(repr=False)

    @property
    def id(self) -> str:
        """Fingerprint that is kept beside each digest; tells peppers apart and gives nothing away."""
        return self.digest("pepper-id")[:_ID_CHARACTERS]

    def digest(self, text: str) -> str:
        """Return HMAC-SHA256 of `text` under the pepper, in hex: 64 characters."""
        return hmac.new(self.secret, text.encode(), sha256).hexdigest()
