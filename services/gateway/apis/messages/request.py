"""Parsing of message requests into chat requests."""

from services.common.errors import ErrorDetails, NotFound
from services.common.surface import Surface
from services.gateway.apis.chat_completions.limits import check_length, check_limits, check_nesting, check_values
from services.gateway.apis.checks import refusal
from services.gateway.apis.json_bodies import json_object
from services.gateway.apis.messages.blocks import IMAGE_REFUSED
from services.gateway.apis.messages.content import system_text
from services.gateway.apis.messages.history import History
from services.gateway.apis.messages.parameters import REQUIRED, check_parameters
from services.gateway.apis.messages.renderer import MessagesRenderer
from services.gateway.apis.messages.thinking import effort_members, thinking_of
from services.gateway.apis.messages.tools import tool_members
from services.gateway.apis.surface import Context
from services.gateway.apis.translation.formats import set_response_format
from services.gateway.apis.translation.images import has_images
from services.gateway.apis.translation.outputs import max_completion_tokens
from services.gateway.apis.translation.tool_names import ToolNames
from services.gateway.http.redaction import redacted
from services.gateway.requests.surface import SurfaceRequest
from services.gateway.requests.types import Chat, JSONObject

_FOREIGN_MODELS = "claude-"
"""Prefix of the models that Anthropic's clients ask for by default. Groq serves none of them."""


def parse(body: bytes, context: Context) -> SurfaceRequest:
    """Parse a message request. Members that are null count as absent, and unknown members are ignored.

    Raises:
        InvalidRequest: The body is not a valid request. The details have `param` and `code`.
        NotFound: The model is one of Anthropic's, and no alias is set for it.
    """
    members = read_members(body, context, REQUIRED)
    names: ToolNames[str] = ToolNames()
    chat = chat_members(members, context, names)
    facts = context.model(context.aliases.resolve(members["model"]))
    renderer = MessagesRenderer(
        members["model"],
        names,
        thinking_of(members),
        body_bytes=len(body),
        context_window=facts.context_window if facts else None,
    )
    stream = members.get("stream", False)
    return SurfaceRequest(Chat(chat, stream, len(body), surface=Surface.MESSAGES), renderer)


def read_members(body: bytes, context: Context, required: tuple[str, ...]) -> JSONObject:
    """Return the non-null members of a body that is a valid request.

    Raises:
        InvalidRequest: It is not.
    """
    limits = context.limits
    check_values(body, limits)
    members = {name: value for name, value in json_object(body).items() if value is not None}
    check_nesting(members, limits, body=body)
    check_length("messages", members.get("messages"), limits.messages_max)
    check_parameters(members, required)
    return members


def chat_members(members: JSONObject, context: Context, names: ToolNames[str]) -> JSONObject:
    """Return the chat members for a valid request. Names of tools are added to `names`.

    Raises:
        InvalidRequest: A tool result belongs to no call, or a limit of a chat request is exceeded.
        NotFound: The model is one of Anthropic's, and no alias is set for it.
    """
    name = members["model"]
    if context.model(name) is None:  # A name in the model list is that model, on every surface.
        name = context.aliases.resolve(name)
    facts = context.model(name)
    if facts is None and context.models and name.startswith(_FOREIGN_MODELS):
        raise _not_served(name)
    history = _history(members, names)
    if facts and facts.reads_images is False:
        _refuse_images(history.messages, name)
    chat: JSONObject = {"messages": history.messages, "model": name}
    chat |= max_completion_tokens(members.get("max_tokens"), facts)
    chat |= {member: members[member] for member in ("temperature", "top_p") if member in members}
    if members.get("stop_sequences"):
        chat["stop"] = members["stop_sequences"]
    if members.get("stream"):
        chat["stream_options"] = {"include_usage": True}
    chat |= tool_members(members, history, names, tools_max=context.limits.tools_max)
    chat |= effort_members(members, name, facts)
    _set_format(chat, members)
    check_limits(chat, context.limits, body=b"")
    return chat


def _not_served(name: str) -> NotFound:
    text = (
        f"The model `{redacted(name)}` is not served here. Set your client's model to one that GET /v1/models lists "
        "(in Claude Code: ANTHROPIC_MODEL), or ask the operator to set an alias for it."
    )
    return NotFound(text, details=ErrorDetails(param="model", code="model_not_found"))


def _history(members: JSONObject, names: ToolNames[str]) -> History:
    for tool in members.get("tools") or ():
        names.add(tool["name"], tool["name"])
    history = History(names)
    system = system_text(members.get("system"))
    if system:
        history.messages.append({"role": "system", "content": system})
    history.add_all(members["messages"])
    if not history.messages:
        raise refusal("messages: at least one message must have content.", "messages", "empty_array")
    return history


def _refuse_images(messages: list[JSONObject], model: str) -> None:
    if has_images(messages):
        text = f"messages: The model `{redacted(model)}` does not read images. Remove them, or use a model that does."
        raise refusal(text, "messages", IMAGE_REFUSED)


def _set_format(chat: JSONObject, members: JSONObject) -> None:
    wanted = (members.get("output_config") or {}).get("format") or members.get("output_format")
    if wanted:
        schema = {"name": "output", "schema": wanted["schema"], "strict": True}
        set_response_format(chat, {"type": "json_schema", "json_schema": schema})
