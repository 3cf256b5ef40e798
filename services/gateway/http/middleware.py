"""ASGI middleware for path aliases, request ids and request logs."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from opentelemetry.trace import INVALID_SPAN, Span
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.telemetry import tracing
from services.common.web.request_id import REQUEST_ID
from services.gateway.http.paths import canonical_path, is_api_path, route_of
from services.gateway.http.redaction import loggable_path
from services.gateway.http_server.write_flow import ClientStalled
from services.gateway.metrics import IN_FLIGHT, request_seconds

STARTED = "stack.started"
"""ASGI scope key of the arrival time of the request, by `time.perf_counter`."""

STREAM_ERROR = "stack.stream_error"
"""ASGI scope key of the function that renders an error as the last events of the request's stream."""

FAILURE = "stack.failure"
"""ASGI scope key of the verdict of a chat that failed; None if it is not known yet. Absent without a failure."""

_CONNECTION_CLOSE = ((b"connection", b"close"),)
_UNTRACED_ROUTES = ("healthz", "readyz", "static")
_CLIENT_CLOSED_REQUEST = 499
"""Status label of requests whose client disconnected before the response started. nginx and Groq use the same code."""

_NO_PARAMETERS: dict[str, str] = {}
_log = logging.getLogger(__name__)


class APIPaths:
    """Middleware that gives requests of the API their canonical path, and routes all others to the console.

    Requests under an alias are not redirected, because some clients drop the body of a redirected POST.
    """

    def __init__(self, app: ASGIApp, *, console: ASGIApp | None) -> None:
        """Wrap `app`, which serves the API, and also all other paths if `console` is None."""
        self._app = app
        self._console = console

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route a request to the API or the console."""
        app = self._app
        if scope["type"] == "http":
            # In place, because outer middleware reads values that inner code stores in the scope, such as the request
            # id.
            path = scope["path"] = canonical_path(scope["path"])
            if self._console is not None and not is_api_path(path):
                app = self._console
        await app(scope, receive, send)


class RequestScope:
    """Middleware that assigns request ids, adds headers with the id and duration, and logs each request.

    While the gateway drains, responses have `connection: close`, so that clients reconnect to another replica (RFC
    9112, 9.6).
    """

    def __init__(self, app: ASGIApp, *, new_request_id: Callable[[], str], is_draining: Callable[[], bool]) -> None:
        """Wrap `app`."""
        self._app = app
        self._new_request_id = new_request_id
        self._is_draining = is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = scope[STARTED] = time.perf_counter()
        scope[REQUEST_ID] = self._new_request_id()
        IN_FLIGHT.inc()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                connection = _CONNECTION_CLOSE if self._is_draining() else ()
                message["headers"] = [*message["headers"], *_identifying_headers(scope, started), *connection]
            await send(message)

        with _traced(scope) as span:
            try:
                await self._app(scope, receive, send_with_id)
            except ClientStalled:
                _log.info("client stalled", extra={"request_id": scope[REQUEST_ID]})
                raise
            finally:
                IN_FLIGHT.dec()
                _report(scope, status or _CLIENT_CLOSED_REQUEST, started, span)


def _traced(scope: Scope) -> AbstractContextManager[Span]:
    """Return the root span of a request. Probes and static files are not traced."""
    if not tracing.is_on() or route_of(scope["path"]) in _UNTRACED_ROUTES:
        return nullcontext(INVALID_SPAN)
    link = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"), "")
    return tracing.entry(scope["method"], link=link)


def _identifying_headers(scope: Scope, started: float) -> list[tuple[bytes, bytes]]:
    milliseconds = (time.perf_counter() - started) * 1000
    return [
        (b"x-request-id", scope[REQUEST_ID].encode()),
        (b"stack-processing-ms", f"{milliseconds:.1f}".encode()),
    ]


def _report(scope: Scope, status: int, started: float, span: Span) -> None:
    seconds = time.perf_counter() - started
    route = route_of(scope["path"])
    request_seconds(route, status).observe(seconds)
    if span.is_recording():
        _describe(span, scope, route, status)
    _log.info(
        "request",
        extra={
            "request_id": scope[REQUEST_ID],
            "method": scope["method"],
            "path": loggable_path(scope["path"], scope.get("path_params", _NO_PARAMETERS)),
            "status": status,
            "duration_ms": round(seconds * 1000, 1),
        },
    )


def _describe(span: Span, scope: Scope, route: str, status: int) -> None:
    """Set the span's name and attributes at the end of a request, when its alias path has been resolved."""
    span.update_name(f"{scope['method']} {route}")
    span.set_attributes(
        {
            "http.request.method": scope["method"],
            "http.route": route,
            "http.response.status_code": status,
            "stack.request_id": scope[REQUEST_ID],
        }
    )
