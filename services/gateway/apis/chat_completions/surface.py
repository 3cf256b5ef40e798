"""The surface of chat completions: answers as inference shaped them, in OpenAI's framing."""

from collections.abc import Mapping

from services.gateway.apis.chat_completions.limits import ChatLimits
from services.gateway.apis.chat_completions.request import parse_chat
from services.gateway.http.errors import HTTPError
from services.gateway.requests import sse
from services.gateway.requests.surface import ErrorResponse, Parse, SurfaceRequest

_NO_HEADERS: Mapping[str, str] = {}


class ChatRenderer:
    """Passes answers through. It has no state, so one instance serves all requests."""

    headers = _NO_HEADERS

    def begin(self, request_id: str, now: float) -> None:
        """Do nothing."""

    def completion(self, body: bytes) -> bytes:
        """Return the completion unchanged."""
        return body

    def events(self, texts: list[bytes]) -> bytes:
        """Return chunks as server-sent events."""
        return sse.events(texts)

    def end(self) -> bytes:
        """Return `[DONE]`."""
        return sse.DONE

    def error(self, failure: HTTPError) -> ErrorResponse:
        """Return the error in OpenAI's envelope."""
        return error(failure, request_id="")

    def stream_error(self, error: HTTPError) -> bytes:
        """Return the error as an event. `[DONE]` does not follow it."""
        return sse.events([error.body])

    def heartbeat(self) -> bytes:
        """Return a comment, which clients ignore."""
        return sse.HEARTBEAT


def error(error: HTTPError, *, request_id: str) -> ErrorResponse:
    """Return an error in OpenAI's envelope."""
    return ErrorResponse(error.status, error.body, error.headers)


def parser(limits: ChatLimits) -> Parse:
    """Return the function that parses requests within `limits`."""
    renderer = ChatRenderer()
    return lambda body: SurfaceRequest(parse_chat(body, limits), renderer)
