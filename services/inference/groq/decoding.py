"""Groq's JSON: decoded whatever bytes it is made of, and checked for everything that is relied on later.

This is the one place where an answer's types are checked. What is wrong and not needed is dropped; an answer that
cannot be used without it is invalid.
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
    """`x_groq`, as far as it is used."""

    id: str | None = None
    usage: JSONObject | None = None


class _Choice(msgspec.Struct):
    """A choice of an answer or of a chunk, as far as it is used."""

    delta: JSONObject | None = None
    message: JSONObject | None = None


class _Outline(msgspec.Struct):
    """An answer or a chunk, as far as it is used."""

    choices: list[_Choice] | None = None
    usage: JSONObject | None = None
    x_groq: _Extension | None = None


def decode_object(raw: bytes) -> JSONObject:
    """Return a JSON object; bytes that are not UTF-8 and lone surrogates become U+FFFD.

    Raises:
        UpstreamInvalid: It is not a JSON object.
    """
    members, is_clean = _decode_any(raw)
    return members if is_clean else without_surrogates(members)


class ChunkDecoder:
    """Decodes the chunks of one stream and joins surrogate pairs that are split between two of them."""

    def __init__(self) -> None:
        """Create a decoder for a stream that begins."""
        self._joiner = SurrogateJoiner()

    def decode(self, raw: bytes) -> JSONObject:
        """Return the next chunk.

        Raises:
            UpstreamInvalid: It is not a JSON object.
        """
        members, is_clean = _decode_any(raw)
        if not is_clean or self._joiner.is_waiting:
            self._joiner.join(members)
        return members


def decode_error(raw: bytes) -> JSONObject:
    """Return the JSON object of an error's body; empty when there is none: the edge in front of Groq sends HTML."""
    try:
        return decode_object(raw)
    except UpstreamInvalid:
        return {}


def checked(members: JSONObject, size: int) -> JSONObject:
    """Return an answer or a chunk whose outline is as Groq documents it; `size` is its bytes, for the log.

    Raises:
        UpstreamInvalid: Its choices cannot be read.
    """
    try:
        outline = msgspec.convert(members, _Outline)
    except (msgspec.ValidationError, RecursionError):
        _repair(members)
        try:
            outline = msgspec.convert(members, _Outline)
        except (msgspec.ValidationError, RecursionError) as exc:
            _log.warning("Groq's answer has another form.", extra={"bytes": size})
            raise UpstreamInvalid from exc
    if outline.x_groq and outline.x_groq.id and len(outline.x_groq.id) > _UPSTREAM_ID_CHARACTERS_MAX:
        members["x_groq"]["id"] = outline.x_groq.id[:_UPSTREAM_ID_CHARACTERS_MAX]
    if outline.usage is not None:
        IMPLAUSIBLE_COUNTS.inc(sum(type(one) is int and one > TOKENS_MAX for one in outline.usage.values()))
    return members


def _repair(members: JSONObject) -> None:
    """Drop what has another type than documented and is not needed."""
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
    """Return a JSON object, and whether all of its text can be encoded."""
    try:
        return _decode(raw), True
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _decode_leniently(raw), False
    except RecursionError as exc:
        raise _invalid(raw, "nested too deep") from exc


def _decode_leniently(raw: bytes) -> JSONObject:
    """Decode with the standard library, which takes lone surrogates; several times slower, and rarely needed."""
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
    _log.warning("Groq's answer is not a JSON object.", extra={"bytes": len(raw), "error": why})
    return UpstreamInvalid()
