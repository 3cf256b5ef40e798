"""Server interceptor that logs and measures RPCs and converts exceptions to gRPC statuses."""

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import cache
from typing import Any

import grpc
from grpc import aio
from prometheus_client import Gauge, Histogram

from services.common.errors import InternalError, ServiceError
from services.common.rpc.status import to_status
from services.common.rpc.types import Context
from services.common.telemetry import tracing

_log = logging.getLogger(__name__)
_SECONDS = Histogram(
    "stack_rpc_duration_seconds",
    "Duration of RPCs, of streams until their end. The count by code is the number of RPCs.",
    ["method", "code"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120),
)
_IN_FLIGHT = Gauge("stack_rpc_in_flight", "RPCs in progress.", ["method"])
_UNLOGGED_PREFIXES = ("/grpc.health.v1.Health/", "/grpc.reflection.")

_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}

Handler = Any
"""An RPC handler. The gRPC stubs have no type for handlers of unknown message types."""


class ServiceInterceptor(aio.ServerInterceptor):
    """Logs each RPC when it ends, and aborts it with a status when its handler raises."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Wrap unary and server-streaming handlers, once per method. Other handlers are returned unchanged."""
        method = handler_call_details.method
        handler = self._handlers.get(method)
        if handler is None:
            handler = wrapped(await continuation(handler_call_details), method)
            if handler is not None:  # Unknown methods are not cached: clients could send any number of names.
                self._handlers[method] = handler
        return handler


def wrapped(handler: Handler, method: str) -> Handler:
    """Return a handler that counts, logs and converts errors of calls, or `handler` itself if it is of another kind."""
    if handler is None or method.startswith(_UNLOGGED_PREFIXES):
        return handler
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(
            _unary(handler.unary_unary, method), handler.request_deserializer, handler.response_serializer
        )
    if handler.unary_stream is not None:
        return grpc.unary_stream_rpc_method_handler(
            _stream(handler.unary_stream, method), handler.request_deserializer, handler.response_serializer
        )
    return handler


def _unary(behaviour: Callable[[Any, Context], Awaitable[Any]], method: str) -> Callable[[Any, Context], Any]:
    in_flight = _IN_FLIGHT.labels(method)

    async def call(request: Any, context: Context) -> Any:
        started = time.monotonic()
        in_flight.inc()
        try:
            try:
                with tracing.serving(method.lstrip("/"), context):
                    return await behaviour(request, context)
            except aio.AbortError:
                raise
            except Exception as exc:
                status = _status(exc, method)
            # gRPC keeps the exception from `abort`, and its frames, until a garbage collection. Release the request.
            del request
            return await context.abort_with_status(status)
        finally:
            in_flight.dec()
            _report(method, context, started)

    return call


def _stream(
    behaviour: Callable[[Any, Context], AsyncGenerator[Any, None]], method: str
) -> Callable[[Any, Context], Any]:
    in_flight = _IN_FLIGHT.labels(method)

    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        started = time.monotonic()
        in_flight.inc()
        responses: AsyncGenerator[Any, None] | None = None
        try:
            try:
                with tracing.serving(method.lstrip("/"), context):
                    async with aclosing(behaviour(request, context)) as responses:
                        async for response in responses:
                            yield response
                return
            except aio.AbortError:
                raise
            except Exception as exc:
                status = _status(exc, method)
            del request, responses  # As above.
            await context.abort_with_status(status)
        finally:
            in_flight.dec()
            _report(method, context, started)

    return call


class Measurement:
    """The measurement of a call that gRPC does not know, because it is one of many on a stream."""

    __slots__ = ("_method", "_started")

    def __init__(self, method: str) -> None:
        """Count a call in progress."""
        self._method, self._started = method, time.monotonic()
        _in_flight(method).inc()

    def end(self, code: str) -> None:
        """Count the end of the call, with the name of its status code."""
        _in_flight(self._method).dec()
        _seconds(self._method, code).observe(time.monotonic() - self._started)


def _status(exc: Exception, method: str) -> grpc.Status:
    return to_status(exc if isinstance(exc, ServiceError) else internal_error(exc, method))


def internal_error(exc: Exception, method: str) -> ServiceError:
    """Log an unexpected exception, and return the error for the caller."""
    _log.error("RPC handler failed", extra={"method": method}, exc_info=exc)
    return InternalError("Internal error.")


def _report(method: str, context: Context, started: float) -> None:
    seconds = time.monotonic() - started
    code = _code(context.code())
    _seconds(method, code).observe(seconds)
    if _log.isEnabledFor(logging.DEBUG):
        _log.debug("rpc", extra={"method": method, "code": code, "duration_ms": round(seconds * 1000, 1)})


@cache
def _in_flight(method: str) -> Gauge:
    return _IN_FLIGHT.labels(method)


@cache
def _seconds(method: str, code: str) -> Histogram:
    return _SECONDS.labels(method, code)


def _code(code: Any) -> str:
    """Return the name of a status code; `OK` if the handler has not set one."""
    if not code:
        return "OK"
    return code.name if isinstance(code, grpc.StatusCode) else _NAMES.get(code, "UNKNOWN")
