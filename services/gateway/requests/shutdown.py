"""ASGI middleware that cancels the requests still in flight at the end of a shutdown, and completes their responses.

A stream ends with an error event and without `[DONE]`. A request without a response gets a 503. Inference continues as
after a client disconnect: it reads Groq's answer for as long as it may, and the ledger row has the verdict.
"""

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.errors import Unavailable
from services.gateway.http.errors import http_error
from services.gateway.requests import sse

CANCEL_SECONDS_MAX = 1.5
"""Maximum time from the cancellation of a request to its end, including the time in which the client reads."""

_SEND_SECONDS = 1.0


class RequestsInFlight:
    """The requests in flight, which can be cancelled together."""

    def __init__(self) -> None:
        self._requests: dict[_Request, None] = {}
        self._is_cancelled = False

    def add(self, request: "_Request") -> None:
        """Register a request. Cancel it immediately if `cancel_all` was called before."""
        self._requests[request] = None
        if self._is_cancelled:
            request.cancel()

    def remove(self, request: "_Request") -> None:
        """Remove a request that has been answered."""
        del self._requests[request]

    def cancel_all(self) -> None:
        """Cancel all requests, and all that are added later."""
        self._is_cancelled = True
        for request in list(self._requests):
            request.cancel()


class CancelOnShutdown:
    """Middleware that registers each request, and completes the response of a cancelled one."""

    def __init__(self, app: ASGIApp, *, requests: RequestsInFlight) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application, and complete the response if the request is cancelled."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(send)
        self._requests.add(request)
        try:
            await self._app(scope, receive, request.send)
        except asyncio.CancelledError:
            if not request.uncancel():
                raise
        finally:
            self._requests.remove(request)
        if request.is_cancelled:
            await request.complete()


class _Request:
    """A request in flight: the state of its response, and the task that handles it."""

    def __init__(self, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None, "a request is handled by a task"
        self._task = task
        self._send = send
        self._media_type: bytes | None = None
        self._is_complete = False
        self.is_cancelled = False

    async def send(self, message: Message) -> None:
        """Send a message of the response, and track its state."""
        if message["type"] == "http.response.start":
            self._media_type = _media_type(message["headers"])
        await self._send(message)
        self._is_complete = message["type"] == "http.response.body" and not message.get("more_body", False)

    def cancel(self) -> None:
        """Cancel the task of the request."""
        self.is_cancelled = True
        self._task.cancel()

    def uncancel(self) -> bool:
        """Uncancel the task. Return whether `cancel` was the only reason for the cancellation."""
        return self.is_cancelled and self._task.uncancel() == 0

    async def complete(self) -> None:
        """Complete the response with an error, unless the client does not read it in time."""
        if self._is_complete:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_SEND_SECONDS):
                await self._send_error()

    async def _send_error(self) -> None:
        error = http_error(Unavailable(_MESSAGE, reason="service_stopped"), now=time.time())
        if self._media_type is None:
            headers = {"content-type": "application/json", "content-length": str(len(error.body)), **error.headers}
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            await self._send({"type": "http.response.start", "status": error.status, "headers": raw})
            await self._send({"type": "http.response.body", "body": error.body})
        elif self._media_type == _EVENT_STREAM:
            # Only whole events were sent before.
            await self._send({"type": "http.response.body", "body": sse.events([error.body]), "more_body": False})
        # Leave any other response incomplete, so that the client does not accept it as a whole one.


_MESSAGE = "The server was stopped before it completed the response. Send the request again."
_EVENT_STREAM = b"text/event-stream"


def _media_type(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    value = next((value for name, value in headers if name.lower() == b"content-type"), b"")
    return value.partition(b";")[0].strip()
