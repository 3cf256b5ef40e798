"""Types of a chat request on its path through the gateway."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

from services.common.errors import Throttled
from services.common.surface import Surface
from services.common.verdict import Verdict

JSONObject = dict[str, Any]
"""A JSON object."""


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
    weight: int = 1
    """Share of Groq's allowance that the account gets, relative to others, when not all can be served."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Limit and use of a key or its account on one day, as shown to its owner."""

    limit: int
    charged: int
    """Requests that count permanently."""
    held: int
    """Requests in flight, which count until they are settled."""
    reset_at: float
    """Unix seconds of the next 00:00 UTC."""
    is_of_account: bool = False
    """Whether it is the limit of the account with all its keys."""

    @property
    def remaining(self) -> int:
        """Slots that are neither used nor held."""
        return max(0, self.limit - self.charged - self.held)

    def without_one_held(self) -> "RateLimit":
        """Return the values after a request in flight was released."""
        return replace(self, held=self.held - 1)


@dataclass(frozen=True, slots=True)
class Hold:
    """A reserved slot, and where its request is accounted."""

    request_id: str
    principal: Principal
    day: str
    """UTC date of the reserve, `YYYY-MM-DD`."""
    reserved_at: float
    """Redis' time of the reserve; Unix seconds."""
    rate_limit: RateLimit
    """The tightest of the limits that apply to the request."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A parsed and validated chat request."""

    members: JSONObject
    """Its JSON object without `stream`."""
    stream: bool
    body_bytes: int = 0
    """Size of the request body."""
    surface: Surface = field(kw_only=True)
    """The API through which it came."""


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer without streaming."""

    body: bytes
    """JSON text."""
    verdict: Verdict | None


class LimitReached(Throttled):
    """The daily slots of the key, or of its account, are all charged or held.

    Attributes:
        rate_limit: The limit that is reached.
    """

    default_reason = "rate_limit_exceeded"

    def __init__(self, rate_limit: RateLimit) -> None:
        super().__init__(f"the {'account' if rate_limit.is_of_account else 'key'}'s daily limit is reached")
        self.rate_limit = rate_limit


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
