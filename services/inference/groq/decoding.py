"""Lenient decoding and validation of Groq's JSON.

Types of Groq's answers are checked only here. Optional members with the wrong type are dropped. An answer whose
required members have the wrong type is invalid.
"""

import json
import logging
from typing import NoReturn

import msgspec

from services.inference.chat import TOKENS_MAX, JSONObject
from services.inference.groq.errors import UpstreamInvalid
from services.inference.groq.surrogates import SurrogateJoiner, without_surrogates
from services.inference.metrics import IMPLAUSIBLE_COUNTS

_log = logging.getLogger(__name__)
_UPSTREAM_ID_CHARACTERS_MAX = 128
_decode = msgspec.json.Decoder(JSONObject).decode


class _Extension(msgspec.Struct):
    """The used members of `x_groq`."""

    id: str | None = None
    usage: JSONObject | None = None


class _Choice(msgspec.Struct):
    """The used members of a choice of an answer or a chunk."""

    delta: JSONObject | None = None
    message: JSONObject | None = None


class _Outline(msgspec.Struct):
    """The used members of an answer or a chunk."""

    choices: list[_Choice] | None = None
    usage: JSONObject | None = None
    x_groq: _Extension | None = None


def decode_object(raw: bytes) -> JSONObject:
    """Decode a JSON object, with U+FFFD in place of invalid UTF-8 and lone surrogates.

    Raises:
        UpstreamInvalid: The text is not a JSON object.
    """
    members, is_clean = _decode_any(raw)
    return members if is_clean else without_surrogates(members)


class ChunkDecoder:
    """Decodes the chunks of one stream and joins surrogate pairs that are split across chunks."""

    def __init__(self) -> None:
        self._joiner = SurrogateJoiner()

    def decode(self, raw: bytes) -> JSONObject:
        """Decode the next chunk.

        Raises:
            UpstreamInvalid: The text is not a JSON object.
        """
        members, is_clean = _decode_any(raw)
        if not is_clean or self._joiner.is_waiting:
            self._joiner.join(members)
        return members


def decode_error(raw: bytes) -> JSONObject:
    """Decode the JSON object of an error response; empty if the body is not JSON, such as HTML from Groq's edge."""
    try:
        return decode_object(raw)
    except UpstreamInvalid:
        return {}


def checked(members: JSONObject, size: int) -> JSONObject:
    """Validate an answer or a chunk and return it without invalid optional members.

    Args:
        members: Members of the JSON object.
        size: Size of the JSON text in bytes, for the log.

    Raises:
        UpstreamInvalid: The choices do not have the documented types.
    """
    try:
        outline = msgspec.convert(members, _Outline)
    except (msgspec.ValidationError, RecursionError):
        _repair(members)
        try:
            outline = msgspec.convert(members, _Outline)
        except (msgspec.ValidationError, RecursionError) as exc:
            _log.warning("Groq's answer has unexpected types and was discarded.", extra={"bytes": size})
            raise UpstreamInvalid from exc
    if outline.x_groq and outline.x_groq.id and len(outline.x_groq.id) > _UPSTREAM_ID_CHARACTERS_MAX:
        members["x_groq"]["id"] = outline.x_groq.id[:_UPSTREAM_ID_CHARACTERS_MAX]
    if outline.usage is not None:
        IMPLAUSIBLE_COUNTS.inc(sum(type(count) is int and count > TOKENS_MAX for count in outline.usage.values()))
    return members


def _repair(members: JSONObject) -> None:
    """Delete optional members that do not have the documented type."""
    if not isinstance(members.get("usage"), dict | None):
        del members["usage"]
    extension = members.get("x_groq")
    if not isinstance(extension, dict):
        members.pop("x_groq", None)
        return
    if not isinstance(extension.get("id"), str | None):
        del extension["id"]
    if not isinstance(extension.get("usage"), dict | None):
        del extension["usage"]


def _decode_any(raw: bytes) -> tuple[JSONObject, bool]:
    """Decode a JSON object; return it and whether all of its strings can be encoded as UTF-8."""
    try:
        return _decode(raw), True
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _decode_leniently(raw), False
    except RecursionError as exc:
        raise _invalid(raw, "nested too deeply") from exc


def _decode_leniently(raw: bytes) -> JSONObject:
    """Decode with the standard library, which is several times slower but accepts lone surrogates."""
    try:
        value = json.loads(raw.decode("utf-8", "replace"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise _invalid(raw, "not JSON") from exc
    if not isinstance(value, dict):
        raise _invalid(raw, "not an object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _invalid(raw: bytes, why: str) -> UpstreamInvalid:
    _log.warning("Groq's answer is not a JSON object and was discarded.", extra={"bytes": len(raw), "error": why})
    return UpstreamInvalid()
