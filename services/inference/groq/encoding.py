"""Encode answers, events and models as JSON text, and detect those that cannot be sent.

A decoded value may be impossible to encode: it may be nested more deeply than an encoder supports, or grow beyond the
size of a message, since a byte that is not UTF-8 becomes three. Both are detected before a row is written.
"""

import logging
from typing import Any

import msgspec

from services.common.rpc.sizes import MESSAGE_BYTES_MAX
from services.inference.chat import JSONObject
from services.inference.groq.errors import UpstreamInvalid

ENCODED_BYTES_MAX = MESSAGE_BYTES_MAX - 65_536
"""Maximum size of an encoded answer or event: a gRPC message, minus room for its other fields."""

_log = logging.getLogger(__name__)
_SPARE_LEVELS = 100
"""Levels of nesting kept in reserve for encoders that support less, or that run deeper in the stack."""
_FLAT_BYTES_MAX = 1_000
"""Maximum size of a text that cannot be nested too deeply: a level takes two characters, and encoders support 900."""
_encode = msgspec.json.Encoder().encode


def encode(members: JSONObject) -> bytes:
    """Return the JSON text of an answer, an event or a model.

    Raises:
        UpstreamInvalid: It cannot be encoded, or is too large.
    """
    try:
        text = _encode(members)
        if len(text) > _FLAT_BYTES_MAX and text.count(b"[") + text.count(b"{") > _SPARE_LEVELS:
            _encode(_nested(members))
    except (RecursionError, ValueError, TypeError, OverflowError, msgspec.MsgspecError) as exc:
        _log.warning("Groq's answer cannot be encoded.", extra={"error": type(exc).__name__})
        raise UpstreamInvalid from exc
    if len(text) > ENCODED_BYTES_MAX:
        _log.warning("Groq's answer is too large to be passed on.", extra={"bytes": len(text)})
        raise UpstreamInvalid
    return text


def _nested(value: Any) -> Any:
    for _ in range(_SPARE_LEVELS):
        value = [value]
    return value
