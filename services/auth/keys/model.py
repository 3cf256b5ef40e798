"""API keys: data model and storage interface."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NewType, Protocol

from services.auth.accounts.model import AccountId, Proof
from services.auth.audit import Actor
from services.auth.limits import WEIGHT_DEFAULT, LimitChanges
from services.common.limits import Limit

KeyId = NewType("KeyId", str)
"""Public id of a key: `key_` and a ULID."""

SECRET_PREFIX = "sk_stk_"


@dataclass(frozen=True, slots=True)
class Key:
    """A stored API key, without its secret. Times are aware, in UTC."""

    id: KeyId
    account_id: AccountId
    name: str
    prefix: str
    """First characters of the secret, so that people can recognize the key."""
    daily_limit: int
    """Effective requests per UTC day: the key's own limit, or else its plan's. 0 allows none."""
    created_at: datetime
    revoked_at: datetime | None
    """Time of revocation; None means not revoked."""
    expires_at: datetime | None
    """Expiry time; None means never."""
    models: tuple[str, ...] = ()
    """Allowed models, by name or as patterns with `*`; empty allows all."""
    replaced_by: str | None = None
    """Id of the key that replaced this one in a rotation; None if not rotated."""
    account_daily_limit: int | None = None
    """Effective requests per UTC day of the account with all its keys: its plan's, or the highest limit of its keys if
    that is higher. None sets no limit, and is the value in lists of keys, for which the limit is not read."""
    limits: tuple[Limit, ...] = ()
    """All other effective limits, of the key and of its account: the key's own, and those of its plan that it does not
    override. Ordered by name."""
    weight: int = WEIGHT_DEFAULT
    """Share of Groq's allowance that the account gets, relative to others, when not all can be served."""
    plan: str = ""
    """Name of the account's plan."""
    quota_account_id: AccountId | None = None
    """Id under which quota counts the account, if it continues the counts of a deleted one; None means its own id."""
    deduplicate_retries: bool = False
    """Whether an automatic retry of an SDK gets the answer of the request that it retries."""
    paused_at: datetime | None = None
    """When the owner paused the key; None means that it is not paused."""
    owner_daily_limit: int | None = None
    """Requests per UTC day that the owner allows, which `daily_limit` includes; None sets no limit."""
    owner_limits: tuple[Limit, ...] = ()
    """Other limits that the owner has set, which `limits` include."""
    is_suspended: bool = False
    """Whether the key's account is suspended."""

    def is_active(self, now: datetime) -> bool:
        """Return whether the key is neither revoked nor expired at `now`."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to store, without its secret."""

    id: KeyId
    name: str
    prefix: str
    digest: str
    """HMAC of the secret under the pepper, in hex."""
    pepper_id: str
    daily_limit: int | None
    """The key's own limit in requests per UTC day; None uses the plan's."""
    created_at: datetime
    expires_at: datetime | None = None
    models: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    """The key's own limits, which override its plan's."""
    deduplicate_retries: bool = False
    owner_daily_limit: int | None = None
    owner_limits: tuple[Limit, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyUpdate:
    """New settings of a key, by its owner."""

    fields: frozenset[str]
    """Names of the fields below to change. Others stay as they are."""
    name: str = ""
    expires_at: datetime | None = None
    models: tuple[str, ...] = ()
    owner_daily_limit: int | None = None
    owner_limits: tuple[Limit, ...] = ()
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits on the number of keys that an account's owner may have, unless the plan sets them."""

    active_max: int
    """Maximum active keys. Rotated keys do not count, but with them the account may have at most twice as many."""
    new_per_day_max: int
    """Maximum keys created in any 24 hours."""


@dataclass(frozen=True, slots=True)
class MintedKey:
    """A new key and its secret, which is not stored anywhere."""

    key: NewKey
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyLookup:
    """The result of a key lookup."""

    key: Key | None
    """None means that no key has the digest."""
    revision: int
    """Revision of the key table at the time of the lookup; 0 before the first change."""
    pepper_id: str = ""
    """Id of the pepper of the stored digest; empty without a key."""


class Denial(StrEnum):
    """Reasons for denying a key."""

    UNKNOWN = "unknown"
    REVOKED = "revoked"
    EXPIRED = "expired"
    PAUSED = "paused"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of verifying a secret, and the revision at which it was valid."""

    outcome: Key | Denial
    revision: int
    """Never newer than the data read; 0 if the store was not read."""
    denied_key: Key | None = None
    """The key that is denied; None if there is none."""


class KeyStore(Protocol):
    """Interface for storing keys. Safe to call concurrently.

    Each change takes the next revision and writes an audit event in its own transaction. A change with a `proof` is
    limited to that account's keys, and raises `Unauthenticated` if the session has ended. A change without one can
    access all keys. Methods raise `Unavailable` if the store cannot be reached or takes too long; a change may then
    have been committed or not.
    """

    async def find(self, *digests: str) -> KeyLookup:
        """Look up a key by any of its digests, one per pepper, in a consistent read."""

    async def move(self, key_id: KeyId, *, digest: str, pepper_id: str) -> None:
        """Replace a key's digest with one under another pepper. Takes no revision: no visible attribute changes."""

    async def add(
        self, account: str, key: NewKey, *, by: Actor, bounds: Bounds | None = None, proof: Proof | None = None
    ) -> Key:
        """Store a new key for the account with this e-mail address or id.

        Raises:
            NotFound: There is no such account.
            FailedPrecondition: The account has reached the limits of its plan or `bounds`; `bounds` of None allow any
                number.
        """

    async def get(self, key_id: KeyId, *, owner: AccountId | None = None) -> Key:
        """Return a key, of any account if `owner` is None. Raises `NotFound` if there is none."""

    async def newest_of_account(self, account_id: AccountId, *, limit: int) -> list[Key]:
        """Return the newest keys of an account, oldest first, including revoked ones."""

    async def of_account(self, account: str, *, after: str = "", limit: int = 1_000) -> list[Key]:
        """Return a page of an account's keys, oldest first, including revoked ones.

        Args:
            account: E-mail address or id of the account.
            after: Id of the last key on the previous page; empty starts at the first key.
            limit: Maximum number of keys.

        Raises:
            NotFound: There is no such account.
        """

    async def search(self, text: str, *, limit: int) -> list[Key]:
        """Return keys of all accounts by id, part of the name in any case, or start of the secret, newest first."""

    async def rename(self, key_id: KeyId, name: str, *, by: Actor, at: datetime) -> Key:
        """Rename a key. Raises `NotFound` if there is no such key."""

    async def bounds_of(self, account_id: AccountId, bounds: Bounds) -> Bounds:
        """Return the account's limits: its plan's, or those of `bounds` where the plan sets none."""

    async def revoke(self, key_id: KeyId, *, by: Actor, at: datetime, proof: Proof | None = None) -> Key:
        """Revoke a key permanently. Idempotent. Raises `NotFound` if there is no such key."""

    async def set_limit(self, key_id: KeyId, daily_limit: int | None, *, by: Actor, at: datetime) -> Key:
        """Set a key's own limit; None restores its plan's. Raises `NotFound` if there is no such key."""

    async def change_limits(self, key_id: KeyId, changes: LimitChanges, *, by: Actor, at: datetime) -> Key:
        """Change a key's own limits, which override its plan's.

        Raises:
            NotFound: There is no such key.
            InvalidRequest: The key has no such limit of its own to remove.
        """

    async def set_deduplication(self, key_id: KeyId, *, deduplicate_retries: bool, by: Actor, at: datetime) -> Key:
        """Set whether automatic retries of SDKs are deduplicated. Raises `NotFound` if there is no such key."""

    async def update(self, key_id: KeyId, changes: KeyUpdate, *, by: Actor, at: datetime, proof: Proof) -> Key:
        """Change settings of a key of the proof's account.

        Raises:
            NotFound: There is no such key.
            FailedPrecondition: The key is not active, or its expiry is to change and it was rotated.
            InvalidRequest: A limit is above that of the plan or of the operator.
        """

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
        """Store `key` as the replacement of `key_id`, and return the new and the old key.

        The new key gets the old key's own limits and its deduplication of retries. The old key expires at `ends_at`.

        Raises:
            NotFound: There is no such key.
            FailedPrecondition: The key was already replaced or revoked, or the account has reached its limit of keys.
        """

    async def unknown_pepper(self, known: frozenset[str], *, now: datetime) -> str | None:
        """Return the id of a pepper that an active key uses and that is not in `known`, or None."""

    async def count_with_peppers(self, pepper_ids: frozenset[str], *, now: datetime) -> int:
        """Return the number of active keys that use these peppers."""
