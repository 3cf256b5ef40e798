"""Lenient decoding and validation of Groq's JSON.

Types of Groq's answers are checked only here. Optional members with the wrong type are dropped. An answer whose
required members have the wrong type is invalid.
"""

import json
import logging
import re
from typing import NoReturn

import msgspec

from services.common.json_values import has_more_values
from services.inference.chat import TOKENS_MAX, JSONObject
from services.inference.groq.errors import UpstreamInvalid
from services.inference.groq.surrogates import SurrogateJoiner
from services.inference.metrics import IMPLAUSIBLE_COUNTS

_log = logging.getLogger(__name__)
_UPSTREAM_ID_CHARACTERS_MAX = 128
_VALUES_MAX = 100_000
"""Maximum commas and opening brackets of one text outside its strings: members of objects and elements of arrays."""
_LENIENT_BYTES_MAX = 1024 * 1024
"""Maximum size of a text that is decoded although it is not valid Unicode; several times a model's longest answer."""
_JOINED_BYTES_MAX = 64 * 1024
"""Maximum size of a chunk whose split surrogate pairs are joined, since that visits every value in Python."""
_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F][0-9a-fA-F])\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
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
        UpstreamInvalid: The text is not a JSON object, has too many values, or is too large to be repaired.
    """
    members = _decode_clean(raw)
    return _decode_cleaned(raw) if members is None else members


class ChunkDecoder:
    """Decodes the chunks of one stream and joins surrogate pairs that are split across chunks."""

    def __init__(self) -> None:
        self._joiner = SurrogateJoiner()

    def decode(self, raw: bytes) -> JSONObject:
        """Decode the next chunk.

        Raises:
            UpstreamInvalid: The text is not a JSON object, has too many values, or is too large to be repaired.
        """
        if len(raw) > _JOINED_BYTES_MAX:
            self._joiner.forget()
            return decode_object(raw)
        members = _decode_clean(raw)
        if members is None:
            return self._joined(_decode_leniently(raw), raw)
        return self._joined(members, raw) if self._joiner.is_waiting else members

    def _joined(self, members: JSONObject, raw: bytes) -> JSONObject:
        try:
            self._joiner.join(members)
        except RecursionError as exc:
            raise _invalid(raw, "nested too deep") from exc
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


def _decode_clean(raw: bytes) -> JSONObject | None:
    """Decode a JSON object; return None if the text is not a JSON object or not valid Unicode."""
    if has_more_values(raw, _VALUES_MAX):
        raise _invalid(raw, "too many values")
    try:
        return _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    except RecursionError as exc:
        raise _invalid(raw, "nested too deeply") from exc


def _decode_cleaned(raw: bytes) -> JSONObject:
    """Decode a text after replacing invalid Unicode, without iterating over its values in Python."""
    if len(raw) > _LENIENT_BYTES_MAX or b"\0" in raw:
        raise _invalid(raw, "not JSON, or too large to be cleaned")
    # NUL temporarily stands for an escaped backslash, so that every other backslash begins an escape sequence.
    text = raw.decode("utf-8", "replace").encode().replace(b"\\\\", b"\0")
    text = _LONE_SURROGATE.sub(rb"\\ufffd", text).replace(b"\0", b"\\\\")
    members = _decode_clean(text)
    if members is None:
        raise _invalid(raw, "not JSON")
    return members


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
