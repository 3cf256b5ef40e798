"""What an answer costs, in the shape Groq reports it."""

from dataclasses import dataclass

_QUEUE_SECONDS = 0.05
_PROMPT_SECONDS_PER_TOKEN = 0.00005
_COMPLETION_SECONDS_PER_TOKEN = 0.002


@dataclass(frozen=True, slots=True)
class Usage:
    """Counted tokens; the times Groq adds follow from the counts, so that the same request reports the same usage."""

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int | None = None
    """Part of `completion_tokens`; None on a model that does not reason."""
    cached_tokens: int = 0
    """Part of `prompt_tokens`; 0 leaves `prompt_tokens_details` out."""

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
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
"""How a reported usage can be wrong."""
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


def as_sent(usage: Usage, odd: str | None) -> dict[str, object]:
    """Return the `usage` object that an answer carries: the true one, or one that is wrong in a way of `ODD_COUNTS`."""
    wire = usage.as_wire()
    match odd:
        case "huge":
            # Sums stay within 64 bits without a sign, the most that msgspec encodes.
            return wire | dict(zip(_COUNTS, (2**63, 2**62, 2**63 + 2**62), strict=True))
        case "empty":
            return {}
        case "text":
            return wire | {name: str(wire[name]) for name in _COUNTS}
    return wire
