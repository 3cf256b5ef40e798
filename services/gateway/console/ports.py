"""The console's ports to the services. They give access to the account of one session only.

All calls may raise a `ServiceError` with a message for the user; it is `Unavailable` if a service cannot be reached.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.common.limits import Limit
from services.common.receipts import Receipt
from services.common.surface import Surface
from services.gateway.alerts.model import AlertKind
from services.gateway.apis.receipts import DayUsage
from services.gateway.apis.surface import ModelFacts
from services.gateway.console.usage.ranges import UsageRange
from services.gateway.console.usage.reports import Breakdown, Report
from services.gateway.requests.types import Principal, RateLimit


@dataclass(frozen=True, slots=True)
class SignUp:
    """The sign-up policy."""

    policy: str
    """`open`, `invite` or `closed`."""
    has_mail: bool
    """Whether mail is configured, so that addresses are verified and passwords can be reset by e-mail."""
    daily_limit: int | None
    """Requests per UTC day of each key of a new account; None if unknown."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session. Times are in Unix seconds."""

    id: str
    account_id: str
    email: str
    plan: str
    created_at: float
    expires_at: float
    last_used_at: float
    address: str
    """Client address at the log-in; empty if unknown."""
    is_current: bool
    quota_account_id: str
    """Id under which quota counts the account."""


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session and its token."""

    session: Session
    token: str = field(repr=False)
    device_token: str = field(repr=False)
    """Identifies the browser at its next log-in."""


@dataclass(frozen=True, slots=True)
class PendingLogIn:
    """A log-in that needs a code of the second factor. It is no session."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reset:
    """Result of a password reset."""

    email: str
    device_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Key:
    """An API key, without its secret. Times are in Unix seconds; None means never."""

    id: str
    name: str
    prefix: str
    daily_limit: int
    created_at: float
    revoked_at: float | None
    expires_at: float | None
    models: tuple[str, ...]
    replaced_by: str
    limits: tuple[Limit, ...] = ()
    """Limits of the key and its account other than requests per day."""
    paused_at: float | None = None
    owner_daily_limit: int | None = None
    """Requests per UTC day that the owner allows, which `daily_limit` includes; None sets no limit."""
    owner_limits: tuple[Limit, ...] = ()
    """Other limits that the owner has set, which `limits` include."""

    def state(self, now: float) -> str:
        """Return `active`, `paused`, `rotated` (replaced, in its grace period), `revoked` or `expired`."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        if self.paused_at is not None:
            return "paused"
        return "rotated" if self.replaced_by else "active"


@dataclass(frozen=True, slots=True)
class KeySettings:
    """What an owner sets for a key."""

    name: str
    expires_at: float | None
    models: Sequence[str]
    owner_daily_limit: int | None
    owner_limits: Sequence[Limit]


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new key with its secret."""

    key: Key
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of an account, with its limits."""

    keys: Sequence[Key]
    active_max: int
    new_per_day_max: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model that can be called."""

    name: str
    owner: str
    """Who developed it; empty if not known."""
    facts: ModelFacts
    chats: bool
    """Whether it reads and writes text."""
    features: tuple[str, ...] | None
    """Groq's names of what it supports, such as `tools`; None if not known."""

    @property
    def served_by(self) -> str:
        """The model that answers, if the name is an alias; else empty."""
        return self.facts.id or ""


@dataclass(frozen=True, slots=True)
class ModelList:
    """The models that can be called."""

    models: Sequence[Model]
    default: str
    """Model of a request that names none; empty if inference is of a version that does not send it."""

    def named(self, name: str) -> Model | None:
        """Return a model by its name; None if it is not in the list."""
        return next((model for model in self.models if model.name == name), None)


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan. See the protobuf `stack.auth.v1.Plan`."""

    name: str
    daily_limit: int
    account_daily_limit: int | None
    active_keys_max: int
    new_keys_per_day_max: int
    limits: tuple[Limit, ...]
    weight: int


@dataclass(frozen=True, slots=True)
class Plans:
    """An account's plan, and the one to compare it with."""

    own: Plan
    pro: Plan | None
    """The plan `pro`; None if there is none."""


@dataclass(frozen=True, slots=True)
class AccountEvent:
    """An event in the audit log. The time is in Unix seconds."""

    id: str
    at: float
    actor: str
    address: str
    action: str
    target: str


@dataclass(frozen=True, slots=True)
class TodayUsage:
    """The usage of a key today."""

    used: int
    held: int
    reset_at: float
    """Unix seconds of the next 00:00 UTC."""


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """A filter for requests. Fields that are empty or None match all."""

    key_id: str = ""
    outcome: str = ""
    from_day: str = ""
    to_day: str = ""
    before: str = ""
    """Id of a request. Only older requests match."""
    surface: Surface | None = None
    model: str = ""
    from_time: int | None = None
    """Unix seconds. Only requests from this time on match."""
    to_time: int | None = None
    """Unix seconds. Only earlier requests match."""
    ended_from: float | None = None
    """Unix seconds. Only requests that ended at this time or later match."""


@dataclass(frozen=True, slots=True)
class RequestPage:
    """A page of requests, newest first."""

    requests: Sequence[Receipt]
    before: str
    """The `before` of the next page; empty after the last. A page may have fewer requests than asked for, or none, if
    few of those that were read match."""


class SessionClient(Protocol):
    """Operations that require no session."""

    async def describe_sign_up(self, invite: str) -> SignUp:
        """Return the sign-up policy. `invite` is the token of an invitation, whose plan then applies, or empty."""

    async def sign_up(self, email: str, password: str, *, invite: str, address: str) -> OpenSession | None:
        """Create an account and a session. Returns None if the user must first confirm the e-mail address."""

    async def log_in(
        self, email: str, password: str, *, replaced_token: str, device_token: str, address: str
    ) -> OpenSession | PendingLogIn:
        """Create a session, or a pending log-in if the account has a second factor."""

    async def log_out(self, token: str, *, address: str) -> None:
        """End a session."""

    async def session(self, token: str, *, is_check: bool = False) -> Session | None:
        """Return the session of a token, or None if it has ended. A check is no use of it that keeps it from ending."""

    async def verify_email(self, token: str, *, address: str) -> str:
        """Verify an e-mail address with a token, and return the address."""

    async def send_verification(self, email: str, *, address: str) -> None:
        """Send another verification e-mail."""

    async def send_password_reset(self, email: str, *, address: str) -> None:
        """Send an e-mail with a password reset token."""

    async def reset_password(self, token: str, password: str, *, address: str) -> Reset:
        """Set a new password with a password reset token."""


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """The alerts that an owner wants."""

    mail: frozenset[AlertKind]
    webhook: frozenset[AlertKind]
    has_mail: bool = False
    """Whether mail is configured."""


class ModelsClient(Protocol):
    """The model list."""

    async def list_models(self, permitted: Sequence[str] = ()) -> ModelList:
        """Return the models that match one of the `permitted` patterns, by name; without patterns, all of them."""


class OwnerClient(Protocol):
    """Operations on the account of one session."""

    async def keys(self) -> Keys:
        """Return all keys, oldest first."""

    async def create_key(self, name: str, *, expires_at: float | None, models: Sequence[str]) -> NewKey:
        """Create a key."""

    async def rotate_key(self, key_id: str, *, grace_seconds: int) -> NewKey:
        """Rotate a key. The old key continues to work for `grace_seconds`."""

    async def revoke_key(self, key_id: str) -> Key:
        """Revoke a key permanently."""

    async def update_key(self, key_id: str, settings: KeySettings, *, sets_expiry: bool) -> Key:
        """Change the settings of a key; its expiry only if `sets_expiry`."""

    async def pause_key(self, key_id: str, *, is_paused: bool) -> Key:
        """Pause or resume a key."""

    async def revoke_secret(self, secret: str) -> Key:
        """Revoke the key with this secret, which must be one of the account."""

    async def principal(self, key_id: str) -> Principal:
        """Return the current principal of a key, for a call on behalf of its owner."""

    async def plan(self) -> Plans:
        """Return the account's plan."""

    async def sessions(self) -> Sequence[Session]:
        """Return the active sessions, newest first."""

    async def end_session(self, session_id: str) -> None:
        """End a session."""

    async def events(self, *, before: str, count: int) -> Sequence[AccountEvent]:
        """Return at most `count` audit events, newest first. `before` is the id of an event; only older ones match."""

    async def change_password(self, current: str, new: str) -> None:
        """Change the password."""

    async def delete_account(self, password: str) -> None:
        """Delete the account."""

    async def alert_settings(self) -> AlertSettings:
        """Return the alerts that the owner wants."""

    async def set_alert_settings(self, settings: AlertSettings) -> None:
        """Replace the alerts that the owner wants."""


class UsageClient(Protocol):
    """The usage of one account."""

    async def today(self, key_ids: Sequence[str]) -> Sequence[TodayUsage | None]:
        """Return the usage of each key today, in order; None if it is not known."""

    async def limits(self, principal: Principal) -> Sequence[RateLimit]:
        """Return the limits of a key of the account, and of the account, with what is used of them."""

    async def last_uses(self, key_ids: Sequence[str]) -> Sequence[float | None]:
        """Return the time when each key was last used, in order; None means never."""

    async def days(self, filters: RequestFilter) -> Sequence[DayUsage]:
        """Return the usage of the requests that match by day and model, newest first. `before` is ignored."""

    async def report(
        self,
        filters: RequestFilter,
        chosen: UsageRange,
        breakdown: Breakdown,
        *,
        by_step: bool = False,
        with_latency: bool = False,
    ) -> Report:
        """Return the sums of the requests of a range that match, by breakdown.

        Args:
            filters: Key, model, outcome and surface; its times and days are ignored.
            chosen: The range.
            breakdown: What to sum by.
            by_step: Whether to sum each step of the range by itself.
            with_latency: Whether to measure latency.
        """

    async def requests(self, filters: RequestFilter, *, count: int, scan_max: int = 50_000) -> RequestPage:
        """Return a page of requests, newest first, for which at most `scan_max` are read."""

    async def webhook_url(self) -> str:
        """Return the URL of the account's active webhook; empty if there is none."""

    async def delete_webhook(self) -> None:
        """Delete the account's usage webhook, if there is one."""

    async def request(self, request_id: str) -> Receipt | None:
        """Return the receipt of a request, or None if the account has no such request."""
