"""Requests that a stopping gateway does not wait for any longer: each still gets an answer, as pure ASGI.

A stream ends with an error event and without `[DONE]`; where no answer has begun, it is a 503. The request itself goes
on as when a client leaves: inference reads on for as long as it may, and the request's row has the verdict.
"""

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.errors import Unavailable
from services.gateway.http.errors import http_error
from services.gateway.requests import sse

CUT_SECONDS = 1.5
"""Longest time from the cut to the end of a request, its client's reading included."""

_SEND_SECONDS = 1.0


class RequestsInFlight:
    """The requests that are being answered, which can be cut together."""

    def __init__(self) -> None:
        self._requests: dict[_Request, None] = {}
        self._is_cut = False

    def add(self, request: "_Request") -> None:
        """Register a request; it is cut at once when the others were."""
        self._requests[request] = None
        if self._is_cut:
            request.cut()

    def remove(self, request: "_Request") -> None:
        """Forget a request that has been answered."""
        del self._requests[request]

    def cut(self) -> None:
        """End all requests now."""
        self._is_cut = True
        for request in list(self._requests):
            request.cut()


class Cuttable:
    """Registers each request, and answers one that is cut."""

    def __init__(self, app: ASGIApp, *, requests: RequestsInFlight) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; when it is cut, its handler is cancelled and the answer is completed here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(send)
        self._requests.add(request)
        try:
            await self._app(scope, receive, request.send)
        except asyncio.CancelledError:
            if not request.take_back_cancellation():
                raise
        finally:
            self._requests.remove(request)
        if request.is_cut:
            await request.complete()


class _Request:
    """One request: what was sent of its answer, and the task that handles it."""

    def __init__(self, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None, "a request is handled by a task"
        self._task = task
        self._send = send
        self._media_type: bytes | None = None
        self._is_complete = False
        self.is_cut = False

    async def send(self, message: Message) -> None:
        """Send a part of the answer, and note it."""
        if message["type"] == "http.response.start":
            self._media_type = _media_type(message["headers"])
        await self._send(message)
        self._is_complete = message["type"] == "http.response.body" and not message.get("more_body", False)

    def cut(self) -> None:
        """Cancel the handler."""
        self.is_cut = True
        self._task.cancel()

    def take_back_cancellation(self) -> bool:
        """Whether the cancellation that arrived is ours alone; then the task goes on."""
        return self.is_cut and self._task.uncancel() == 0

    async def complete(self) -> None:
        """Send what is left to say; a client that does not read it in time goes without."""
        if self._is_complete:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_SEND_SECONDS):
                await self._send_rest()

    async def _send_rest(self) -> None:
        error = http_error(Unavailable(_MESSAGE, reason="service_stopped"), now=time.time())
        if self._media_type is None:
            headers = {"content-type": "application/json", "content-length": str(len(error.body)), **error.headers}
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            await self._send({"type": "http.response.start", "status": error.status, "headers": raw})
            await self._send({"type": "http.response.body", "body": error.body})
        elif self._media_type == _EVENT_STREAM:
            # What was sent before were whole events.
            await self._send({"type": "http.response.body", "body": sse.events([error.body]), "more_body": False})
        # Anything else has begun and cannot be told from a whole answer but by its missing end.


_MESSAGE = "The server is being stopped; please try again."
_EVENT_STREAM = b"text/event-stream"


def _media_type(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    value = next((value for name, value in headers if name.lower() == b"content-type"), b"")
    return value.partition(b";")[0].strip()
