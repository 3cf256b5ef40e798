"""Verification of API keys."""

import logging
from collections.abc import Sequence

from services.auth.keys.model import SECRET_PREFIX, Denial, Key, KeyId, KeyStore, Verification
from services.auth.keys.pepper import Pepper
from services.common import checksummed_token
from services.common.errors import Unavailable
from services.common.runtime.clock import Clock, utc_now

_log = logging.getLogger(__name__)


class KeyVerifier:
    """Verifies secrets against stored keys."""

    def __init__(self, store: KeyStore, *, pepper: Pepper, clock: Clock, accepted: Sequence[Pepper] = ()) -> None:
        """Rehash keys that use a pepper in `accepted` with `pepper`. Keys of other peppers are unknown."""
        self._store = store
        self._pepper = pepper
        self._accepted = {other.id: other for other in accepted}
        self._clock = clock

    async def find(self, secret: str) -> Key | None:
        """Return the key of a secret, whatever its state; None if there is none.

        Raises:
            Unavailable: The store cannot be read.
        """
        if not checksummed_token.is_well_formed(secret, SECRET_PREFIX):
            return None
        return (await self._store.find(*self._digests(secret))).key

    async def authenticate(self, secret: str) -> Verification:
        """Return the key of a secret, or the reason for denying it.

        Raises:
            Unavailable: The store cannot be read.
        """
        # Malformed secrets must not cost a database lookup.
        if not checksummed_token.is_well_formed(secret, SECRET_PREFIX):
            return Verification(Denial.UNKNOWN, revision=0)
        digests = self._digests(secret)
        found = await self._store.find(*digests)
        if found.key is not None and found.pepper_id in self._accepted:
            await self._move(found.key.id, digest=digests[0])
        outcome = self._outcome(found.key)
        return Verification(outcome, found.revision, found.key if isinstance(outcome, Denial) else None)

    def _digests(self, secret: str) -> list[str]:
        """Return the digests under all peppers, for one lookup.

        Between two lookups another replica could rehash the key, and both would miss it.
        """
        return [pepper.digest(secret) for pepper in (self._pepper, *self._accepted.values())]

    async def _move(self, key_id: KeyId, *, digest: str) -> None:
        """Rehash a key with the current pepper, which requires the secret. A failure is logged and ignored."""
        try:
            await self._store.move(key_id, digest=digest, pepper_id=self._pepper.id)
        except Unavailable as exc:
            _log.warning(
                "A key could not be rehashed with AUTH_KEY_PEPPER. The next use of the key tries again.",
                extra={"key_id": key_id, "error": exc.message},
            )

    def _outcome(self, key: Key | None) -> Key | Denial:
        if key is None:
            return Denial.UNKNOWN
        if key.revoked_at is not None:
            return Denial.REVOKED
        if key.is_suspended:  # Before the expiry: streams of an expired key may finish, those of this one may not.
            return Denial.SUSPENDED
        if not key.is_active(utc_now(self._clock)):
            return Denial.EXPIRED
        return Denial.PAUSED if key.paused_at is not None else key
