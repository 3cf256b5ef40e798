"""Decoding of JSON request bodies, with errors that name what is wrong with the text."""

import re

import msgspec

from services.common.errors import InvalidRequest
from services.gateway.apis.checks import type_name
from services.gateway.requests.types import JSONObject

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


def json_object(body: bytes) -> JSONObject:
    """Return the JSON object in a body.

    Raises:
        InvalidRequest: The body is not a JSON object. The message says why.
    """
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
