"""Thinking: the effort that is sent to the model, and what the client sees of its reasoning."""

from enum import Enum

from services.gateway.apis.surface import ModelFacts
from services.gateway.apis.translation.outputs import reasoning_members
from services.gateway.requests.types import JSONObject

_LOW_BUDGET, _MEDIUM_BUDGET = 4_096, 16_384
"""Budgets in tokens from which the effort is medium, and high."""


class Thinking(Enum):
    """How an answer contains the reasoning."""

    SHOWN = "shown"
    """As text."""
    OMITTED = "omitted"
    """In the signature only, which the client returns with the next request."""
    DISABLED = "disabled"
    """Not at all."""


def thinking_of(members: JSONObject) -> Thinking:
    """Return how the answer to a request contains the reasoning."""
    config = members.get("thinking") or {}
    if config.get("type") == "disabled":
        return Thinking.DISABLED
    return Thinking.OMITTED if config.get("display") == "omitted" else Thinking.SHOWN


def effort_members(members: JSONObject, model: str, facts: ModelFacts | None) -> JSONObject:
    """Return the chat members for the effort of a request. Models that do not reason get none."""
    if thinking_of(members) is Thinking.DISABLED:
        return _least(model, facts)
    return reasoning_members(model, _effort(members), facts)


def _least(model: str, facts: ModelFacts | None) -> JSONObject:
    none = reasoning_members(model, "none", facts)
    if "reasoning_effort" in none:
        return none
    low = reasoning_members(model, "low", facts)
    # The two members exclude each other.
    return low | {"include_reasoning": False} if "reasoning_effort" in low and "reasoning_format" not in low else low


def _effort(members: JSONObject) -> str | None:
    effort: str | None = (members.get("output_config") or {}).get("effort")
    budget = (members.get("thinking") or {}).get("budget_tokens")
    if effort or budget is None:
        return effort
    return "low" if budget < _LOW_BUDGET else "medium" if budget < _MEDIUM_BUDGET else "high"
