"""Parsing of legacy completion requests. Invalid requests get OpenAI's errors and are not charged."""

from services.common.surface import Surface
from services.gateway.apis.chat_completions.limits import check_limits, check_values
from services.gateway.apis.chat_completions.parameters import to_upstream
from services.gateway.apis.completions.parameters import CHAT_NAMES, check_parameters
from services.gateway.apis.completions.renderer import CompletionsRenderer
from services.gateway.apis.json_bodies import json_object
from services.gateway.apis.surface import Context, ModelFacts
from services.gateway.apis.translation.outputs import max_completion_tokens, reasoning_members
from services.gateway.requests.surface import SurfaceRequest
from services.gateway.requests.types import Chat, JSONObject

_GAP = "<FILL>"
_FILL = (
    f"Answer with the text that belongs in the place of {_GAP}, and with nothing else: no explanation, no code fence, "
    "and none of the text around it."
)


def parse(body: bytes, context: Context) -> SurfaceRequest:
    """Parse an HTTP body as a completion request. The content type is ignored, and null members count as absent.

    Raises:
        InvalidRequest: The body is not a valid request. The details have OpenAI's `param` and `code`.
    """
    check_values(body, context.limits)
    members = json_object(body)
    check_limits(members, context.limits, body=body)
    members = {name: value for name, value in members.items() if value is not None}
    check_parameters(members)
    prompt = members["prompt"] if isinstance(members["prompt"], str) else members["prompt"][0]
    chat = _chat_members(members, prompt, context)
    stream = chat.pop("stream", False)
    renderer = CompletionsRenderer(
        model=members.get("model"),
        echo=prompt if members.get("echo") else "",
        includes_usage=bool(members.get("stream_options", {}).get("include_usage")),
    )
    return SurfaceRequest(Chat(chat, stream, len(body), surface=Surface.COMPLETIONS), renderer)


def _chat_members(members: JSONObject, prompt: str, context: Context) -> JSONObject:
    model = members.get("model", "")
    facts = context.model(model)
    parameters = to_upstream({name: members[name] for name in CHAT_NAMES if name in members})
    effort = parameters.pop("reasoning_effort", None)
    return {
        "messages": _messages(prompt, members.get("suffix", "")),
        **parameters,
        **({"model": model} if model else {}),
        **max_completion_tokens(members.get("max_tokens"), facts),
        **(reasoning_members(model, effort, facts) if effort else _least_reasoning(model, facts)),
    }


def _messages(prompt: str, suffix: str) -> list[JSONObject]:
    if not suffix:
        return [{"role": "user", "content": prompt}]
    return [{"role": "system", "content": _FILL}, {"role": "user", "content": f"{prompt}{_GAP}{suffix}"}]


def _least_reasoning(model: str, facts: ModelFacts | None) -> JSONObject:
    """Return the members for as little reasoning as possible: it is not shown, and counts against `max_tokens`."""
    members = reasoning_members(model, "none", facts)
    return members if "reasoning_effort" in members else reasoning_members(model, "low", facts)
