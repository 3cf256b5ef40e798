"""The script of an answer: the behaviour that the markers of a request select."""

from dataclasses import dataclass
from typing import Literal

from tools.groq_standin.turns import Turn

Fault = Literal[
    "error_event",
    "x_groq_error",
    "cut",
    "end",
    "no_done",
    "finish_only",
    "bad_chunk",
    "hang",
    "hang_stream",
    "reset",
    "reset_stream",
]
"""Faults of an answer."""
EVERYWHERE = frozenset({"x_groq", "top", "last"})
"""The places where a stream reports usage."""


@dataclass(frozen=True, slots=True)
class Flaky:
    """Failures of the first `times` requests with an id."""

    id: str
    times: int
    status: str
    """The mode of the failing requests."""


@dataclass(frozen=True, slots=True)
class Unclean:
    """Text that is not valid Unicode."""

    text: str
    """`utf8`: an invalid byte; `surrogate`: half of a pair; `emoji`: both halves in two deltas."""
    where: str
    """`content`, `reasoning`, `arguments` of a tool call, or `error`."""


@dataclass(frozen=True, slots=True)
class LongMessage:
    """An error message of a given size."""

    size_bytes: int
    alphabet: str
    """`ascii`, `cjk` or `emoji`."""


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """The retry delay of a refusal."""

    milliseconds: int
    form: str
    """`seconds`, `fraction`, `date` or `ms`."""


@dataclass(frozen=True, slots=True)
class Script:
    """The combined effect of the markers of a request. The defaults apply without markers."""

    names: tuple[str, ...] = ()
    reasoning_tokens: int | None = None
    calls_tool: bool = False
    turns: tuple[Turn, ...] = ()
    turn: Turn | None = None
    """The one of `turns` that answers this request."""
    function_call_pieces: int = 0
    length_tokens: int | None = None
    content_tokens: int | None = None
    content_bytes: int | None = None
    piece_bytes: int = 256
    is_unicode: bool = False
    unclean: Unclean | None = None
    cached_tokens: int = 0
    headers_ms: int = 0
    first_ms: int | None = None
    token_ms: int | None = None
    refusal: str | None = None
    retry_after: RetryAfter | None = None
    long_message: LongMessage | None = None
    no_answer: str | None = None
    """The kind of body without an answer that is sent with status 200."""
    fault: Fault | None = None
    after: int = 0
    error_status: int = 400
    error_has_usage: bool = False
    ends_abruptly: bool = False
    """Whether the connection closes after a stream without `[DONE]`."""
    flaky: Flaky | None = None
    usage_places: frozenset[str] = EVERYWHERE
    odd_counts: str | None = None
    """How the reported usage is wrong: `huge`, `empty` or `text`."""
    odd_id: str | None = None
    """The replacement for `x_groq.id`: `number`, `object` or `long`."""
    sse_forms: frozenset[str] = frozenset()
    burst: int = 1
    drips: bool = False

    @property
    def mode(self) -> str | None:
        """The names of the markers joined by `+`, for the journal; None without markers."""
        return "+".join(self.names) or None
