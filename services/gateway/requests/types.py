"""Types of a chat request on its path through the gateway."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from services.common.errors import Throttled
from services.common.limits import Limit, Scope, Slot, Unit, Window
from services.common.surface import Surface
from services.common.verdict import Amounts, RowVerdict

JSONObject = dict[str, Any]
"""A JSON object."""
_METERED = frozenset({Unit.TOKENS, Unit.COST})


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller of a request and its permissions."""

    key_id: str
    account_id: str
    daily_limit: int
    """Requests per UTC day; 0 denies every request."""
    expires_at: float | None
    """Unix seconds; None means never."""
    models: tuple[str, ...] = ()
    """Permitted models, by name or as patterns with `*`; empty permits all."""
    account_limit: int | None = None
    """Requests per UTC day of the whole account; None sets no limit."""
    limits: tuple[Limit, ...] = ()
    """All other limits of the key and its account."""
    weight: int = 1
    """Share of Groq's allowance that the account gets, relative to others, when not all can be served."""
    quota_account_id: str = ""
    """Id under which quota counts the account. It differs from `account_id` if the account continues the counts of a
    deleted one; empty becomes `account_id`."""
    key_name: str = ""
    """Name of the key; empty if auth is of a version that does not send it."""
    plan: str = ""
    """Name of the account's plan; empty if auth is of a version that does not send it."""
    deduplicate_retries: bool = False
    """Whether an automatic retry of an SDK gets the answer of the request that it retries."""

    def __post_init__(self) -> None:
        if not self.quota_account_id:
            object.__setattr__(self, "quota_account_id", self.account_id)

    @property
    def counted_key(self) -> "CountedKey":
        """The key, as quota counts it."""
        return CountedKey(self.key_id, self.quota_account_id)

    @property
    def is_metered(self) -> bool:
        """Whether tokens or cost are limited."""
        return any(limit.unit in _METERED for limit in self.limits)


class CountedKey(NamedTuple):
    """A key, as quota counts it."""

    key_id: str
    quota_account_id: str
    """Id under which quota counts the account that owns the key."""


@dataclass(slots=True)
class RateLimit:
    """A limit of a key or its account and what is used of it, as shown to its owner."""

    limit: int
    charged: int
    """What counts permanently."""
    held: int
    """What requests in flight hold until they are settled."""
    reset_at: float
    """Unix seconds of the end of the window; for a day, the next 00:00 UTC."""
    scope: Scope = Scope.KEY
    unit: Unit = Unit.REQUESTS
    window: Window | None = Window.DAY

    @property
    def is_of_account(self) -> bool:
        """Whether it is the limit of the account with all its keys."""
        return self.scope is Scope.ACCOUNT

    @property
    def remaining(self) -> int:
        """What is neither used nor held."""
        return max(0, self.limit - self.charged - self.held)

    def without_one_held(self) -> "RateLimit":
        """Return the values after a request in flight was released."""
        return replace(self, held=self.held - 1)


@dataclass(slots=True)
class Hold:
    """A reserved slot, and where its request is accounted."""

    request_id: str
    principal: Principal
    day: str
    """UTC date of the reserve, `YYYY-MM-DD`."""
    reserved_at: float
    """Redis' time of the reserve; Unix seconds."""
    rate_limit: RateLimit
    """The tightest of the limits in requests per day."""
    output_tokens: int = 0
    """Tokens that the answer may have; 0 if neither tokens nor cost are limited."""
    held: Amounts | None = None
    """What is held of tokens and cost; None if neither is limited."""
    tokens: RateLimit | None = None
    """The tightest of the limits of tokens; None if there is none."""

    @property
    def slot(self) -> Slot:
        """Place of the request among those of the limit."""
        limit = self.rate_limit
        return Slot(limit.charged + limit.held, limit.limit, limit.scope)


@dataclass(slots=True)
class Chat:
    """A parsed and validated chat request."""

    members: JSONObject
    """Its JSON object without `stream`."""
    stream: bool
    body_bytes: int = 0
    """Size of the request body."""
    surface: Surface = field(kw_only=True)
    """The API through which it came."""

    def limit_output(self, tokens: int) -> None:
        """Limit the output of all requested answers together to a number of tokens, of which limits have room."""
        self.members.pop("max_tokens", None)
        self.members["max_completion_tokens"] = max(1, tokens // (self.members.get("n") or 1))


@dataclass(slots=True)
class Completion:
    """An answer without streaming."""

    body: bytes
    """JSON text."""
    verdict: RowVerdict | None


class LimitReached(Throttled):
    """What a limit of the key, or of its account, allows is charged or held, or is less than the request needs.

    Attributes:
        rate_limit: The limit that is reached.
        requested: What the request takes of it at least.
    """

    default_reason = "rate_limit_exceeded"

    def __init__(self, rate_limit: RateLimit, requested: int = 1) -> None:
        super().__init__(f"the {rate_limit.scope}'s limit of {rate_limit.unit} is reached")
        self.rate_limit = rate_limit
        self.requested = requested


class Departure(StrEnum):
    """Why an answer does not reach its client; the ledger's outcomes of the same names."""

    CLIENT_LEFT = "client_left"
    """The client closed the connection."""
    CLIENT_STALLED = "client_stalled"
    """The client was connected but did not read."""
    KEY_REVOKED = "key_revoked"
    """The key was revoked, which ended the stream."""
    SESSION_ENDED = "session_ended"
    """The console session that used the key ended, which ended the stream."""


class Client(Protocol):
    """The receiver of the answer."""

    @property
    def departure(self) -> Departure | None:
        """The reason of the client's disconnect; None while it is connected."""
