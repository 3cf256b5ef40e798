"""API keys: how one is minted, what is kept of it, and whether one that is shown is good."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import NewType, Protocol

from ulid import ULID

from services.auth.accounts import AccountId
from services.auth.pepper import Pepper
from services.common import checked_token
from services.common.clock import Clock
from services.common.errors import InvalidRequest

KeyId = NewType("KeyId", str)
"""Public id of a key, `key_` and a ULID."""

SECRET_PREFIX = "sk_stk_"
DAILY_LIMIT_MAX = 10**9
_PREFIX_CHARACTERS = 12
_NAME_CHARACTERS_MAX = 100


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


class Denial(StrEnum):
    """Why a key is refused."""

    UNKNOWN = "unknown"
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a key is good, and when that was so."""

    outcome: Key | Denial
    revision: int
    """Never newer than what was read; 0 when nothing was."""


class KeyStore(Protocol):
    """Where keys are kept. Safe to call concurrently.

    Each change takes the next revision in its own transaction. Each method raises `Unavailable` when the store cannot
    be reached or takes too long; a change may then have happened or not.
    """

    async def find(self, digest: str) -> Found:
        """Look a key up by its digest; the answer is of one moment."""

    async def add(self, email: str, key: NewKey) -> Key:
        """Keep a new key for the account with this e-mail address; `NotFound` when there is none."""

    async def get(self, key_id: KeyId) -> Key:
        """Read a key; `NotFound` when there is none."""

    async def of_account(self, email: str) -> list[Key]:
        """Read an account's keys, oldest first, revoked ones included; `NotFound` when there is no such account."""

    async def revoke(self, key_id: KeyId, *, at: datetime) -> Key:
        """End a key for good; a second time changes nothing. `NotFound` when there is none."""

    async def set_limit(self, key_id: KeyId, daily_limit: int | None) -> Key:
        """Give a key its own limit, or with None its plan's; `NotFound` when there is none."""

    async def pepper_ids(self) -> frozenset[str]:
        """Return the ids of all peppers under which keys were made; empty when there is no key."""


class Gatekeeper:
    """Decides whether a key that somebody shows is good."""

    def __init__(self, store: KeyStore, *, pepper: Pepper, clock: Clock) -> None:
        self._store = store
        self._pepper = pepper
        self._clock = clock

    async def authenticate(self, secret: str) -> Verdict:
        """Return whose key it is, or why it is refused.

        Raises:
            Unavailable: The store cannot be read, so nobody knows.
        """
        # Typing errors and guesses must not cost a look-up.
        if not checked_token.is_well_formed(secret, SECRET_PREFIX):
            return Verdict(Denial.UNKNOWN, revision=0)
        found = await self._store.find(self._pepper.digest(secret))
        return Verdict(self._outcome(found.key), found.revision)

    def _outcome(self, key: Key | None) -> Key | Denial:
        if key is None:
            return Denial.UNKNOWN
        if key.revoked_at is not None:
            return Denial.REVOKED
        if key.expires_at is not None and key.expires_at.timestamp() <= self._clock.now():
            return Denial.EXPIRED
        return key


def mint(name: str, *, daily_limit: int | None, pepper: Pepper, clock: Clock) -> Minted:
    """Return a new key, not yet kept.

    Args:
        name: The owner's name for it, 1 to 100 characters.
        daily_limit: Requests a UTC day, 0 to `DAILY_LIMIT_MAX`; None leaves it to the plan.

    Raises:
        InvalidRequest: The name or the limit cannot be accepted.
    """
    secret = checked_token.mint(SECRET_PREFIX)
    key = NewKey(
        id=KeyId(f"key_{ULID()}"),
        name=checked_name(name),
        prefix=secret[:_PREFIX_CHARACTERS],
        digest=pepper.digest(secret),
        pepper_id=pepper.id,
        daily_limit=checked_limit(daily_limit),
        created_at=datetime.fromtimestamp(clock.now(), UTC),
    )
    return Minted(key, secret)


def checked_name(text: str) -> str:
    """Return a key's name without surrounding space, or raise `InvalidRequest`."""
    name = text.strip()
    if not 1 <= len(name) <= _NAME_CHARACTERS_MAX or not name.isprintable():
        raise InvalidRequest(
            f"a key's name has 1 to {_NAME_CHARACTERS_MAX} printable characters; choose another", reason="invalid_name"
        )
    return name


def checked_limit(daily_limit: int | None) -> int | None:
    """Return a limit that can be kept, or raise `InvalidRequest`."""
    if daily_limit is not None and not 0 <= daily_limit <= DAILY_LIMIT_MAX:
        raise InvalidRequest(
            f"a daily limit is 0 to {DAILY_LIMIT_MAX} requests, not {daily_limit}", reason="invalid_limit"
        )
    return daily_limit
