"""Checks of request bodies before they are read."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Scope

_IDENTITY = ("", "identity")
_LENGTH_DIGITS_MAX = 19


def refuse_encoded(request: Request) -> None:
    """Raise if the request body is compressed.

    Raises:
        HTTPException: 415, with an `accept-encoding` header as in RFC 9110, 15.5.16.
    """
    encoding = request.headers.get("content-encoding", "").strip()
    if encoding.lower() not in _IDENTITY:
        message = f"Unsupported content-encoding '{encoding[:100]}'. Send the body uncompressed, without that header."
        raise HTTPException(415, message, headers={"accept-encoding": "identity"})


def content_length(scope: Scope) -> int | None:
    """Return the value of `content-length`; None if it is missing or not a valid number."""
    text = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    return int(text) if text.isdigit() and len(text) <= _LENGTH_DIGITS_MAX else None
