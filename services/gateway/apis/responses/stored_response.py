"""What is stored of a response: the response object, and the whole input that it was made from."""

import re
from collections.abc import Collection, Sequence

import msgspec

from services.common.errors import InternalError
from services.gateway.apis.responses.input_items import item_type
from services.gateway.requests.types import JSONObject

_ID = re.compile(r"resp_[0-9A-Za-z]{1,64}")
_ITEM_ID = re.compile(r"[a-z]+_([0-9A-Za-z]{1,64})_i?[0-9]{1,6}")
"""Ids of output items, and with an `i` of input items. Each has the suffix of its response's id."""
_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "function_call_output": "fco",
    "custom_tool_call_output": "ctco",
}
_OTHER_PREFIX = "item"


class StoredResponse(msgspec.Struct):
    """A stored response."""

    response: msgspec.Raw
    """The response object."""
    input: list[JSONObject]
    """The items that it was made from, with those of the previous responses."""

    @property
    def items(self) -> list[JSONObject]:
        """The items of the input and the output, which precede the input of the next response."""
        return self.input + _decode_output(self.response).output


class _Output(msgspec.Struct):
    output: list[JSONObject]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(StoredResponse).decode
_decode_output = msgspec.json.Decoder(_Output).decode


def is_response_id(text: str) -> bool:
    """Return whether a text has the form of a response's id."""
    return _ID.fullmatch(text) is not None


def response_id(suffix: str) -> str:
    """Return the id of the response whose ids have this suffix."""
    return f"resp_{suffix}"


def response_of_item(item_id: str) -> str | None:
    """Return the id of the response to which an item belongs; None if no stored item has such an id."""
    match = _ITEM_ID.fullmatch(item_id)
    return response_id(match[1]) if match else None


def encode(response: bytes, items: Sequence[JSONObject]) -> bytes:
    """Return the content to store for a response object and its input."""
    return _encode(StoredResponse(msgspec.Raw(response), list(items)))


def decode(content: bytes) -> StoredResponse:
    """Return the response of `encode`.

    Raises:
        InternalError: The content is of another form.
    """
    try:
        return _decode(content)
    except msgspec.DecodeError as exc:
        raise InternalError("A stored response cannot be read.") from exc


def input_item(item: JSONObject, index: int, suffix: str, *, taken: Collection[str] = ()) -> JSONObject:
    """Return an input item in the form in which it is stored and listed: with an id, its type and parts.

    Args:
        item: A checked item.
        index: Its position in the input.
        suffix: The part that the ids of the response and of its items share.
        taken: Ids of other items. An item with one of them gets another one.
    """
    kind = item_type(item)
    own_id = item.get("id")
    if not isinstance(own_id, str) or response_of_item(own_id) is None or own_id in taken:
        own_id = f"{_PREFIXES.get(kind, _OTHER_PREFIX)}_{suffix}_i{index}"
    stored = {**item, "id": own_id, "type": kind}
    if kind == "message":
        stored |= {"status": item.get("status") or "completed", "content": _parts(item)}
    return stored


def _parts(item: JSONObject) -> list[JSONObject]:
    content = item["content"]
    if not isinstance(content, str):
        return list(content)
    if item["role"] == "assistant":
        return [{"type": "output_text", "text": content, "annotations": [], "logprobs": []}]
    return [{"type": "input_text", "text": content}]
