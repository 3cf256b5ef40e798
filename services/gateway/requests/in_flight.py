"""ASGI middleware that completes the response of a request that fails unexpectedly or is cancelled at shutdown.

A request without a response gets a 500 or a 503. A cancelled stream ends with an error event and without `[DONE]`. A
response that has started when its request fails stays incomplete, and the connection is aborted.

Inference continues after a cancellation as after a client disconnect: it reads Groq's answer for as long as it may, and
the ledger row has the verdict.
"""

import asyncio
import logging
import time
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.errors import Unavailable
from services.common.web.request_id import REQUEST_ID
from services.gateway.http.errors import HTTPError, http_error, internal_error
from services.gateway.http.middleware import STREAM_ERROR
from services.gateway.http_server.write_flow import ClientStalled
from services.gateway.requests.surface import ErrorRenderer

_log = logging.getLogger(__name__)

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


class CompleteResponses:
    """Middleware that registers each request, and completes its response if the application does not."""

    def __init__(self, app: ASGIApp, *, requests: RequestsInFlight, render_error: ErrorRenderer) -> None:
        """Wrap `app`. `render_error` returns the response to an error, given the request's scope."""
        self._app = app
        self._requests = requests
        self._render_error = render_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application, and complete the response if the request is cancelled or fails."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(scope, send, self._render_error)
        self._requests.add(request)
        try:
            await self._app(scope, receive, request.send)
        except asyncio.CancelledError:
            if not request.uncancel():
                raise
        except ClientStalled:
            raise
        except Exception:
            _log.exception("Unhandled exception in a request", extra={"request_id": scope.get(REQUEST_ID, "")})
            if request.has_started:
                raise
            if not request.is_cancelled:
                await request.send_error(internal_error())
        finally:
            self._requests.remove(request)
        if request.is_cancelled:
            await request.complete()


class _Request:
    """A request in flight: the state of its response, and the task that handles it."""

    def __init__(self, scope: Scope, send: Send, render_error: ErrorRenderer) -> None:
        task = asyncio.current_task()
        assert task is not None, "a request is handled by a task"
        self._task = task
        self._scope = scope
        self._send = send
        self._render_error = render_error
        self._is_complete = False
        self.has_started = False
        self.is_cancelled = False

    async def send(self, message: Message) -> None:
        """Send a message of the response, and track its state."""
        if message["type"] == "http.response.start":
            self.has_started = True
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
        error = http_error(Unavailable(_STOPPED, reason="service_stopped"), now=time.time())
        with suppress(TimeoutError):
            async with asyncio.timeout(_SEND_SECONDS):
                if not self.has_started:
                    await self.send_error(error)
                elif STREAM_ERROR in self._scope:  # Only whole events were sent before.
                    await self._send_body(self._scope[STREAM_ERROR](error))
                # Leave any other response incomplete, so that the client does not accept it as a whole one.

    async def send_error(self, error: HTTPError) -> None:
        """Send an error as the whole response."""
        response = self._render_error(self._scope, error)
        headers = {"content-type": "application/json", "content-length": str(len(response.body)), **response.headers}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": response.status, "headers": raw})
        await self._send_body(response.body)

    async def _send_body(self, body: bytes) -> None:
        await self.send({"type": "http.response.body", "body": body, "more_body": False})


_STOPPED = "The server was stopped before it completed the response. Send the request again."
