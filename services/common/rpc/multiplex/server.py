"""Server of a multiplexed RPC: each call runs in a task of its own."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from grpc import aio

from services.common.errors import ServiceError
from services.common.rpc.interceptors import Measurement, internal_error
from services.common.rpc.multiplex.messages import HEARTBEAT_SECONDS, WINDOW_BYTES, fitting
from services.common.rpc.status import code_of, serialized_status
from services.common.rpc.types import Context

Put = Callable[[Any, int], Awaitable[None]]
"""Sends a result of a call, of a size in bytes; waits while the caller has too much that it has not consumed."""
Handle = Callable[[Any, Put], Awaitable[None]]
"""Answers a call, whose last result has `is_last`. A `ServiceError` is sent as the last result."""


class MultiplexServer:
    """The streams of one RPC that are open."""

    def __init__(
        self,
        handle: Handle,
        *,
        response_type: Callable[..., Any],
        result_type: Callable[..., Any],
        method_of: Callable[[Any], str],
    ) -> None:
        """Create a server.

        Args:
            handle: Answers a call.
            response_type: Type of the RPC's responses.
            result_type: Type of a result.
            method_of: Returns the full name of the RPC that a call stands for, for metrics.
        """
        self.handle = handle
        self.response_type = response_type
        self.result_type = result_type
        self.method_of = method_of
        self._streams: set[_Stream] = set()
        self._is_draining = False

    async def serve(self, context: Context) -> None:
        """Serve one stream until its caller ends it."""
        stream = _Stream(self, context)
        self._streams.add(stream)
        try:
            await stream.run(is_draining=self._is_draining)
        finally:
            self._streams.discard(stream)

    def drain(self) -> None:
        """Make callers start no further calls here. Calls in progress continue."""
        self._is_draining = True
        for stream in self._streams:
            stream.announce_drain()


class _Call:
    """A call in progress."""

    __slots__ = ("has_room", "is_complete", "task", "unacknowledged")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.unacknowledged = 0
        self.is_complete = False
        self.has_room: asyncio.Event | None = None

    def acknowledge(self, size: int) -> None:
        """Make room for further results."""
        self.unacknowledged -= size
        if self.has_room is not None:
            self.has_room.set()

    async def until_room(self) -> None:
        """Wait until the caller has consumed enough."""
        while self.unacknowledged >= WINDOW_BYTES:
            self.has_room = self.has_room or asyncio.Event()
            self.has_room.clear()
            await self.has_room.wait()


class _Stream:
    """One stream of one caller."""

    def __init__(self, server: MultiplexServer, context: Context) -> None:
        self._server = server
        self._context = context
        self._calls: dict[int, _Call] = {}
        self._results: list[tuple[Any, int]] = []
        self._is_draining = False
        self._is_heartbeat_due = False
        self._changed = asyncio.Event()

    async def run(self, *, is_draining: bool) -> None:
        """Answer calls until the caller ends the stream."""
        await self._context.write(self._server.response_type())
        if is_draining:
            self.announce_drain()
        loop = asyncio.get_running_loop()
        tasks = loop.create_task(self._write()), loop.create_task(self._send_heartbeats())
        try:
            # A caller ends the stream when it needs no further results, so the calls that are left are cancelled.
            await self._read()
        finally:
            for task in (*tasks, *(call.task for call in self._calls.values() if call.task is not None)):
                task.cancel()

    def announce_drain(self) -> None:
        """Make the caller start no further calls on this stream."""
        self._is_draining = True
        self._changed.set()

    async def _read(self) -> None:
        while (request := await self._context.read()) is not aio.EOF:
            for call in request.calls:
                self._start(call)
            for call_id in request.cancelled_ids:
                self._cancel(call_id)
            for one in getattr(request, "acknowledgements", ()):
                if call_in_progress := self._calls.get(one.id):
                    call_in_progress.acknowledge(one.bytes)

    def _start(self, call: Any) -> None:
        state = self._calls[call.id] = _Call()
        state.task = asyncio.get_running_loop().create_task(self._answer(call, state))
        # Not in the task, which may be cancelled before it runs.
        state.task.add_done_callback(lambda _: self._calls.pop(call.id, None))

    def _cancel(self, call_id: int) -> None:
        call = self._calls.get(call_id)
        if call is not None and call.task is not None:
            call.task.cancel()

    async def _answer(self, call: Any, state: _Call) -> None:
        async def put(result: Any, size: int) -> None:
            result.id = call.id
            state.is_complete = result.is_last
            state.unacknowledged += size
            self._put(result, size)
            if state.unacknowledged >= WINDOW_BYTES and not state.is_complete:
                await state.until_room()

        method = self._server.method_of(call)
        measurement = Measurement(method)
        try:
            await self._server.handle(call, put)
            if not state.is_complete:
                await put(self._server.result_type(is_last=True), 0)
            measurement.end("OK")
        except asyncio.CancelledError:
            measurement.end("CANCELLED")
            raise
        except Exception as exc:  # noqa: BLE001 - it fails this call only
            self._fail(call.id, exc if isinstance(exc, ServiceError) else internal_error(exc, method), measurement)

    def _fail(self, call_id: int, error: ServiceError, measurement: Measurement) -> None:
        measurement.end(code_of(error).name)
        status = serialized_status(error)
        self._put(self._server.result_type(id=call_id, is_last=True, status=status), len(status))

    def _put(self, result: Any, size: int) -> None:
        self._results.append((result, size))
        self._changed.set()

    async def _send_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            if self._calls:
                self._is_heartbeat_due = True
                self._changed.set()

    async def _write(self) -> None:
        """Send the results that have gathered while the previous message was sent."""
        is_announced = False
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._results or self._is_heartbeat_due or self._is_draining > is_announced:
                count, is_announced = fitting(size for _, size in self._results), self._is_draining
                results = [result for result, _ in self._results[:count]]
                del self._results[:count]
                self._is_heartbeat_due = False
                response = self._server.response_type(results=results, is_draining=is_announced)
                await self._context.write(response)
