"""Tool calls, assembled from pieces."""

from dataclasses import dataclass, field

import msgspec

from services.gateway.apis.translation.chunks import ToolCall


class _Input(msgspec.Struct):
    input: str


_decode_input = msgspec.json.Decoder(_Input).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(slots=True)
class Call:
    """A tool call that is being received."""

    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)

    def add(self, piece: ToolCall) -> None:
        """Add a piece."""
        self.id = self.id or piece.id or ""
        if piece.function is not None:
            self.name = self.name or piece.function.name or ""
            self.pieces.append(piece.function.arguments or "")

    @property
    def arguments(self) -> str:
        """The arguments as JSON text."""
        return "".join(self.pieces) or "{}"

    @property
    def input(self) -> str:
        """The input of a custom tool: the argument `input`, or the whole text if it has no such argument."""
        try:
            return _decode_input(self.arguments).input
        except (msgspec.DecodeError, RecursionError):
            return self.arguments


class Calls:
    """The tool calls of one answer.

    Groq sends each call in one piece, which is returned at once. A call in several pieces is returned at the end,
    since its pieces may alternate with those of others; so are the calls after it, to keep their order.
    """

    def __init__(self) -> None:
        self._calls: dict[int | str, Call] = {}
        self._waiting: list[Call] = []
        self._last: int | str = 0

    def add(self, piece: ToolCall) -> Call | None:
        """Add a piece. Return the call if it is complete and no other call precedes it."""
        key = piece.index if piece.index is not None else (piece.id or self._last)
        call = self._calls.get(key)
        if call is None or (piece.id and call.id and piece.id != call.id):
            return self._start(key, piece)
        call.add(piece)
        return None

    def rest(self) -> list[Call]:
        """Return the calls that were not returned before."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def _start(self, key: int | str, piece: ToolCall) -> Call | None:
        call = self._calls[key] = Call()
        self._last = key
        call.add(piece)
        if not self._waiting and call.name and _is_object(call.pieces[0]):
            return call
        self._waiting.append(call)
        return None


def _is_object(text: str) -> bool:
    try:
        _decode_object(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
