"""How an answer can be encoded that Groq encodes otherwise: other legal event streams, and text that is not Unicode.

No JSON encoder writes such text, so answers are made with placeholders, characters of the private use area; `soil` puts
the bytes in their places once the answer is encoded.
"""

from collections.abc import Callable

_BOM = b"\xef\xbb\xbf"
_STEPS: dict[str, Callable[[bytes], bytes]] = {
    "lines": lambda event: event.replace(b"data: {", b"data: {\ndata: ", 1),
    "no_space": lambda event: event.replace(b"data: ", b"data:").replace(b"event: ", b"event:"),
    "comments": lambda event: b": a comment\nid: 7\nretry: 1000\nunknown\n" + event,
    "empty": lambda event: b"data\n\n" + event + b"data:\n\n",
    "cr": lambda event: event.replace(b"\n", b"\r"),
    "crlf": lambda event: event.replace(b"\n", b"\r\n"),
}
"""Changes of an event, in the order in which they apply. All are legal (HTML standard §9.2.6)."""
SSE_FORMS = frozenset({"bom", *_STEPS})
"""What `SSEEncoder` can do."""


class SSEEncoder:
    """Writes the events of one stream in any combination of legal forms."""

    def __init__(self, forms: frozenset[str]) -> None:
        """Write in `forms`; `cr` goes before `crlf`, which finds no newline then."""
        self._steps = [step for name, step in _STEPS.items() if name in forms]
        self._owes_bom = "bom" in forms

    def __call__(self, event: bytes) -> bytes:
        """Return an event, ended by an empty line, in these forms."""
        for step in self._steps:
            event = step(event)
        if self._owes_bom:
            self._owes_bom = False
            event = _BOM + event
        return event


_INVALID_BYTE, _HIGH, _LOW = "\ue0ff", "\ue0d8", "\ue0dc"
_BYTES = {
    _INVALID_BYTE: b"\xff",
    # The two halves of U+1F389, as JSON escapes.
    _HIGH: b"\\ud83c",
    _LOW: b"\\udf89",
}
_PIECES = {
    "utf8": ("caf" + _INVALID_BYTE, " ok"),
    "surrogate": ("a" + _HIGH, "b"),
    "emoji": ("a" + _HIGH, _LOW + "b"),
}
UNCLEAN_TEXTS = frozenset(_PIECES)
"""Text with a byte that UTF-8 does not have, with half of a surrogate pair, and with both halves in two pieces."""


def unclean_pieces(kind: str) -> tuple[str, ...]:
    """Return two tokens of text with placeholders."""
    return _PIECES[kind]


def soil(data: bytes) -> bytes:
    """Return encoded text with the bytes that the placeholders stand for."""
    for placeholder, raw in _BYTES.items():
        data = data.replace(placeholder.encode(), raw)
    return data
