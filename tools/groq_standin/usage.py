"""Token usage of an answer, in Groq's form."""

from dataclasses import dataclass

_QUEUE_SECONDS = 0.05
_PROMPT_SECONDS_PER_TOKEN = 0.00005
_COMPLETION_SECONDS_PER_TOKEN = 0.002


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts. The times that Groq reports are derived from them, so that usage is deterministic."""

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int | None = None
    """Part of `completion_tokens`; None for a model that does not reason."""
    cached_tokens: int = 0
    """Part of `prompt_tokens`; 0 omits `prompt_tokens_details`."""

    @property
    def total_tokens(self) -> int:
        """The sum of prompt and completion tokens."""
        return self.prompt_tokens + self.completion_tokens

    def as_wire(self) -> dict[str, object]:
        """Return the `usage` object in Groq's key order."""
        prompt_seconds = round(self.prompt_tokens * _PROMPT_SECONDS_PER_TOKEN, 9)
        completion_seconds = round(self.completion_tokens * _COMPLETION_SECONDS_PER_TOKEN, 9)
        wire: dict[str, object] = {
            "queue_time": _QUEUE_SECONDS,
            "prompt_tokens": self.prompt_tokens,
            "prompt_time": prompt_seconds,
            "completion_tokens": self.completion_tokens,
            "completion_time": completion_seconds,
            "total_tokens": self.total_tokens,
            "total_time": round(prompt_seconds + completion_seconds, 9),
        }
        if self.cached_tokens:
            wire["prompt_tokens_details"] = {"cached_tokens": self.cached_tokens}
        if self.reasoning_tokens is not None:
            wire["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens}
        return wire


ODD_COUNTS = frozenset({"huge", "empty", "text"})
"""Kinds of wrong usage."""
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


def as_sent(usage: Usage, odd: str | None) -> dict[str, object]:
    """Return the `usage` object of an answer: the correct one, or a wrong one of a kind in `ODD_COUNTS`."""
    wire = usage.as_wire()
    match odd:
        case "huge":
            # The values fit in unsigned 64-bit integers, the maximum that msgspec can encode.
            return wire | dict(zip(_COUNTS, (2**63, 2**62, 2**63 + 2**62), strict=True))
        case "empty":
            return {}
        case "text":
            return wire | {name: str(wire[name]) for name in _COUNTS}
    return wire
