"""Unusual encodings of answers: other legal forms of event streams, and text that is not valid Unicode.

JSON encoders cannot write such text. Answers are created with placeholders from the private use area, and `soil`
replaces them with the invalid bytes after encoding.
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
"""Changes of an event, in order of application. All are legal (HTML standard §9.2.6)."""
SSE_FORMS = frozenset({"bom", *_STEPS})
"""The forms of `SSEEncoder`."""


class SSEEncoder:
    """Encodes the events of one stream in a combination of legal forms."""

    def __init__(self, forms: frozenset[str]) -> None:
        """Create an encoder for `forms`. `cr` overrides `crlf`."""
        self._steps = [step for name, step in _STEPS.items() if name in forms]
        self._bom_pending = "bom" in forms

    def __call__(self, event: bytes) -> bytes:
        """Return an event in these forms. It must end with an empty line."""
        for step in self._steps:
            event = step(event)
        if self._bom_pending:
            self._bom_pending = False
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
"""Kinds of text: with an invalid UTF-8 byte, with half of a surrogate pair, and with the halves in two pieces."""


def unclean_pieces(kind: str) -> tuple[str, ...]:
    """Return two tokens of text with placeholders."""
    return _PIECES[kind]


def corrupt(data: bytes) -> bytes:
    """Replace the placeholders in encoded text with invalid bytes."""
    for placeholder, raw in _BYTES.items():
        data = data.replace(placeholder.encode(), raw)
    return data
