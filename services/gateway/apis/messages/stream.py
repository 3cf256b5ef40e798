"""The content blocks of a streamed message. One block is open at a time, and their indices have no gaps."""

from typing import Any

from msgspec.json import Encoder

from services.gateway.apis.messages.answer import RAW_ARGUMENTS, call_id, client_name, signature_of
from services.gateway.apis.messages.events import block_stop, delta, delta_prefix, event
from services.gateway.apis.messages.thinking import Thinking
from services.gateway.apis.translation.chunks import ToolCall
from services.gateway.apis.translation.tool_names import ToolNames

_encode = Encoder().encode
_PIECES = {
    # The type and the member of the deltas of a block.
    "text": (b"text_delta", b"text"),
    "thinking": (b"thinking_delta", b"thinking"),
    "tool_use": (b"input_json_delta", b"partial_json"),
}
_EMPTY: dict[str, dict[str, Any]] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}
"""A block of each type as it starts."""


class _Call:
    """A tool call, which arrives in pieces."""

    __slots__ = ("id", "is_object", "is_started", "name", "pieces")

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.pieces: list[str] = []
        """Pieces of the arguments that were not sent."""
        self.is_object: bool | None = None
        """Whether the arguments start like a JSON object; None while there is only white space."""
        self.is_started = False

    def add(self, piece: ToolCall) -> None:
        self.id = self.id or piece.id or ""
        if piece.function is None:
            return
        self.name = self.name or piece.function.name or ""
        if piece.function.arguments:
            self.pieces.append(piece.function.arguments)
            if self.is_object is None:
                start = piece.function.arguments.lstrip()[:1]
                self.is_object = start == "{" if start else None


class ContentStream:
    """Turns text, reasoning and tool calls into the events of content blocks.

    The first tool call is sent as it arrives. What arrives after its first piece, except its other pieces, waits for
    the end of the stream, since a block cannot be continued once another one is open.
    """

    __slots__ = (
        "_by_index",
        "_calls",
        "_index",
        "_later",
        "_names",
        "_open",
        "_prefix",
        "_request_id",
        "_thinking",
        "_thought",
    )

    def __init__(self, names: ToolNames[str], thinking: Thinking, request_id: str) -> None:
        self._names = names
        self._thinking = thinking
        self._request_id = request_id
        self._open = ""
        """Type of the open block; empty if there is none."""
        self._index = -1
        self._prefix = b""
        self._thought: list[str] = []
        """Text of the open thinking block, if its signature carries it."""
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        """The last call with each index of the chunks."""
        self._later: list[tuple[str, str]] = []

    @property
    def has_calls(self) -> bool:
        """Whether there was a tool call."""
        return bool(self._calls)

    def text(self, piece: str) -> bytes:
        """Return the events for a piece of text."""
        if self._open == "text":
            return delta(self._prefix, piece)
        return self._piece("text", piece)

    def reasoning(self, piece: str) -> bytes:
        """Return the events for a piece of reasoning."""
        return b"" if self._thinking is Thinking.DISABLED else self._piece("thinking", piece)

    def call(self, piece: ToolCall) -> bytes:
        """Return the events for a piece of a tool call."""
        call = self._call_of(piece)
        call.add(piece)
        # Groq sends the name first. Without it, the block cannot start.
        return self._send(call, 0) if call is self._calls[0] and call.name else b""

    def end(self) -> bytes:
        """Return the events that complete all blocks."""
        out = [self._finish(call, number) for number, call in enumerate(self._calls)]
        out += [self._write(kind, piece) for kind, piece in self._later]
        return b"".join([*out, self._close()])

    def _piece(self, kind: str, piece: str) -> bytes:
        if not self._calls:
            return self._write(kind, piece)
        self._later.append((kind, piece))
        return b""

    def _write(self, kind: str, piece: str) -> bytes:
        start = b"" if self._open == kind else self._begin(kind, _EMPTY[kind])
        if kind == "thinking" and self._thinking is Thinking.OMITTED:
            self._thought.append(piece)
            return start
        return start + delta(self._prefix, piece)

    def _begin(self, kind: str, block: dict[str, Any]) -> bytes:
        closed = self._close()
        self._index += 1
        self._open = kind
        self._prefix = delta_prefix(self._index, *_PIECES[kind])
        return closed + event("content_block_start", {"index": self._index, "content_block": block})

    def _close(self) -> bytes:
        kind, self._open = self._open, ""
        if not kind:
            return b""
        return (self._sign() if kind == "thinking" else b"") + block_stop(self._index)

    def _sign(self) -> bytes:
        signature = signature_of("".join(self._thought), self._thinking)
        self._thought = []
        return delta(delta_prefix(self._index, b"signature_delta", b"signature"), signature)

    def _call_of(self, piece: ToolCall) -> _Call:
        """Return the call that a piece belongs to, a new one if its index or its id is new."""
        last = self._calls[-1] if self._calls else None
        call = last if piece.index is None else self._by_index.get(piece.index)
        if call is None or (piece.id and call.id and piece.id != call.id):
            call = _Call()
            self._calls.append(call)
            if piece.index is not None:
                self._by_index[piece.index] = call
        return call

    def _send(self, call: _Call, number: int) -> bytes:
        """Return the events for the pieces of a call that were not sent, as far as they can be."""
        start = b""
        if not call.is_started:
            call.is_started = True
            block = {
                "type": "tool_use",
                "id": call.id or call_id(self._request_id, number),
                "name": client_name(self._names, call.name),
                "input": {},
            }
            start = self._begin("tool_use", block)
        if not call.is_object:
            return start
        pieces, call.pieces = call.pieces, []
        return start + b"".join([delta(self._prefix, piece) for piece in pieces])

    def _finish(self, call: _Call, number: int) -> bytes:
        sent = self._send(call, number)
        if call.is_object is False:
            wrapped = _encode({RAW_ARGUMENTS: "".join(call.pieces)}).decode()
            sent += delta(self._prefix, wrapped)
        return sent + self._close()
