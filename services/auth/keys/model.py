"""API keys: what is kept of one, and whether one that is shown is good."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NewType, Protocol

from services.auth.accounts.model import AccountId, Proof
from services.auth.audit import Actor
from services.auth.keys.pepper import Pepper
from services.common import checksummed_token
from services.common.errors import Unavailable
from services.common.runtime.clock import Clock, utc_now

_log = logging.getLogger(__name__)

KeyId = NewType("KeyId", str)
"""Public id of a key, `key_` and a ULID."""

SECRET_PREFIX = "sk_stk_"


@dataclass(frozen=True, slots=True)
class Key:
    """What may be known of a key after its creation. Times are aware, in UTC."""

    id: KeyId
    account_id: AccountId
    name: str
    prefix: str
    """The first characters of the secret, to recognise it by."""
    daily_limit: int
    """Requests a UTC day in force: the key's own limit, or its plan's. 0 admits nothing."""
    created_at: datetime
    revoked_at: datetime | None
    """When it was revoked; None means that it was not."""
    expires_at: datetime | None
    """When it stops working; None means never."""
    models: tuple[str, ...] = ()
    """Models that it may ask for, by name or with `*` in it; empty allows all."""
    replaced_by: str | None = None
    """Id of the key that it was rotated into; None when it was not."""

    def is_active(self, now: datetime) -> bool:
        """Whether it would be let in at a time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to keep: everything but its secret."""

    id: KeyId
    name: str
    prefix: str
    digest: str
    """HMAC of the secret under the pepper, in hex."""
    pepper_id: str
    daily_limit: int | None
    """The key's own limit in requests a UTC day; None leaves it to the plan."""
    created_at: datetime
    expires_at: datetime | None = None
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many keys an account's owner may have, where its plan does not say."""

    active_max: int
    """Most keys that work at the same time; one that was rotated does not count, but there are never more than as many
    again."""
    new_per_day_max: int
    """Most keys made in the 24 hours before a new one."""


@dataclass(frozen=True, slots=True)
class Minted:
    """A new key and its secret, which exists nowhere else."""

    key: NewKey
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Found:
    """What a look-up saw, and when."""

    key: Key | None
    """None means that no key has the digest."""
    revision: int
    """Revision of the key table at the moment of the look-up; 0 before the first change."""
    pepper_id: str = ""
    """Id of the pepper under which the key is kept; empty without a key."""


class Denial(StrEnum):
    """Why a key is refused."""

    UNKNOWN = "unknown"
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether a key is good, and when that was so."""

    outcome: Key | Denial
    revision: int
    """Never newer than what was read; 0 when nothing was."""


class KeyStore(Protocol):
    """Where keys are kept. Safe to call concurrently.

    Each change takes the next revision in its own transaction and is audited in it. A change with a `proof` sees only
    that account's keys, and raises `Unauthenticated` when its session has ended; one without sees all. Each method
    raises `Unavailable` when the store cannot be reached or takes too long; a change may then have happened or not.
    """

    async def find(self, *digests: str) -> Found:
        """Look a key up by its digest under each pepper; the answer is of one moment."""

    async def move(self, key_id: KeyId, *, digest: str, pepper_id: str) -> None:
        """Keep a key under another pepper. Nothing that anybody may know of it changes, so no watch tells of it."""

    async def add(
        self, account: str, key: NewKey, *, by: Actor, bounds: Bounds | None = None, proof: Proof | None = None
    ) -> Key:
        """Keep a new key for the account with this e-mail address or id.

        Raises:
            NotFound: There is no such account.
            FailedPrecondition: The account has as many keys as `bounds` or its plan allow; None allows any number.
        """

    async def get(self, key_id: KeyId, *, owner: AccountId | None = None) -> Key:
        """Read a key; `NotFound` when there is none."""

    async def of_account(self, account: str, *, after: str = "", limit: int = 1_000) -> list[Key]:
        """Read at most `limit` keys of an account by id, so oldest first, revoked ones included.

        Args:
            account: E-mail address or id of the account.
            after: The page begins behind the key with this id; empty means the beginning.
            limit: Most keys to return.

        Raises:
            NotFound: There is no such account.
        """

    async def bounds_of(self, account_id: AccountId, bounds: Bounds) -> Bounds:
        """Return the account's bounds: its plan's, and `bounds` where the plan does not say."""

    async def revoke(self, key_id: KeyId, *, by: Actor, at: datetime, proof: Proof | None = None) -> Key:
        """End a key for good; a second time changes nothing. `NotFound` when there is none."""

    async def set_limit(self, key_id: KeyId, daily_limit: int | None, *, by: Actor, at: datetime) -> Key:
        """Give a key its own limit, or with None its plan's; `NotFound` when there is none."""

    async def rotate(
        self,
        key_id: KeyId,
        key: NewKey,
        *,
        ends_at: datetime,
        by: Actor,
        bounds: Bounds | None = None,
        proof: Proof | None = None,
    ) -> tuple[Key, Key]:
        """Keep `key` with the own limit of the key `key_id`, which ends at `ends_at`; return the new and the old.

        Raises:
            NotFound: There is no such key.
            FailedPrecondition: The key was replaced or revoked already, or the account may not make another today.
        """

    async def unknown_pepper(self, known: frozenset[str], *, now: datetime) -> str | None:
        """Return the id of a pepper under which a key that works is kept, and that is not `known`; None without one."""

    async def count_with_peppers(self, pepper_ids: frozenset[str], *, now: datetime) -> int:
        """Return how many keys that work are kept under these peppers."""


class KeyVerifier:
    """Decides whether a key that somebody shows is good."""

    def __init__(self, store: KeyStore, *, pepper: Pepper, clock: Clock, accepted: Sequence[Pepper] = ()) -> None:
        """Keep keys under `pepper`, and recognise those that are still under one that is `accepted`."""
        self._store = store
        self._pepper = pepper
        self._accepted = {other.id: other for other in accepted}
        self._clock = clock

    async def authenticate(self, secret: str) -> Verification:
        """Return whose key it is, or why it is refused.

        Raises:
            Unavailable: The store cannot be read, so nobody knows.
        """
        # Typing errors and guesses must not cost a look-up.
        if not checksummed_token.is_well_formed(secret, SECRET_PREFIX):
            return Verification(Denial.UNKNOWN, revision=0)
        # All in one look-up: between two of them another replica could move the key, and neither would find it.
        digests = [pepper.digest(secret) for pepper in (self._pepper, *self._accepted.values())]
        found = await self._store.find(*digests)
        if found.key is not None and found.pepper_id in self._accepted:
            await self._move(found.key.id, digest=digests[0])
        return Verification(self._outcome(found.key), found.revision)

    async def _move(self, key_id: KeyId, *, digest: str) -> None:
        """Bring a key under the present pepper: only now is its secret at hand."""
        try:
            await self._store.move(key_id, digest=digest, pepper_id=self._pepper.id)
        except Unavailable as exc:
            _log.warning("a key stays under its old pepper for now", extra={"key_id": key_id, "error": exc.message})

    def _outcome(self, key: Key | None) -> Key | Denial:
        if key is None:
            return Denial.UNKNOWN
        if key.revoked_at is not None:
            return Denial.REVOKED
        return key if key.is_active(utc_now(self._clock)) else Denial.EXPIRED
