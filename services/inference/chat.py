"""The nouns of a chat: a call, what comes back, what it used and how it ended."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, TypeGuard

JSONObject = dict[str, Any]
"""A JSON object; values may be raw JSON (`msgspec.Raw`) on the way out."""

TOKENS_MAX = 10**9
"""Highest count of tokens that a row takes: far more than any request uses, and sums of rows stay within 64 bits."""


class Verdict(StrEnum):
    """Whether a request counts against its key's limit."""

    CHARGED = "charged"
    RELEASED = "released"


class Outcome(StrEnum):
    """How a request ended."""

    ANSWERED = "answered"
    """Groq answered to the end."""
    REFUSED = "refused"
    """Groq refused the request itself, or a bound of the key's did."""
    UPSTREAM_FAILED = "upstream_failed"
    """Groq failed before the first output."""
    CUT = "cut"
    """Groq's stream broke after output."""
    TIMED_OUT = "timed_out"
    """A time-out passed. Charged when output had begun, or when Groq answered after all."""
    CLIENT_LEFT = "client_left"
    """The client left before the end. Charged when Groq had been called: it was read to the end."""
    CLIENT_STALLED = "client_stalled"
    """The client stopped reading and was disconnected; Groq was read to the end."""
    KEY_REVOKED = "key_revoked"
    """The key was revoked while its answer was streamed; Groq was read to the end."""
    SESSION_ENDED = "session_ended"
    """The console session ended while its answer was streamed; Groq was read to the end."""
    UNKNOWN = "unknown"
    """Nobody can say: the verdict never came, and quota's sweeper closed the request."""


ABANDONED_OUTCOMES = frozenset(
    {Outcome.CLIENT_LEFT, Outcome.CLIENT_STALLED, Outcome.KEY_REVOKED, Outcome.SESSION_ENDED}
)
"""Outcomes of requests that Groq answered, and whose answer did not reach its client."""


class UsageSource(StrEnum):
    """Where the token counts come from."""

    REPORTED = "reported"
    """Groq counted."""
    ESTIMATED = "estimated"
    """Counted here from what was seen; Groq never said."""
    NONE = "none"
    """Nothing was used."""


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Where a request is accounted."""

    request_id: str
    account_id: str
    """Empty for a direct caller."""
    key_id: str
    """Empty for a direct caller, whose rows count against no key."""
    day: str
    """UTC date of the reserve, `YYYY-MM-DD`."""
    reserved_at: float
    """Redis' time of the reserve, or the arrival of a direct call; Unix seconds."""
    models: tuple[str, ...] = ()
    """Models that may be asked for, by name or with `*` in it; empty allows all."""


@dataclass(frozen=True, slots=True)
class ChatCall:
    """What a caller asks for."""

    members: JSONObject
    """The request's JSON object without `model` and `stream`."""
    model: str
    """The model's name as asked for, the default filled in."""
    asks_for_usage: bool
    """Whether a stream is to end with a chunk that reports only the usage."""
    size_bytes: int = 0
    """Size of the message that it came in."""

    @property
    def tokens(self) -> int:
        """About what Groq counts against its limits of tokens: the prompt, at four bytes a token, and the bound of the
        answer.
        """
        bounds = (self.members.get(name) for name in ("max_completion_tokens", "max_tokens"))
        return self.size_bytes // 4 + next((bound for bound in bounds if _is_count(bound)), 0)


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    source: UsageSource = UsageSource.NONE

    @classmethod
    def reported(cls, members: JSONObject) -> "Usage | None":
        """Read Groq's usage object; a count that is absent is 0. Returns None when no count can be read at all."""
        if not any(_is_count(members.get(name)) for name in ("prompt_tokens", "completion_tokens", "total_tokens")):
            return None
        prompt, completion = _count(members, "prompt_tokens"), _count(members, "completion_tokens")
        return cls(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=_count(members, "total_tokens") or prompt + completion,
            cached_tokens=_count(members.get("prompt_tokens_details"), "cached_tokens"),
            reasoning_tokens=_count(members.get("completion_tokens_details"), "reasoning_tokens"),
            source=UsageSource.REPORTED,
        )

    @classmethod
    def estimated(cls, *, body_bytes: int, output_chunks: int) -> "Usage":
        """Estimate from the request's size, at four bytes a token, and the pieces of output, at one token each."""
        prompt = max(1, body_bytes // 4)
        return cls(prompt, output_chunks, prompt + output_chunks, source=UsageSource.ESTIMATED)

    def __add__(self, other: "Usage") -> "Usage":
        """Return the sum of two attempts; it is reported only when both are."""
        is_reported = self.source is other.source is UsageSource.REPORTED
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.total_tokens + other.total_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            source=UsageSource.REPORTED if is_reported else UsageSource.ESTIMATED,
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """Groq's answer in one piece."""

    members: JSONObject


class EventBatch(NamedTuple):
    """Events of a stream that arrived together."""

    events: list[JSONObject]


class Lease(Protocol):
    """Permission for one call with one key (key_pool.py)."""

    @property
    def key(self) -> int:
        """Index of the key to call with."""

    def limits_learned(self, *, cooldown_seconds: float) -> None:
        """Note how long until the key has something left for the model, as the answer's headers say; 0 when it has."""


class Provider(Protocol):
    """The upstream. Calls raise errors of the service tree, among them those of upstream_errors.py."""

    async def complete(self, body: bytes, lease: Lease) -> Reply:
        """Return the answer to a chat request."""

    def stream(self, body: bytes, lease: Lease) -> AbstractAsyncContextManager[AsyncIterator[EventBatch]]:
        """Open a stream; it yields the events that arrived together, and ends only after Groq's `[DONE]`."""

    async def list_models(self, lease: Lease) -> list[JSONObject]:
        """Return the models that are served now."""


def _count(members: Any, name: str) -> int:
    """Return a count; 0 when it is absent or none, and at most `TOKENS_MAX`."""
    value = members.get(name) if isinstance(members, dict) else None
    return min(value, TOKENS_MAX) if _is_count(value) else 0


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value >= 0
