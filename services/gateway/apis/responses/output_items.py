"""Output items: their JSON text, and the events from which a client builds them.

Texts are kept as pieces of JSON text, as they arrived. Each item is encoded once, for its last event and the response.
"""

from typing import ClassVar

import msgspec

from services.gateway.apis.responses.events import EventWriter, event_head
from services.gateway.apis.responses.response_object import IN_PROGRESS
from services.gateway.apis.responses.tools import ToolKey
from services.gateway.apis.translation.reasoning import encode_reasoning

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(str).decode
_ADDED = event_head("response.output_item.added")
_DONE = event_head("response.output_item.done")


class OutputItem:
    """An item that is being received."""

    prefix: ClassVar[str]
    """Start of its id."""

    def __init__(self, index: int, id_suffix: str) -> None:
        """Create the item at position `index`; `id_suffix` is unique to the response."""
        self._item_id = f"{self.prefix}_{id_suffix}_{index}".encode()
        self._index = b"%d" % index
        self._position = b'"item_id":"%b","output_index":%d' % (self._item_id, index)
        self._pieces: list[bytes] = []
        self._unsent: list[bytes] = []

    def append(self, text: str) -> None:
        """Add a piece of the item's text, which `flush` sends."""
        self._unsent.append(_encode(text)[1:-1])

    def open(self, events: EventWriter) -> None:
        """Write the first events of the item."""
        item = self._render(IN_PROGRESS, None)
        events.add(_ADDED, b'"output_index":%b,"item":%b' % (self._index, item))

    def flush(self, events: EventWriter) -> None:
        """Write one event with the pieces that were not sent."""
        if self._unsent:
            piece = b"".join(self._unsent)
            self._pieces.append(piece)
            self._unsent = []
            self._delta(events, piece)

    def close(self, events: EventWriter, status: bytes) -> bytes:
        """Write the last events of the item, and return it as JSON text."""
        self.flush(events)
        text = b'"%b"' % b"".join(self._pieces)
        self._pieces = []
        self._text_done(events, text)
        item = self._render(status, text)
        events.add(_DONE, b'"output_index":%b,"item":%b' % (self._index, item))
        return item

    def _render(self, status: bytes, text: bytes | None) -> bytes:
        """Return the item with a text, which is a JSON text; None if the item has just begun."""
        raise NotImplementedError

    def _delta(self, events: EventWriter, piece: bytes) -> None:
        raise NotImplementedError

    def _text_done(self, events: EventWriter, text: bytes) -> None:
        raise NotImplementedError


class MessageItem(OutputItem):
    """A message of the assistant."""

    prefix = "msg"
    _PART_ADDED = event_head("response.content_part.added")
    _TEXT_DELTA = event_head("response.output_text.delta")
    _TEXT_DONE = event_head("response.output_text.done")
    _PART_DONE = event_head("response.content_part.done")

    def open(self, events: EventWriter) -> None:
        """Write the first events of the item."""
        super().open(events)
        self._position += b',"content_index":0'
        events.add(self._PART_ADDED, b'%b,"part":%b' % (self._position, self._part(b'""')))

    def _delta(self, events: EventWriter, piece: bytes) -> None:
        events.add(self._TEXT_DELTA, b'%b,"delta":"%b","logprobs":[]' % (self._position, piece))

    def _text_done(self, events: EventWriter, text: bytes) -> None:
        events.add(self._TEXT_DONE, b'%b,"text":%b,"logprobs":[]' % (self._position, text))
        events.add(self._PART_DONE, b'%b,"part":%b' % (self._position, self._part(text)))

    def _render(self, status: bytes, text: bytes | None) -> bytes:
        return b'{"id":"%b","type":"message","status":"%b","role":"assistant","content":[%b]}' % (
            self._item_id,
            status,
            b"" if text is None else self._part(text),
        )

    @staticmethod
    def _part(text: bytes) -> bytes:
        return b'{"type":"output_text","text":%b,"annotations":[],"logprobs":[]}' % text


class ReasoningItem(OutputItem):
    """Reasoning, sent as a summary, since that is what clients show and return."""

    prefix = "rs"
    _PART_ADDED = event_head("response.reasoning_summary_part.added")
    _TEXT_DELTA = event_head("response.reasoning_summary_text.delta")
    _TEXT_DONE = event_head("response.reasoning_summary_text.done")
    _PART_DONE = event_head("response.reasoning_summary_part.done")

    def __init__(self, index: int, id_suffix: str, *, encrypted: bool) -> None:
        """Create the item. `encrypted` adds the text as an opaque string, for clients that return only that."""
        super().__init__(index, id_suffix)
        self._is_encrypted = encrypted

    def open(self, events: EventWriter) -> None:
        """Write the first events of the item."""
        super().open(events)
        self._position += b',"summary_index":0'
        events.add(self._PART_ADDED, b'%b,"part":%b' % (self._position, self._part(b'""')))

    def _delta(self, events: EventWriter, piece: bytes) -> None:
        events.add(self._TEXT_DELTA, b'%b,"delta":"%b"' % (self._position, piece))

    def _text_done(self, events: EventWriter, text: bytes) -> None:
        events.add(self._TEXT_DONE, b'%b,"text":%b' % (self._position, text))
        events.add(self._PART_DONE, b'%b,"part":%b' % (self._position, self._part(text)))

    def _render(self, status: bytes, text: bytes | None) -> bytes:
        encrypted = b""
        if self._is_encrypted and text is not None:
            encrypted = b',"encrypted_content":%b' % _encode(encode_reasoning(_decode(text)))
        return b'{"id":"%b","type":"reasoning","status":"%b","summary":[%b]%b}' % (
            self._item_id,
            status,
            b"" if text is None else self._part(text),
            encrypted,
        )

    @staticmethod
    def _part(text: bytes) -> bytes:
        return b'{"type":"summary_text","text":%b}' % text


class FunctionCallItem(OutputItem):
    """A call of a function."""

    prefix = "fc"
    _DELTA = event_head("response.function_call_arguments.delta")
    _ARGUMENTS_DONE = event_head("response.function_call_arguments.done")

    def __init__(self, index: int, id_suffix: str, *, call_id: str, key: ToolKey) -> None:
        """Create the item. A namespace is a member of its own, beside the name."""
        super().__init__(index, id_suffix)
        self._call_id = _encode(call_id or f"call_{id_suffix}_{index}")
        self._name = _encode(key.name)
        self._namespace = b',"namespace":%b' % _encode(key.namespace) if key.namespace else b""

    def _delta(self, events: EventWriter, piece: bytes) -> None:
        events.add(self._DELTA, b'%b,"delta":"%b"' % (self._position, piece))

    def _text_done(self, events: EventWriter, text: bytes) -> None:
        events.add(self._ARGUMENTS_DONE, b'%b,"name":%b,"arguments":%b' % (self._position, self._name, text))

    def _render(self, status: bytes, text: bytes | None) -> bytes:
        return b'{"id":"%b","type":"function_call","status":"%b","call_id":%b,"name":%b%b,"arguments":%b}' % (
            self._item_id,
            status,
            self._call_id,
            self._name,
            self._namespace,
            text or b'""',
        )


class CustomCallItem(FunctionCallItem):
    """A call of a custom tool, whose input is a text."""

    prefix = "ctc"
    _DELTA = event_head("response.custom_tool_call_input.delta")
    _INPUT_DONE = event_head("response.custom_tool_call_input.done")

    def _text_done(self, events: EventWriter, text: bytes) -> None:
        events.add(self._INPUT_DONE, b'%b,"input":%b' % (self._position, text))

    def _render(self, status: bytes, text: bytes | None) -> bytes:
        return b'{"id":"%b","type":"custom_tool_call","status":"%b","call_id":%b,"name":%b%b,"input":%b}' % (
            self._item_id,
            status,
            self._call_id,
            self._name,
            self._namespace,
            text or b'""',
        )
