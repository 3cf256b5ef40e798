"""What the pages show, independent of gRPC. Times are Unix seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.common.limits import Limit

FREE_PLAN = "free"


@dataclass(frozen=True, slots=True)
class Session:
    """A session of an operator or an owner."""

    id: str
    account_id: str
    email: str
    created_at: float
    last_used_at: float
    expires_at: float
    address: str


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A new session with its credentials."""

    session: Session
    token: str = field(repr=False)
    device_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Account:
    """An account."""

    id: str
    email: str
    """Empty if it was deleted."""
    plan: str
    created_at: float
    verified_at: float | None
    deleted_at: float | None
    suspended_at: float | None
    operator_since: float | None

    @property
    def state(self) -> str:
        """`active`, `suspended` or `deleted`."""
        if self.deleted_at is not None:
            return "deleted"
        return "active" if self.suspended_at is None else "suspended"


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan. None means that a setting of auth applies, or that there is no limit."""

    name: str
    daily_limit: int
    account_daily_limit: int | None = None
    active_keys_max: int | None = None
    new_keys_per_day_max: int | None = None
    weight: int = 1
    limits: Sequence[Limit] = ()
    accounts: int = 0
    """Number of its accounts."""


@dataclass(frozen=True, slots=True)
class Key:
    """An API key."""

    id: str
    name: str
    prefix: str
    daily_limit: int
    created_at: float
    revoked_at: float | None
    expires_at: float | None
    paused_at: float | None

    def state(self, now: float) -> str:
        """Return `active`, `paused`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return "active" if self.paused_at is None else "paused"


@dataclass(frozen=True, slots=True)
class AccountDetails:
    """An account with what belongs to it."""

    account: Account
    plan: Plan
    keys: Sequence[Key]
    sessions: Sequence[Session]
    has_totp: bool


@dataclass(frozen=True, slots=True)
class AccountSearch:
    """Which accounts to list. Empty values do not filter."""

    text: str = ""
    plan: str = ""
    state: str = ""
    ids: Sequence[str] = ()
    before: str = ""


@dataclass(frozen=True, slots=True)
class Invite:
    """An invitation that can be used."""

    id: str
    plan: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """An event of the audit log."""

    id: str
    at: float
    actor: str
    address: str
    action: str
    account_id: str
    target: str
    details: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AuditSearch:
    """Which events to list. Empty values do not filter."""

    account: str = ""
    actor: str = ""
    action: str = ""
    before: str = ""


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Events, and the addresses of the operators among their actors by account id."""

    events: Sequence[AuditEvent]
    operators: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums of an account's requests."""

    charged: int
    released: int
    tokens: int
    cost: int | None
    """Microdollars of the requests that have a cost; None if none has one."""

    @property
    def requests(self) -> int:
        """All requests, charged or not."""
        return self.charged + self.released


@dataclass(frozen=True, slots=True)
class AccountUsage:
    """An account and its usage."""

    account_id: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """A day, a model and its usage."""

    day: str
    model: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a rate limit of Groq."""

    model: str
    window: str
    limit: int
    left: int


@dataclass(frozen=True, slots=True)
class GroqKey:
    """The state of one of the operator's Groq keys."""

    number: int
    state: str
    """`ok`, `rejected`, `unreachable` or `unchecked`."""
    is_usable: bool
    cooldowns: int
    allowances: Sequence[Allowance]


@dataclass(frozen=True, slots=True)
class GroqKeys:
    """All Groq keys, as one replica of inference knows them."""

    keys: Sequence[GroqKey]
    is_shared: bool
    at: float


@dataclass(frozen=True, slots=True)
class Check:
    """The health of one part of the service."""

    name: str
    state: str
    """`ok`, `failed`, or `unknown`."""
    message: str = ""


def add_up(parts: Sequence[ModelUsage]) -> Usage:
    """Return the sum of several usages."""
    usages = [part.usage for part in parts]
    costs = [usage.cost for usage in usages if usage.cost is not None]
    return Usage(
        sum(usage.charged for usage in usages),
        sum(usage.released for usage in usages),
        sum(usage.tokens for usage in usages),
        sum(costs) if costs else None,
    )
