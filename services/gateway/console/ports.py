"""What the console can do: at the door, and inside with one session. Nothing here reaches another account.

All calls raise a `ServiceError`: a refusal in words for the person, or `Unavailable` when something is away.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.gateway.apis.receipts import DayUsage, Receipt
from services.gateway.requests.types import Principal


@dataclass(frozen=True, slots=True)
class SignUp:
    """Who may sign up."""

    policy: str
    """`open`, `invite` or `closed`."""
    has_mail: bool
    """Whether mail is configured: then addresses are verified and forgotten passwords can be reset."""
    daily_limit: int | None
    """Requests a UTC day of each key of the new account; None where auth does not say."""


@dataclass(frozen=True, slots=True)
class Session:
    """One session. Times are Unix seconds."""

    id: str
    account_id: str
    email: str
    plan: str
    created_at: float
    expires_at: float
    last_used_at: float
    address: str
    """Where it began; empty when that is not known."""
    is_current: bool


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session and its token."""

    session: Session
    token: str = field(repr=False)
    device_token: str = field(repr=False)
    """By which this browser is known when it logs in again."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Result of a password reset."""

    email: str
    device_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Key:
    """A key as its owner sees it. Times are Unix seconds; None means never."""

    id: str
    name: str
    prefix: str
    daily_limit: int
    created_at: float
    revoked_at: float | None
    expires_at: float | None
    models: tuple[str, ...]
    replaced_by: str

    def state(self, now: float) -> str:
        """Return `active`, `rotated` (the old key of a rotation, in its grace), `revoked` or `expired`."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return "rotated" if self.replaced_by else "active"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made."""

    key: Key
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Keys:
    """An account's keys, and how many it may have."""

    keys: Sequence[Key]
    active_max: int
    new_per_day_max: int


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the audit log."""

    id: str
    at: float
    actor: str
    address: str
    action: str
    target: str


@dataclass(frozen=True, slots=True)
class KeyDay:
    """What a key used today."""

    used: int
    held: int
    reset_at: float
    """Unix seconds of the next 00:00 UTC."""


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Which requests to list; empty fields ask for all."""

    key_id: str = ""
    outcome: str = ""
    from_day: str = ""
    to_day: str = ""
    before: str = ""
    """Continue with requests older than this one."""


class SessionClient(Protocol):
    """What somebody can do who has not come in."""

    async def describe_sign_up(self, invite: str) -> SignUp:
        """Say who may sign up; `invite` is the token of an invitation, whose plan counts, or empty."""

    async def sign_up(self, email: str, password: str, *, invite: str, address: str) -> OpenSession | None:
        """Open an account; None means that the owner must follow the link in an e-mail first."""

    async def log_in(
        self, email: str, password: str, *, replaced_token: str, device_token: str, address: str
    ) -> OpenSession:
        """Open a session."""

    async def log_out(self, token: str, *, address: str) -> None:
        """End a session."""

    async def session(self, token: str) -> Session | None:
        """Return a token's session; None when it has ended."""

    async def verify_email(self, token: str, *, address: str) -> str:
        """Prove an e-mail and return it."""

    async def send_verification(self, email: str, *, address: str) -> None:
        """Mail another proof."""

    async def send_password_reset(self, email: str, *, address: str) -> None:
        """Mail a token for a new password."""

    async def reset_password(self, token: str, password: str, *, address: str) -> Reset:
        """Choose a password."""


class OwnerClient(Protocol):
    """What the holder of one session can do with the account."""

    async def keys(self) -> Keys:
        """Return all keys, oldest first."""

    async def create_key(self, name: str, *, expires_at: float | None, models: Sequence[str]) -> NewKey:
        """Make a key."""

    async def rotate_key(self, key_id: str, *, grace_seconds: int) -> NewKey:
        """Replace a key."""

    async def revoke_key(self, key_id: str) -> Key:
        """End a key for good."""

    async def principal(self, key_id: str) -> Principal:
        """Return what a key may do now, for a call on its owner's behalf."""

    async def sessions(self) -> Sequence[Session]:
        """Return the sessions that last, newest first."""

    async def end_session(self, session_id: str) -> None:
        """End one of them."""

    async def events(self, *, before: str, count: int) -> Sequence[Event]:
        """Return at most `count` events of the audit log older than the one with the id `before`, newest first."""

    async def change_password(self, current: str, new: str) -> None:
        """Choose another password."""

    async def delete_account(self, password: str) -> None:
        """Delete the account."""


class Usage(Protocol):
    """What one account used."""

    async def today(self, key_ids: Sequence[str]) -> Sequence[KeyDay | None]:
        """Return each key's day, in order; None where nobody knows just now."""

    async def last_uses(self, key_ids: Sequence[str]) -> Sequence[float | None]:
        """Return when each key was last used, in order; None means never."""

    async def days(self, *, from_day: str, key_id: str = "") -> Sequence[DayUsage]:
        """Return sums by day and model since a day, newest first."""

    async def requests(self, wanted: RequestFilter, *, count: int) -> Sequence[Receipt]:
        """Return a page of requests, newest first."""

    async def request(self, request_id: str) -> Receipt | None:
        """Return one request of the account; None when there is none."""
