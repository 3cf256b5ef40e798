"""How one request is to be answered, as its markers asked."""

from dataclasses import dataclass
from typing import Literal

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
"""How an answer goes wrong."""
EVERYWHERE = frozenset({"x_groq", "top", "last"})
"""The places in which a stream reports usage."""


@dataclass(frozen=True, slots=True)
class Flaky:
    """Fail some requests and answer the next ones."""

    id: str
    times: int
    status: str
    """The mode that the failing requests meet."""


@dataclass(frozen=True, slots=True)
class Unclean:
    """Text that is not valid Unicode."""

    text: str
    """`utf8`, a byte that UTF-8 does not have; `surrogate`, half of a pair; `emoji`, both halves in two deltas."""
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
    """How long a refusal asks to be left alone."""

    milliseconds: int
    form: str
    """`seconds`, `fraction`, `date` or `ms`."""


@dataclass(frozen=True, slots=True)
class Script:
    """Everything the markers of one request ask for; without markers, the defaults."""

    names: tuple[str, ...] = ()
    reasoning_tokens: int | None = None
    calls_tool: bool = False
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
    """What comes in place of an answer, with status 200."""
    fault: Fault | None = None
    after: int = 0
    error_status: int = 400
    error_has_usage: bool = False
    ends_abruptly: bool = False
    """The connection closes after a stream that lacks `[DONE]`."""
    flaky: Flaky | None = None
    usage_places: frozenset[str] = EVERYWHERE
    odd_counts: str | None = None
    """How the reported usage is wrong: `huge`, `empty` or `text`."""
    odd_id: str | None = None
    """What `x_groq.id` is in place of Groq's own text: `number`, `object` or `long`."""
    sse_forms: frozenset[str] = frozenset()
    burst: int = 1
    drips: bool = False

    @property
    def mode(self) -> str | None:
        """The names of the markers as the journal shows them, joined by `+`; None without markers."""
        return "+".join(self.names) or None
