"""JSON response formats together with tools, which Groq does not accept in one request."""

import msgspec

from services.gateway.requests.types import JSONObject

_encode = msgspec.json.Encoder().encode
_ANY_OBJECT = (
    "Call tools as needed. When you give the final answer, answer with one JSON object only, without other text and "
    "without a code fence."
)
_BY_SCHEMA = (
    "Call tools as needed. When you give the final answer, answer with one JSON value only, without other text and "
    "without a code fence. It must be valid against this JSON Schema:\n"
)


def set_response_format(members: JSONObject, response_format: JSONObject) -> None:
    """Add a response format to chat members, which have their `messages` and `tools` already.

    With tools, the format becomes a last system message, since Groq answers 400 to the combination.

    Args:
        members: The members of the chat request.
        response_format: `{"type": "json_object"}`, or `{"type": "json_schema", "json_schema": {…}}` with a schema.
    """
    if members.get("tools"):
        members["messages"] = [*members["messages"], {"role": "system", "content": _instruction(response_format)}]
    else:
        members["response_format"] = response_format


def _instruction(response_format: JSONObject) -> str:
    schema = response_format.get("json_schema", {}).get("schema")
    return _ANY_OBJECT if schema is None else _BY_SCHEMA + _encode(schema).decode()
