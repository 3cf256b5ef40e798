"""The output of one answer: its items, of which at most one is open."""

from services.gateway.apis.responses.calls import Call, Calls
from services.gateway.apis.responses.events import EventWriter
from services.gateway.apis.responses.output_items import (
    CustomCallItem,
    FunctionCallItem,
    MessageItem,
    OutputItem,
    ReasoningItem,
)
from services.gateway.apis.responses.response_object import COMPLETED
from services.gateway.apis.responses.tools import ToolKey, ToolTable
from services.gateway.apis.translation.chunks import Message


class Output:
    """Turns pieces of a message into items and events."""

    def __init__(self, events: EventWriter, id_suffix: str, table: ToolTable, *, encrypts_reasoning: bool) -> None:
        """Create an empty output that writes to `events`."""
        self._events = events
        self._id_suffix = id_suffix
        self._table = table
        self._encrypts_reasoning = encrypts_reasoning
        self._calls = Calls()
        self._open: OutputItem | None = None
        self._closed: list[bytes] = []

    @property
    def items(self) -> bytes:
        """The closed items as JSON text without brackets."""
        return b",".join(self._closed)

    def add(self, piece: Message) -> None:
        """Add a piece of the message."""
        if piece.reasoning:
            item = self._open if isinstance(self._open, ReasoningItem) else self._begin_reasoning()
            item.append(piece.reasoning)
        if piece.content:
            item = self._open if isinstance(self._open, MessageItem) else self._begin_message()
            item.append(piece.content)
        for call_piece in piece.tool_calls or ():
            call = self._calls.add(call_piece)
            if call is not None:
                self._add_call(call)

    def flush(self) -> None:
        """Write the pieces that arrived since the last call."""
        if self._open is not None:
            self._open.flush(self._events)

    def end(self, status: bytes) -> None:
        """Close all items; `status` is that of the last one. An answer without any output gets an empty message."""
        for call in self._calls.rest():
            self._add_call(call)
        if self._open is None:
            self._begin_message()
        self._close(status)

    def _begin_message(self) -> OutputItem:
        return self._begin(MessageItem(self._next_index(), self._id_suffix))

    def _begin_reasoning(self) -> OutputItem:
        index = self._next_index()
        return self._begin(ReasoningItem(index, self._id_suffix, encrypted=self._encrypts_reasoning))

    def _add_call(self, call: Call) -> None:
        key = self._table.names.key(call.name) or ToolKey(call.name)
        kind = CustomCallItem if key.is_custom else FunctionCallItem
        item = self._begin(kind(self._next_index(), self._id_suffix, call_id=call.id, key=key))
        item.append(call.input if key.is_custom else call.arguments)

    def _next_index(self) -> int:
        return len(self._closed) + (self._open is not None)

    def _begin(self, item: OutputItem) -> OutputItem:
        self._close(COMPLETED)
        self._open = item
        item.open(self._events)
        return item

    def _close(self, status: bytes) -> None:
        if self._open is not None:
            self._closed.append(self._open.close(self._events, status))
            self._open = None
