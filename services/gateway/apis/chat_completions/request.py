"""OpenAI's chat request as JSON: what is accepted, and what is refused in OpenAI's words before it is counted."""

import re

import msgspec

from services.common.errors import InvalidRequest
from services.gateway.apis.chat_completions.limits import DEFAULT_LIMITS, ChatLimits, check_limits, check_values
from services.gateway.apis.chat_completions.message_shapes import fits
from services.gateway.apis.chat_completions.messages import MESSAGES, own_members
from services.gateway.apis.chat_completions.parameters import to_upstream
from services.gateway.apis.checks import missing, type_name
from services.gateway.requests.types import Chat, JSONObject

_decode = msgspec.json.Decoder().decode
_NOT_JSON = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library "
    "correctly. The API expects a JSON payload, but what was sent was not valid JSON.)"
)
_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_OUT_OF_RANGE = "out of range"
"""What msgspec says of a number that it cannot hold; the path that it names has no members' names."""


def parse_chat(body: bytes, limits: ChatLimits = DEFAULT_LIMITS) -> Chat:
    """Return the chat request in an HTTP body, whatever its content type says, as Groq gets it.

    Top-level members that are null count as absent. What is over a limit is refused first; then faults are told in
    OpenAI's order: messages missing, unknown parameters, then types and ranges.

    Raises:
        InvalidRequest: The body is not a chat request; `param` and `code` in the metadata are OpenAI's.
    """
    check_values(body, limits)
    members = _object(body)
    check_limits(members, limits, body=body)
    if "messages" not in members:
        raise missing("messages")
    messages = members.pop("messages")
    parameters = to_upstream({name: value for name, value in members.items() if value is not None})
    if not fits(messages):
        MESSAGES("messages", messages)
    stream = parameters.pop("stream", False)
    return Chat({"messages": [own_members(message) for message in messages], **parameters}, stream, len(body))


def _object(body: bytes) -> JSONObject:
    try:
        value = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(_mistake_in(body, exc)) from exc
    if not isinstance(value, dict):
        raise InvalidRequest(f"Invalid type for the body: expected an object, but got {type_name(value)} instead.")
    return value


def _mistake_in(body: bytes, error: Exception) -> str:
    """Return what is wrong with a body that was not understood: not everything that is refused is no JSON."""
    if _OUT_OF_RANGE in str(error):
        return (
            "The JSON body holds a number that is out of range. Send decimals below 1.8e308, and integers of at most "
            "4,300 digits; a longer number can be sent as a string."
        )
    try:
        body.decode()
    except UnicodeDecodeError as exc:
        return f"The JSON body is not valid UTF-8 at byte {exc.start}. Encode the body in UTF-8."
    # Of the same length, so that the place stays right: `\\ud83d` is a backslash and five letters.
    found = _LONE_SURROGATE.search(body.replace(b"\\\\", b"  "))
    if found is not None:
        escape, place = found[0].decode(), found.start()
        return (
            f"The JSON body holds text that is not valid Unicode: {escape} at byte {place} is half of a surrogate pair."
            " Send the whole character, or leave it out; text is often cut within one."
        )
    return _NOT_JSON
