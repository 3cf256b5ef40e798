"""Bodies with status 200 that have no answer."""

from tools.groq_standin.chunks import DONE, Identity
from tools.groq_standin.wire import document, encode

_ERROR: dict[str, object] = {"error": {"message": "asked not to answer", "type": "internal_server_error"}}
_PAGE = b"<html>no answer</html>"
KINDS = frozenset({"error", "object", "null", "empty", "text", "done"})
"""`error`: an error member; `object`: `{}`; `null` and `empty`: null or no choices; `text`: not JSON; `done`: an empty
body, or a stream with only `[DONE]`."""


def body(kind: str, identity: Identity) -> bytes:
    """Return the body of an answer that is not streamed."""
    match kind:
        case "done":
            return b""
        case "text":
            return _PAGE
        case _:
            return document(_members(kind, identity))


def events(kind: str, identity: Identity) -> bytes:
    """Return the events of a complete stream."""
    match kind:
        case "done":
            return DONE
        case "text":
            return b"data: %b\n\n%b" % (_PAGE, DONE)
        case _:
            return b"data: %b\n\n%b" % (encode(_members(kind, identity)), DONE)


def _members(kind: str, identity: Identity) -> dict[str, object]:
    if kind == "error":
        return _ERROR
    if kind == "object":
        return {}
    frame = {"id": identity.completion_id, "model": identity.model, "x_groq": identity.x_groq}
    return {**frame, "choices": None if kind == "null" else []}
