"""Server-Sent Events as OpenAI sends them: `data:` lines and nothing else, which every client can read."""

from collections.abc import Iterable

HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Tells nginx and its like not to gather events.
    (b"x-accel-buffering", b"no"),
)

DONE = b"data: [DONE]\n\n"
"""The end of a stream that ended well; never sent after an error."""


HEARTBEAT = b": keep-alive\n\n"
"""A comment, which every client passes over."""


def events(texts: Iterable[bytes]) -> bytes:
    """Return JSON texts as events, in one piece so that they leave in one write."""
    return b"".join(b"data: " + text + b"\n\n" for text in texts)
