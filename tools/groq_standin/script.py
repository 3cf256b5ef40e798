"""How one request is to be answered, as its markers asked."""

from dataclasses import dataclass
from typing import Literal

Fault = Literal["error_event", "x_groq_error", "cut", "end", "no_done", "hang", "hang_stream", "reset", "reset_stream"]
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
class Script:
    """Everything the markers of one request ask for; without markers, the defaults."""

    names: tuple[str, ...] = ()
    reasoning_tokens: int | None = None
    calls_tool: bool = False
    length_tokens: int | None = None
    content_tokens: int | None = None
    content_bytes: int | None = None
    piece_bytes: int = 256
    is_unicode: bool = False
    cached_tokens: int = 0
    headers_ms: int = 0
    first_ms: int | None = None
    token_ms: int | None = None
    refusal: str | None = None
    retry_after_seconds: int = 2
    fault: Fault | None = None
    after: int = 0
    error_status: int = 400
    flaky: Flaky | None = None
    usage_places: frozenset[str] = EVERYWHERE
    burst: int = 1
    drips: bool = False

    @property
    def mode(self) -> str | None:
        """The names of the markers as the journal shows them, joined by `+`; None without markers."""
        return "+".join(self.names) or None
