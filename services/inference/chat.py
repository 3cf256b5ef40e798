"""Domain types of a chat request: call, reply, usage, outcome and verdict."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeGuard

from services.common.limits import Slot
from services.common.surface import Surface
from services.common.verdict import Amounts
from services.inference.allowance.model import Observation

JSONObject = dict[str, Any]
"""A JSON object. Values of requests to Groq may be raw JSON (`msgspec.Raw`)."""

TOKENS_MAX = 10**9
"""Maximum token count in a row: far above any request's usage, and low enough that sums of rows fit into 64 bits."""
_TOKENS_BESIDE_TEXT_MAX = 150_000
"""Maximum tokens of an answer, of images and of a model's template; the longest answer has 65,536."""


class Outcome(StrEnum):
    """How a request ended."""

    ANSWERED = "answered"
    """Groq completed the answer."""
    REFUSED = "refused"
    """Groq rejected the request itself, or the key's model restriction did."""
    UPSTREAM_FAILED = "upstream_failed"
    """Groq failed before the first output."""
    CUT = "cut"
    """Groq's stream failed after the first output."""
    TIMED_OUT = "timed_out"
    """A time-out expired. Charged if output had begun, or if Groq answered after all."""
    CLIENT_LEFT = "client_left"
    """The client disconnected before the end. Charged if Groq was called, since its answer was read to the end."""
    CLIENT_STALLED = "client_stalled"
    """The client stopped reading and was disconnected. Groq's answer was read to the end."""
    KEY_REVOKED = "key_revoked"
    """The key was revoked during the stream. Groq's answer was read to the end."""
    SESSION_ENDED = "session_ended"
    """The console session ended during the stream. Groq's answer was read to the end."""
    UNKNOWN = "unknown"
    """The verdict never arrived, and quota's sweeper closed the request."""


ABANDONED_OUTCOMES = frozenset(
    {Outcome.CLIENT_LEFT, Outcome.CLIENT_STALLED, Outcome.KEY_REVOKED, Outcome.SESSION_ENDED}
)
"""Outcomes of requests that Groq answered but whose answer did not reach the client."""


class UsageSource(StrEnum):
    """Source of token counts."""

    REPORTED = "reported"
    """Counted by Groq."""
    ESTIMATED = "estimated"
    """Estimated from the sizes of request and answer, since Groq reported no count."""
    NONE = "none"
    """No tokens were used."""


@dataclass(slots=True)
class CallContext:
    """Identifies a request, its key and its hold."""

    request_id: str
    account_id: str
    """Empty for a direct caller."""
    key_id: str
    """Empty for a direct caller, whose rows do not count against a key."""
    day: str
    """UTC date of the reserve, `YYYY-MM-DD`."""
    reserved_at: float
    """Time of the reserve by Redis' clock, or of the arrival of a direct call, in Unix seconds."""
    models: tuple[str, ...] = ()
    """Permitted models, by name or as patterns with `*`; empty permits all."""
    surface: Surface | None = None
    """None for a direct caller, and if it is not known."""
    held: Amounts | None = None
    """What quota holds of tokens and cost; the request is charged no more. None without such a hold."""
    quota_account_id: str = ""
    """Account under which quota counts the request; empty means `account_id`."""
    slot: Slot | None = None
    """Place of the request among those of its tightest limit in requests per day; None if it is not known."""
    weight: int = 1
    """Share of Groq's allowance that the account gets, relative to others, when not all can be served."""


@dataclass(slots=True)
class ChatCall:
    """A chat request."""

    members: JSONObject
    """Members of the request's JSON object, without `model` and `stream`."""
    model: str
    """Requested model, with the default applied."""
    include_usage: bool
    """Whether the stream must end with a chunk that contains only the usage."""
    size_bytes: int = 0
    """Size of the request."""

    @classmethod
    def from_members(cls, members: JSONObject, *, default_model: str, size_bytes: int) -> "ChatCall":
        """Return the call of a gateway, which has checked the members. They are changed."""
        model = members.pop("model", None) or default_model
        options = members.pop("stream_options", None)
        if options:
            members["stream_options"] = options
        include_usage = bool(options and options.get("include_usage"))
        return cls(members, model, include_usage=include_usage, size_bytes=size_bytes)

    @property
    def images(self) -> int:
        """Number of images in the messages."""
        contents = (message.get("content") for message in self.members.get("messages") or ())
        parts = (part for content in contents if isinstance(content, list) for part in content)
        return sum(isinstance(part, dict) and part.get("type") == "image_url" for part in parts)

    @property
    def tokens(self) -> int:
        """Estimate of what Groq counts against its token limits: the prompt, at four bytes a token, and the maximum
        length of the answer, at most `tokens_max`.
        """
        bounds = (self.members.get(name) for name in ("max_completion_tokens", "max_tokens"))
        return min(self.size_bytes // 4 + next((bound for bound in bounds if _is_count(bound)), 0), self.tokens_max)

    @property
    def tokens_max(self) -> int:
        """More tokens than Groq can count for the request. A higher count is wrong, and uses up no allowance."""
        return self.size_bytes + _TOKENS_BESIDE_TEXT_MAX


@dataclass(slots=True)
class Usage:
    """Token counts of one request."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    source: UsageSource = UsageSource.NONE

    @property
    def counted_tokens(self) -> int:
        """Tokens that Groq counts against its limits: all but the cached ones."""
        return max(0, self.total_tokens - self.cached_tokens)

    @classmethod
    def reported(cls, members: JSONObject) -> "Usage | None":
        """Parse Groq's usage object. A missing count is 0. Returns None if no count is readable."""
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
        """Estimate usage at four bytes of the request per prompt token, and one completion token per output chunk."""
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


@dataclass(slots=True)
class Reply:
    """An answer of Groq without streaming."""

    members: JSONObject


class Lease(Protocol):
    """Permission to make one call with one key (`key_pool/pool.py`)."""

    @property
    def key(self) -> int:
        """Index of the key."""

    upstream_id: str
    """Groq's id of the call, from the headers of its answer; empty until it is known."""

    def record_limits(self, observations: Sequence[Observation]) -> None:
        """Record the rate limits in the headers of an answer."""


class Provider(Protocol):
    """Port to the upstream. Calls raise `ServiceError`, including the subclasses in `groq/errors.py`."""

    async def complete(self, body: bytes, lease: Lease) -> Reply:
        """Send a chat request and return the answer."""

    def stream(self, body: bytes, lease: Lease) -> AbstractAsyncContextManager[AsyncIterator[list[JSONObject]]]:
        """Open a stream of event batches, which ends only after Groq's `[DONE]`."""

    async def list_models(self, lease: Lease) -> list[JSONObject]:
        """Return the models that Groq serves."""


def _count(members: Any, name: str) -> int:
    """Return a count of at most `TOKENS_MAX`; 0 if it is missing or not a count."""
    value = members.get(name) if isinstance(members, dict) else None
    return min(value, TOKENS_MAX) if _is_count(value) else 0


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value >= 0
