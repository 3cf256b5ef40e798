"""Keyed digests of the client's `user`, by which the ledger sums usage without storing names."""

import hmac

_CHARACTERS_MAX = 1_000
SECRET_CHARACTERS_MIN = 16


class UserDigests:
    """Computes digests under a secret. The digests of a user in two accounts differ."""

    def __init__(self, secret: str) -> None:
        """Create it with a secret; an empty one means that no user is recorded."""
        self._secret = secret.encode()

    def digest(self, account_id: str, user: object) -> str | None:
        """Return 128 bits in hexadecimal; None if `user` is no text, or empty."""
        if not self._secret or not isinstance(user, str) or not user:
            return None
        text = f"{account_id}\0{user[:_CHARACTERS_MAX]}".encode("utf-8", "replace")
        return hmac.digest(self._secret, text, "sha256")[:16].hex()
