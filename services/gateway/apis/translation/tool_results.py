"""Tool results as chat messages. Groq's tool messages contain text only, so images move to a user message."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from services.gateway.requests.types import JSONObject

_ONLY_IMAGES = "The image is in the next user message."


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The result of one tool call."""

    call_id: str
    content: str | list[JSONObject]
    """Text, or text parts."""
    images: list[JSONObject] = field(default_factory=list)
    """`image_url` parts."""


def tool_messages(results: Iterable[ToolResult]) -> list[JSONObject]:
    """Return a run of results as tool messages. If there are images, a user message with all of them comes last."""
    messages: list[JSONObject] = []
    images: list[JSONObject] = []
    for result in results:
        content = result.content or (_ONLY_IMAGES if result.images else "")
        messages.append({"role": "tool", "tool_call_id": result.call_id, "content": content})
        if result.images:
            images += [{"type": "text", "text": f"Image from tool call {result.call_id}:"}, *result.images]
    if images:
        messages.append({"role": "user", "content": images})
    return messages
