"""Server-Sent Events as the HTML standard defines them (§9.2.6), read as bytes arrive.

Line ends are LF, CR or CRLF, a byte order mark at the start is skipped, and so are comments and other fields. An event
counts when the empty line that ends it has arrived.
"""

from collections.abc import Iterator
from typing import NamedTuple

from services.inference.groq.errors import UpstreamInvalid

_BOM = b"\xef\xbb\xbf"


class ServerSentEvent(NamedTuple):
    """One event that has data."""

    name: str
    """The event's name; empty when it has none."""
    data: bytes
    """Its data lines, joined by newlines."""


class EventReader:
    """Splits a byte stream into events, in time that grows with its length and no faster."""

    def __init__(self, *, event_bytes_max: int) -> None:
        """Create a reader that refuses an event of more than `event_bytes_max` bytes."""
        self._event_bytes_max = event_bytes_max
        self._rest = bytearray()
        """The beginning of the next event, with LF for every line end."""
        self._is_at_start = True
        self._skips_newline = False
        """The last byte was a CR, which ended a line: an LF that follows belongs to it."""

    def feed(self, raw: bytes) -> list[ServerSentEvent]:
        """Return the events that these bytes complete.

        Raises:
            UpstreamInvalid: An event is too large.
        """
        text = self._with_newlines(raw)
        if self._is_at_start:
            text = self._without_mark(text)
        if not self._rest and text.endswith(b"\n\n"):  # Nearly all.
            return self._events(text)
        begin = max(0, len(self._rest) - 1)
        self._rest += text
        end = self._rest.rfind(b"\n\n", begin)
        complete = self._taken(end + 2) if end >= 0 else b""
        if len(self._rest) > self._event_bytes_max:
            raise UpstreamInvalid
        return self._events(complete) if complete else []

    def _events(self, text: bytes) -> list[ServerSentEvent]:
        blocks = text.split(b"\n\n")
        if len(text) > self._event_bytes_max and max(map(len, blocks)) > self._event_bytes_max:
            raise UpstreamInvalid
        return list(_events(blocks))

    def _with_newlines(self, raw: bytes) -> bytes:
        if self._skips_newline and raw:
            self._skips_newline = False
            raw = raw.removeprefix(b"\n")
        if b"\r" not in raw:
            return raw
        self._skips_newline = raw.endswith(b"\r")
        return raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _without_mark(self, text: bytes) -> bytes:
        """Skip a byte order mark, which may arrive in pieces."""
        text = bytes(self._rest) + text
        self._rest.clear()
        if len(text) < len(_BOM) and _BOM.startswith(text):
            self._rest += text
            return b""
        self._is_at_start = False
        return text.removeprefix(_BOM)

    def _taken(self, size: int) -> bytes:
        taken = bytes(self._rest[:size])
        del self._rest[:size]
        return taken


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
                name = value.removeprefix(b" ").decode("utf-8", "replace")
        if any(data):  # An event without any text has nothing to read.
            yield ServerSentEvent(name, b"\n".join(data))
