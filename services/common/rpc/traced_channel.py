"""A channel that creates a span for each call and propagates the trace to the callee."""

import asyncio
import time
from typing import Any

import grpc
from grpc import aio
from opentelemetry.trace import Span, Status, StatusCode

from services.common.rpc.forwarding_channel import ForwardingChannel
from services.common.telemetry import tracing


class TracedChannel(ForwardingChannel):
    """Adds tracing to a channel. Returns that channel's own call objects."""

    def __init__(self, channel: aio.Channel) -> None:
        """Trace the calls of `channel`."""
        self._channel = channel

    def current(self) -> aio.Channel:
        return self._channel

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self._channel.unary_unary(*args, **kwargs), args[0])

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self._channel.unary_stream(*args, **kwargs), args[0])

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self._channel.stream_unary(*args, **kwargs), args[0])

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return _Method(self._channel.stream_stream(*args, **kwargs), args[0])


class _Method:
    """A traced RPC method."""

    __slots__ = ("_call", "_name")

    def __init__(self, call: Any, name: str) -> None:
        self._call, self._name = call, name

    def __call__(self, request: Any = None, *, metadata: Any = None, **options: Any) -> Any:
        span = tracing.calling(self._name.lstrip("/"))
        if span is None:
            return self._call(request, metadata=metadata, **options)
        call = self._call(request, metadata=(*(metadata or ()), *tracing.metadata_of(span)), **options)
        call.add_done_callback(_SpanFinisher(span))
        return call


class _SpanFinisher:
    """Ends a call's span when the call ends, with its status."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._task: asyncio.Task[None] | None = None

    def __call__(self, call: Any) -> None:
        self._task = asyncio.ensure_future(self._end(call, time.time_ns()))

    async def _end(self, call: Any, ended_ns: int) -> None:
        code = await call.code()
        self._span.set_attribute("rpc.grpc.status_code", code.value[0])
        if code is not grpc.StatusCode.OK:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(ended_ns)
