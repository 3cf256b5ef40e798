"""Output limits and reasoning effort in the form that each of Groq's models accepts."""

from services.gateway.apis.surface import ModelFacts, served_model
from services.gateway.requests.types import JSONObject

_EFFORTS = {"minimal": "low", "xhigh": "high", "max": "high"}
_USUAL = frozenset({"low", "medium", "high"})
_ACCEPTED = (
    # Groq answers 400 to other values.
    ("openai/gpt-oss", _USUAL),
    ("qwen/qwen3-", frozenset({"none"})),
    ("qwen/", _USUAL | {"none"}),
)
_SEPARATES_REASONING = "openai/gpt-oss"
"""Models that return reasoning apart from the answer without being asked, and refuse `reasoning_format`."""


def max_completion_tokens(requested: int | None, facts: ModelFacts | None) -> JSONObject:
    """Return the chat member for a limit of output tokens, reduced to the model's maximum. None sets no limit."""
    if requested is None:
        return {}
    most = facts.max_output_tokens if facts else None
    return {"max_completion_tokens": requested if most is None else min(requested, most)}


def reasoning_members(model: str, effort: str | None, facts: ModelFacts | None) -> JSONObject:
    """Return the chat members that set the reasoning effort, and that separate reasoning from the answer.

    Args:
        model: The model's name.
        effort: `none`, `minimal`, `low`, `medium`, `high`, `xhigh` or `max`; None or any other value leaves it to the
            model. Efforts that the model does not accept are dropped.
        facts: What is known about the model. Models that do not reason get no members.
    """
    model = served_model(model, facts)
    accepted = next((efforts for prefix, efforts in _ACCEPTED if model.startswith(prefix)), None)
    if accepted is None and not (facts and facts.reasons):
        return {}
    members = {} if model.startswith(_SEPARATES_REASONING) else {"reasoning_format": "parsed"}
    effort = _EFFORTS.get(effort, effort) if effort else None
    return members | ({"reasoning_effort": effort} if effort in (accepted or _USUAL) else {})
