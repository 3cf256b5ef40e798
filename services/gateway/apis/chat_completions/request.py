"""Parsing and validation of chat requests. Invalid requests get OpenAI's errors and are not charged."""

from services.common.surface import Surface
from services.gateway.apis.chat_completions.limits import DEFAULT_LIMITS, ChatLimits, check_limits, check_values
from services.gateway.apis.chat_completions.message_shapes import fits
from services.gateway.apis.chat_completions.messages import MESSAGES, upstream_members
from services.gateway.apis.chat_completions.parameters import to_upstream
from services.gateway.apis.checks import missing
from services.gateway.apis.json_bodies import json_object
from services.gateway.requests.types import Chat


def parse_chat(body: bytes, limits: ChatLimits = DEFAULT_LIMITS) -> Chat:
    """Parse an HTTP body as a chat request and return it in Groq's form. The content type is ignored.

    Top-level members that are null count as absent. Limits are checked first. Then errors are reported in OpenAI's
    order: missing messages, unknown parameters, types and ranges.

    Raises:
        InvalidRequest: The body is not a valid chat request. The details have OpenAI's `param` and `code`.
    """
    check_values(body, limits)
    members = json_object(body)
    check_limits(members, limits, body=body)
    if "messages" not in members:
        raise missing("messages")
    messages = members.pop("messages")
    parameters = to_upstream({name: value for name, value in members.items() if value is not None})
    if not fits(messages):
        MESSAGES("messages", messages)
    stream = parameters.pop("stream", False)
    chat = {"messages": [upstream_members(message) for message in messages], **parameters}
    return Chat(chat, stream, len(body), surface=Surface.CHAT)
