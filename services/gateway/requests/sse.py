"""Server-Sent Events in OpenAI's form: `data:` lines only, which every client can parse."""

from collections.abc import Iterable

HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Disables response buffering in nginx.
    (b"x-accel-buffering", b"no"),
)

DONE = b"data: [DONE]\n\n"
"""The last event of a successful stream. Never sent after an error."""

HEARTBEAT = b": keep-alive\n\n"
"""A keep-alive comment, which clients ignore."""


def events(texts: Iterable[bytes]) -> bytes:
    """Return JSON texts as one block of events, so that they are sent in one write."""
    return b"".join(b"data: " + text + b"\n\n" for text in texts)
