"""The nouns of a chat: a call, what comes back, what it used and how it ended."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

Members = dict[str, Any]
"""A JSON object; values may be raw JSON (`msgspec.Raw`) on the way out."""


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
    """A time-out passed."""
    CLIENT_LEFT = "client_left"
    """The client left before the end; Groq was read on."""
    UNKNOWN = "unknown"
    """Nobody can say: the verdict never came, and quota's sweeper closed the request."""


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

    members: Members
    """The request's JSON object without `model` and `stream`."""
    model: str
    """The model's name as asked for, the default filled in."""
    asks_for_usage: bool
    """Whether a stream is to end with a chunk that reports only the usage."""


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
    def reported(cls, members: Members) -> "Usage":
        """Read Groq's usage object; a count that is absent is 0."""
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
    def estimated(cls, *, prompt_characters: int, pieces: int) -> "Usage":
        """Guess from the prompt's length, at four characters a token, and the pieces seen, at one token each."""
        prompt = max(1, prompt_characters // 4)
        return cls(prompt, pieces, prompt + pieces, source=UsageSource.ESTIMATED)


@dataclass(frozen=True, slots=True)
class Reply:
    """Groq's answer in one piece."""

    members: Members


class Turn(Protocol):
    """One key's turn to ask (supply.py)."""

    @property
    def key(self) -> int:
        """Index of the key to ask with."""

    def answered(self, *, rest_seconds: float) -> None:
        """Learn that Groq accepted the call, and how long until the key has something left; 0 when it has."""


class Provider(Protocol):
    """The upstream. All calls raise errors of the service tree; supply.py has those that say something of a key."""

    async def complete(self, body: bytes, turn: Turn) -> Reply:
        """Return the answer to a chat request."""

    def stream(self, body: bytes, turn: Turn) -> AbstractAsyncContextManager[AsyncIterator[list[Members]]]:
        """Open a stream; it yields the events that arrived together, and ends only after Groq's `[DONE]`."""

    async def list_models(self, turn: Turn) -> list[Members]:
        """Return the models that are served now."""


def _count(members: Any, name: str) -> int:
    value = members.get(name) if isinstance(members, dict) else None
    return value if type(value) is int and value >= 0 else 0
