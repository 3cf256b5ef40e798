"""Incremental parser of Server-Sent Events (HTML standard, §9.2.6).

Lines end with LF, CR or CRLF. A byte order mark at the start, comments and unknown fields are skipped. An event is
complete when the empty line after it has arrived.
"""

from collections.abc import Iterator
from typing import NamedTuple

from services.inference.groq.errors import UpstreamInvalid

_BOM = b"\xef\xbb\xbf"


class ServerSentEvent(NamedTuple):
    """An event with data."""

    name: str
    """The event's name; empty if it has none."""
    data: bytes
    """The event's data lines, joined with newlines."""


class EventReader:
    """Splits a byte stream into events, in linear time."""

    def __init__(self, *, event_bytes_max: int) -> None:
        """Create a reader.

        Args:
            event_bytes_max: Maximum size of an event.
        """
        self._event_bytes_max = event_bytes_max
        self._pending = bytearray()
        """The beginning of the next event, with line ends normalised to LF."""
        self._is_at_start = True
        self._skips_newline = False
        """Whether the last byte was a CR, so that a following LF belongs to the same line end."""

    def feed(self, raw: bytes) -> list[ServerSentEvent]:
        """Return the events that these bytes complete.

        Raises:
            UpstreamInvalid: An event is too large.
        """
        text = self._normalise_newlines(raw)
        if self._is_at_start:
            text = self._skip_bom(text)
        if not self._pending and text.endswith(b"\n\n"):  # Fast path.
            return self._events(text)
        begin = max(0, len(self._pending) - 1)
        self._pending += text
        end = self._pending.rfind(b"\n\n", begin)
        complete = self._take(end + 2) if end >= 0 else b""
        if len(self._pending) > self._event_bytes_max:
            raise UpstreamInvalid
        return self._events(complete) if complete else []

    def _events(self, text: bytes) -> list[ServerSentEvent]:
        blocks = text.split(b"\n\n")
        if len(text) > self._event_bytes_max and max(map(len, blocks)) > self._event_bytes_max:
            raise UpstreamInvalid
        return list(_events(blocks))

    def _normalise_newlines(self, raw: bytes) -> bytes:
        if self._skips_newline and raw:
            self._skips_newline = False
            raw = raw.removeprefix(b"\n")
        if b"\r" not in raw:
            return raw
        self._skips_newline = raw.endswith(b"\r")
        return raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _skip_bom(self, text: bytes) -> bytes:
        """Remove a byte order mark, which may arrive in several pieces."""
        text = bytes(self._pending) + text
        self._pending.clear()
        if len(text) < len(_BOM) and _BOM.startswith(text):
            self._pending += text
            return b""
        self._is_at_start = False
        return text.removeprefix(_BOM)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._pending[:size])
        del self._pending[:size]
        return taken


def _events(blocks: list[bytes]) -> Iterator[ServerSentEvent]:
    for block in blocks:
        if block.startswith(b"data: ") and b"\n" not in block:  # Fast path.
            yield ServerSentEvent("", block[6:])
            continue
        name, data = "", []
        for line in block.split(b"\n"):
            field, _, value = line.partition(b":")
            if field == b"data":
                data.append(value.removeprefix(b" "))
            elif field == b"event":
                name = value.removeprefix(b" ").decode("utf-8", "replace")
        if any(data):  # Skip events without data.
            yield ServerSentEvent(name, b"\n".join(data))
