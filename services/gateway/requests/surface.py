"""The port between the request handler and an API surface, such as chat completions or `/v1/responses`.

The order of calls to a renderer is `begin`, then either `completion`, or `events` any number of times followed by
`end` or `stream_error`, or `error`. `SurfaceRequest.store` is called after `completion`, and before `end`.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from starlette.types import Scope

from services.gateway.http.errors import HTTPError
from services.gateway.requests.types import Chat, Principal


class Renderer(Protocol):
    """Renders the answer to one request. An instance serves one request only."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Additional response headers, valid after `begin`."""

    def begin(self, request_id: str, now: float) -> None:
        """Prepare for the first output.

        Args:
            request_id: The final id of the request, `req_…`. The ids in the answer derive from it.
            now: Unix seconds at which the request was admitted.
        """

    def completion(self, body: bytes) -> bytes:
        """Return the whole answer for a chat completion. Both are JSON texts.

        Raises:
            Unavailable: The completion is not a JSON object.
        """

    def events(self, texts: list[bytes]) -> bytes:
        """Return the server-sent events for chat chunks that arrived together; may be empty.

        Raises:
            Unavailable: A chunk is not a JSON object.
        """

    def end(self) -> bytes:
        """Return the last events of a successful stream."""

    def error(self, error: HTTPError, /) -> "ErrorResponse":
        """Return the response to a request that failed before its first output."""

    def stream_error(self, error: HTTPError) -> bytes:
        """Return the last events of a stream that failed."""

    def heartbeat(self) -> bytes:
        """Return what is sent while no events arrive."""


@dataclass(slots=True)
class SurfaceRequest:
    """A parsed request."""

    chat: Chat
    """The request in Groq's form, as `parse_chat` returns it."""
    renderer: Renderer
    """Renders its answer."""
    store: Callable[[], Awaitable[None]] | None = None
    """Stores the answer before its client receives the end of it; None if it is not stored. Raises `ServiceError`, with
    which the answer fails. It was produced, and is charged."""


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """An HTTP error in the envelope of a surface."""

    status: int
    body: bytes
    """JSON text."""
    headers: Mapping[str, str]


class Envelope(Protocol):
    """Puts an error that is not part of a stream into the envelope of a surface."""

    def __call__(self, error: HTTPError, /, *, request_id: str) -> ErrorResponse: ...


ErrorRenderer = Callable[[Scope, HTTPError], ErrorResponse]
"""Returns the response to an error in the envelope of the request's surface, given the scope of the request."""

Parse = Callable[[bytes, Principal], Awaitable[SurfaceRequest]]
"""Parses the body of a principal's request of one surface; raises `ServiceError`."""
