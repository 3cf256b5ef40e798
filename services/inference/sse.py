"""Server-Sent Events, read as bytes arrive."""

from collections.abc import Iterator
from typing import NamedTuple


class ServerSentEvent(NamedTuple):
    """One event with data; comments and events without data are passed over."""

    name: str
    """The event's name; empty when it has none."""
    data: bytes
    """Its data lines, joined by newlines."""


class EventReader:
    """Cuts a byte stream into events, wherever the network cut it."""

    def __init__(self) -> None:
        """Start with nothing read."""
        self._rest = b""

    def feed(self, raw: bytes) -> list[ServerSentEvent]:
        """Return the events that these bytes complete."""
        buffer = self._rest + raw
        if b"\r" in buffer:
            # A carriage return at the very end may be half of a line end.
            held = b"\r" if buffer.endswith(b"\r") else b""
            buffer = buffer.removesuffix(b"\r").replace(b"\r\n", b"\n") + held
        *blocks, self._rest = buffer.split(b"\n\n")
        return list(_events(blocks))


def _events(blocks: list[bytes]) -> Iterator[ServerSentEvent]:
    for block in blocks:
        if block.startswith(b"data: ") and b"\n" not in block:  # Nearly all.
            yield ServerSentEvent("", block[6:])
            continue
        name, data = "", []
        for line in block.split(b"\n"):
            field, _, value = line.partition(b":")
            if field == b"data":
                data.append(value.removeprefix(b" "))
            elif field == b"event":
                name = value.strip().decode("utf-8", "replace")
        if data:
            yield ServerSentEvent(name, b"\n".join(data))
