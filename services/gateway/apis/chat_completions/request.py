"""Parsing and validation of chat requests. Invalid requests get OpenAI's errors and are not charged."""

import re

import msgspec

from services.common.errors import InvalidRequest
from services.gateway.apis.chat_completions.limits import DEFAULT_LIMITS, ChatLimits, check_limits, check_values
from services.gateway.apis.chat_completions.message_shapes import fits
from services.gateway.apis.chat_completions.messages import MESSAGES, upstream_members
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
"""Part of msgspec's error for a number it cannot represent. The path in that error has no member names."""


def parse_chat(body: bytes, limits: ChatLimits = DEFAULT_LIMITS) -> Chat:
    """Parse an HTTP body as a chat request and return it in Groq's form. The content type is ignored.

    Top-level members that are null count as absent. Limits are checked first. Then errors are reported in OpenAI's
    order: missing messages, unknown parameters, types and ranges.

    Raises:
        InvalidRequest: The body is not a valid chat request. The metadata has OpenAI's `param` and `code`.
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
    return Chat({"messages": [upstream_members(message) for message in messages], **parameters}, stream, len(body))


def _object(body: bytes) -> JSONObject:
    try:
        value = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(_decode_error_message(body, exc)) from exc
    if not isinstance(value, dict):
        raise InvalidRequest(f"Invalid type for the body: expected an object, but got {type_name(value)} instead.")
    return value


def _decode_error_message(body: bytes, error: Exception) -> str:
    """Return the error message for a body that could not be decoded, which may still be syntactically valid JSON."""
    if _OUT_OF_RANGE in str(error):
        return (
            "The JSON body contains a number that is out of range. Send decimals below 1.8e308 and integers of at most "
            "4,300 digits, or send the number as a string."
        )
    try:
        body.decode()
    except UnicodeDecodeError as exc:
        return f"The JSON body is not valid UTF-8 at byte {exc.start}. Encode the body in UTF-8."
    # `\\ud83d` is an escaped backslash, not a surrogate. The replacement keeps its length, so offsets stay correct.
    found = _LONE_SURROGATE.search(body.replace(b"\\\\", b"  "))
    if found is not None:
        escape, offset = found[0].decode(), found.start()
        return (
            f"The JSON body contains text that is not valid Unicode: {escape} at byte {offset} is half of a surrogate "
            "pair. Send the whole character or remove it; this often happens when text is truncated."
        )
    return _NOT_JSON
