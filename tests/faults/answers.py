"""An answer in terms that all surfaces have in common: its end, its token counts and its error."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

CODES = {
    "The usage ledger is unavailable.": "ledger_unavailable",
    "A required service cannot be reached.": "inference_unavailable",
    "The model stopped in the middle of its answer.": "upstream_stalled",
    "The model did not answer in time.": "upstream_timeout",
    "The request exceeded the maximum duration.": "deadline_exceeded",
}
"""Codes by the beginning of the message, for errors in forms that have no place for the code."""


class Tokens(NamedTuple):
    """Token counts of an answer. `total` is None on a surface that does not report it."""

    prompt: int
    completion: int
    total: int | None
    cached: int
    reasoning: int


@dataclass(slots=True, kw_only=True)
class Answer:
    """What a client received, in terms that all surfaces have in common."""

    request_id: str = ""
    status: int | None = None
    """None when there was no answer."""
    error: dict[str, Any] | None = None
    """The error object of the answer, or of a stream's last event."""
    code: str = ""
    """Code of the error; empty if it has none."""
    is_done: bool = False
    """A stream sent the event by which clients recognize a whole answer."""
    has_output: bool = False
    """Whether a stream sent content."""
    has_finished: bool = False
    """Whether a stream sent its finish reason."""
    tokens: Tokens | None = None
    """None where no counts were sent, or none that are numbers."""
    oddities: list[str] = field(default_factory=list)
    """Faults of the answer's format."""


class EventLines:
    """Collects the lines of a stream into events. Each of the product's events has one line of data."""

    def __init__(self) -> None:
        self._name = ""

    def add(self, line: bytes) -> tuple[str, str] | None:
        """Return an event's name, empty if it has none, and its data; None for a line without data."""
        if not line.rstrip():
            self._name = ""
        elif line.startswith(b"event: "):
            self._name = line.removeprefix(b"event: ").strip().decode()
        elif line.startswith(b"data: "):
            return self._name, line.removeprefix(b"data: ").strip().decode()
        return None


def openai_tokens(usage: Mapping[str, Any] | None) -> Tokens | None:
    """Return the counts of a `usage` in the form of chat completions; None where they are absent or not numbers."""
    details = (("prompt_tokens_details", "cached_tokens"), ("completion_tokens_details", "reasoning_tokens"))
    return _tokens(usage, ("prompt_tokens", "completion_tokens", "total_tokens"), details)


def code_of(error: Mapping[str, Any]) -> str:
    """Return the code that belongs to an error's message; empty if there is none."""
    message = str(error.get("message"))
    return next((code for text, code in CODES.items() if message.startswith(text)), "")


def responses_tokens(usage: Mapping[str, Any] | None) -> Tokens | None:
    """Return the counts of a `usage` in the form of responses."""
    details = (("input_tokens_details", "cached_tokens"), ("output_tokens_details", "reasoning_tokens"))
    return known(_tokens(usage, ("input_tokens", "output_tokens", "total_tokens"), details))


def anthropic_tokens(usage: Mapping[str, Any]) -> Tokens | None:
    """Return Anthropic's counts, whose input does not include what came from the cache."""
    cached = usage["cache_read_input_tokens"]
    reasoning = usage["output_tokens_details"]["thinking_tokens"]
    return known(Tokens(usage["input_tokens"] + cached, usage["output_tokens"], None, cached, reasoning))


def known(tokens: Tokens | None) -> Tokens | None:
    """Return counts, or None where zeros stand for counts that are not known."""
    return tokens if tokens and tokens.prompt else None


def _tokens(
    usage: Mapping[str, Any] | None, counts: tuple[str, str, str], details: tuple[tuple[str, str], tuple[str, str]]
) -> Tokens | None:
    if not usage or not all(isinstance(usage.get(name), int) for name in counts):
        return None
    prompt, completion, total = (usage[name] for name in counts)
    cached, reasoning = ((usage.get(outer) or {}).get(inner, 0) for outer, inner in details)
    return Tokens(prompt, completion, total, cached, reasoning)
