"""Server-sent events with a name and a sequence number."""


def event_head(name: str) -> bytes:
    """Return the bytes of an event up to its sequence number. They are the same for all events of a name."""
    return b'event: %b\ndata: {"type":"%b","sequence_number":' % (name.encode(), name.encode())


class EventWriter:
    """Collects the events of one stream, in order."""

    def __init__(self) -> None:
        self._sequence_number = 0
        self._events: list[bytes] = []

    def add(self, head: bytes, members: bytes) -> None:
        """Add an event.

        Args:
            head: Bytes of `event_head`.
            members: Its other members as JSON text without braces.
        """
        self._events.append(b"%b%d,%b}\n\n" % (head, self._sequence_number, members))
        self._sequence_number += 1

    def take(self) -> bytes:
        """Return the events added since the last call as one block."""
        events, self._events = b"".join(self._events), []
        return events
