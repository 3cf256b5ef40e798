"""Parsing of Responses requests. Invalid requests get OpenAI's errors and are not charged."""

from collections.abc import Sequence

from services.common.surface import Surface
from services.gateway.apis.chat_completions.limits import check_limits, check_values
from services.gateway.apis.checks import missing, refusal
from services.gateway.apis.json_bodies import json_object
from services.gateway.apis.responses.conversation import Conversation
from services.gateway.apis.responses.formats import response_format
from services.gateway.apis.responses.input_items import Translation, add_items, item_type
from services.gateway.apis.responses.limits import check_input_limits, check_messages
from services.gateway.apis.responses.parameters import ENCRYPTED_REASONING, PARAMETERS, check_parameters
from services.gateway.apis.responses.renderer import ResponsesRenderer
from services.gateway.apis.responses.response_object import ResponseTemplate
from services.gateway.apis.responses.tool_choice import tool_members
from services.gateway.apis.responses.tools import ToolTable
from services.gateway.apis.surface import Context
from services.gateway.apis.translation.formats import set_response_format
from services.gateway.apis.translation.images import has_images
from services.gateway.apis.translation.outputs import max_completion_tokens, reasoning_members
from services.gateway.apis.translation.reasoning import ReasoningDecoder
from services.gateway.http.redaction import redacted
from services.gateway.requests.surface import SurfaceRequest
from services.gateway.requests.types import Chat, JSONObject

_SAME_NAME = ("temperature", "top_p", "presence_penalty", "frequency_penalty")


def parse(body: bytes, context: Context) -> SurfaceRequest:
    """Parse an HTTP body as a Responses request, while no responses are stored. The content type is ignored, and null
    members count as absent.

    Raises:
        InvalidRequest: The body is not a valid request. The details have OpenAI's `param` and `code`.
        NotFound: An item refers to a stored item; nothing is stored.
    """
    return parse_members(read_members(body, context), context, body_bytes=len(body))


def read_members(body: bytes, context: Context) -> JSONObject:
    """Return the members that are not null, within the limits, but not checked otherwise.

    Raises:
        InvalidRequest: The body is not a JSON object, is beyond a limit, or has no input.
    """
    check_values(body, context.limits)
    members = json_object(body)
    check_limits(members, context.limits, body=body)
    check_input_limits(members, context.limits)
    given = {name: value for name, value in members.items() if value is not None}
    if "input" not in given and "instructions" not in given:
        raise missing("input")
    return given


def parse_members(members: JSONObject, context: Context, *, body_bytes: int) -> SurfaceRequest:
    """Parse the members of `read_members`, while no responses are stored. Raises what `parse` raises."""
    check_parameters(members)
    chat, table = translated(members, input_items(members), context, body_bytes=body_bytes)
    return SurfaceRequest(chat, renderer_of(members, table, context, is_stored=False))


def input_items(members: JSONObject) -> list[JSONObject]:
    """Return the items of checked members. A text is one message."""
    items: str | list[JSONObject] = members.get("input", [])
    return [{"role": "user", "content": items}] if isinstance(items, str) else items


def translated(
    members: JSONObject,
    items: list[JSONObject],
    context: Context,
    *,
    body_bytes: int,
    stored_items: Sequence[JSONObject] = (),
) -> tuple[Chat, ToolTable]:
    """Return the chat request that a Responses request means, and its tools.

    Args:
        members: Checked members. Their input is not read.
        items: The input. Errors name the positions in it.
        context: What the parser may know.
        body_bytes: Size of everything that was read.
        stored_items: Items that precede the input.

    Raises:
        InvalidRequest: The items do not fit together.
    """
    table = ToolTable(context.limits.tools_max)
    messages = _messages(members, items, stored_items, table)
    check_messages(messages, context.limits)
    chat, stream = _chat_members(members, messages, table, context), members.get("stream", False)
    return Chat(chat, stream, body_bytes, surface=Surface.RESPONSES), table


def renderer_of(members: JSONObject, table: ToolTable, context: Context, *, is_stored: bool) -> ResponsesRenderer:
    """Return the renderer of the answer to a request with checked members."""
    return ResponsesRenderer(
        ResponseTemplate(members, is_stored=is_stored),
        table,
        encrypts_reasoning=ENCRYPTED_REASONING in members.get("include", ()),
        clock=context.clock,
    )


def _messages(
    members: JSONObject, items: list[JSONObject], stored_items: Sequence[JSONObject], table: ToolTable
) -> list[JSONObject]:
    # Before the calls of the history, so that tools keep their names.
    table.add("tools", members.get("tools", ()))
    for item in (*stored_items, *items):
        if item_type(item) == "additional_tools":
            table.add("input", item.get("tools") or ())
    conversation = Conversation(table)
    if members.get("instructions"):
        conversation.add_message("system", members["instructions"])
    translation = Translation(conversation, ReasoningDecoder())
    add_items(stored_items, translation)
    add_items(items, translation)
    return conversation.end()


def _chat_members(members: JSONObject, messages: list[JSONObject], table: ToolTable, context: Context) -> JSONObject:
    model = members.get("model", "")
    facts = context.model(model)
    if facts and facts.reads_images is False and has_images(messages):
        text = f"The model `{redacted(model)}` does not read images. Remove them, or use a model that does."
        raise refusal(text, "input", "unsupported_value")
    chat = {"messages": messages} | {name: members[name] for name in _SAME_NAME if name in members}
    chat |= {"model": model} if model else {}
    chat |= max_completion_tokens(members.get("max_output_tokens"), facts)
    chat |= tool_members(table, members.get("tool_choice"), members.get("parallel_tool_calls"))
    chat |= reasoning_members(model, members.get("reasoning", {}).get("effort"), facts)
    chat |= _service_tier(members)
    json_format = response_format(members.get("text", {}).get("format"))
    if json_format is not None:
        set_response_format(chat, json_format)
    return chat


def _service_tier(members: JSONObject) -> JSONObject:
    translate = PARAMETERS["service_tier"].translate
    return translate(members["service_tier"]) if translate and "service_tier" in members else {}
