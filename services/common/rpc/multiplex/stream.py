"""One stream of a multiplexed RPC, with its calls in progress."""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol

from google.protobuf.message import DecodeError
from grpc import aio

from services.common.concurrency.fixed_timeout import FixedTimeout
from services.common.errors import ServiceError, Unavailable
from services.common.rpc.multiplex.messages import HEARTBEAT_SECONDS, WINDOW_BYTES, fitting
from services.common.rpc.status import UNREACHABLE, from_rpc, from_serialized

_log = logging.getLogger(__name__)
_SILENCE_SECONDS = 3 * HEARTBEAT_SECONDS
_ACKNOWLEDGED_BYTES = WINDOW_BYTES // 4
"""Consumed bytes of a call that are acknowledged together. Short answers are never acknowledged."""


class NotSent(Exception):
    """The stream ended before the call was sent, so that it can be made again."""


class OnEnd(Protocol):
    """Called when a stream has ended, or must get no further calls."""

    def __call__(self, stream: "CallStream", /, *, is_draining: bool) -> None: ...


class _Wait:
    """A call that waits for results."""

    __slots__ = ("changed", "error", "results")

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.error: Exception | None = None
        self.changed: asyncio.Future[None] | None = None

    def deliver(self, result: Any) -> None:
        """Add a result."""
        self.results.append(result)
        self._wake()

    def fail(self, error: Exception) -> None:
        """Make the caller fail after the results that it already has."""
        self.error = self.error or error
        self._wake()

    async def take(self) -> list[Any]:
        """Wait for results, and return at least one."""
        while not self.results:
            if self.error is not None:
                error, self.error = self.error, None
                try:
                    raise error
                finally:
                    del error  # Break the reference cycle of the error, its traceback and this frame.
            self.changed = asyncio.get_running_loop().create_future()
            await self.changed
        results, self.results = self.results, []
        return results

    def _wake(self) -> None:
        if self.changed is not None and not self.changed.done():
            self.changed.set_result(None)


class CallStream:
    """A stream and its calls in progress.

    Attributes:
        opened_at: Monotonic time at which it was created.
        received_at: Monotonic time of the last message from the service.
    """

    def __init__(
        self,
        rpc: Any,
        request_type: Callable[[], Any],
        *,
        timeout_seconds: float,
        unavailable_reason: str,
        on_end: OnEnd,
    ) -> None:
        """Use `rpc`, a started call of gRPC. `on_end` is called when it ends, and when its service is stopping."""
        self.opened_at = self.received_at = time.monotonic()
        self._rpc = rpc
        self._request_type = request_type
        self._unavailable_reason = unavailable_reason
        self._on_end = on_end
        self._unsent: dict[int, tuple[Any, int]] = {}
        """Calls for the next messages, with their sizes, by id."""
        self._request = request_type()
        """The rest of the next message."""
        self._has_request = asyncio.Event()
        self._waits: dict[int, _Wait] = {}
        self._busy_since = 0.0
        """Monotonic time since which calls are in progress."""
        self._last_id = 0
        self._is_draining = False
        self._is_ended = False
        self._timeouts: FixedTimeout[_Wait] = FixedTimeout(timeout_seconds, self._time_out)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def calls_in_progress(self) -> int:
        """Number of calls without a last result."""
        return len(self._waits)

    def is_silent(self, now: float) -> bool:
        """Return whether the service has missed several heartbeats, which it sends while calls are in progress."""
        return bool(self._waits) and now > max(self.received_at, self._busy_since) + _SILENCE_SECONDS

    async def begin(self) -> None:
        """Wait until the service serves the stream.

        Raises:
            aio.AioRpcError: It does not.
        """
        if await self._rpc.read() is aio.EOF:
            await self._rpc.code()
            raise aio.UsageError("the stream ended at once")
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._read()), loop.create_task(self._write())]

    async def call(self, call: Any, size: int = 0) -> Any:
        """Make a call of a size in bytes with one result, and return that.

        Raises:
            ServiceError: The call failed, or was lost.
            NotSent: The call was not made.
        """
        wait = self._start(call, size)
        try:
            result = (await wait.take())[0]
        finally:
            self._end_call(call.id, wait)
        if result.status:
            raise from_serialized(result.status)
        return result

    async def results(self, call: Any, size: int, *, size_of: Callable[[Any], int]) -> AsyncGenerator[Any, None]:
        """Make a call of a size in bytes and yield its results. The end of the generator cancels the call.

        `size_of` returns the size of a result in bytes, as the service counts it.

        Raises:
            ServiceError: The call failed, or was lost.
            NotSent: The call was not made.
        """
        wait = self._start(call, size)
        unacknowledged = 0
        try:
            while True:
                for result in await wait.take():
                    if result.status:
                        raise from_serialized(result.status)
                    yield result
                    if result.is_last:
                        return
                    unacknowledged += size_of(result)
                if unacknowledged >= _ACKNOWLEDGED_BYTES:
                    self._acknowledge(call.id, unacknowledged)
                    unacknowledged = 0
        finally:
            self._end_call(call.id, wait)

    def drain(self) -> None:
        """Start no further calls, and end the stream after those in progress."""
        self._is_draining = True
        self._has_request.set()

    async def close(self) -> None:
        """End the stream and its calls."""
        self._rpc.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._end(Unavailable(UNREACHABLE, reason=self._unavailable_reason))

    def _start(self, call: Any, size: int) -> _Wait:
        if self._is_ended:
            raise NotSent
        self._last_id += 1
        call.id = self._last_id
        self._unsent[call.id] = call, size
        if not self._waits:
            self._busy_since = time.monotonic()
        wait = self._waits[call.id] = _Wait()
        self._timeouts.watch(wait)
        self._has_request.set()
        return wait

    def _acknowledge(self, call_id: int, size: int) -> None:
        self._request.acknowledgements.add(id=call_id, bytes=size)
        self._has_request.set()

    def _end_call(self, call_id: int, wait: _Wait) -> None:
        """Forget a call, and cancel it if it is still in progress. One that is not sent yet is never made."""
        self._timeouts.forget(wait)
        is_in_progress = self._waits.pop(call_id, None) is not None
        if self._unsent.pop(call_id, None) is None and is_in_progress:
            self._request.cancelled_ids.append(call_id)
        if is_in_progress or self._is_draining:
            self._has_request.set()

    def _time_out(self, wait: _Wait) -> None:
        wait.results.clear()  # As with gRPC's deadline, a caller that is slower than its results does not get them.
        wait.fail(Unavailable(UNREACHABLE, reason=self._unavailable_reason))

    async def _read(self) -> None:
        """Deliver results until the stream ends."""
        error: Exception = Unavailable(UNREACHABLE, reason=self._unavailable_reason)
        try:
            while (response := await self._rpc.read()) is not aio.EOF:
                self.received_at = time.monotonic()
                for result in response.results:
                    self._deliver(result)
                if response.is_draining:
                    self._on_end(self, is_draining=True)
        except aio.AioRpcError as exc:
            error = from_rpc(exc, unavailable_reason=self._unavailable_reason)
        except (aio.UsageError, DecodeError) as exc:
            _log.error("A multiplexed stream failed.", exc_info=exc)
        finally:
            self._end(error)

    def _deliver(self, result: Any) -> None:
        wait = self._waits.pop(result.id, None) if result.is_last else self._waits.get(result.id)
        if wait is not None:
            wait.deliver(result)

    async def _write(self) -> None:
        """Send what has gathered while the previous message was sent."""
        try:
            while not (self._is_draining and self._is_idle()):
                await self._has_request.wait()
                self._has_request.clear()
                await self._write_some()
                while self._unsent:
                    await self._write_some()
            await self._rpc.done_writing()
        except (aio.AioRpcError, aio.UsageError, asyncio.InvalidStateError):
            self._rpc.cancel()  # The task that reads reports the error.

    def _is_idle(self) -> bool:
        """Return whether the service has nothing to do for this stream, and nothing to learn."""
        return not (self._waits or self._unsent or self._request.cancelled_ids)

    async def _write_some(self) -> None:
        request, self._request = self._request, self._request_type()
        count = fitting(size for _, size in self._unsent.values())
        for call_id in list(itertools.islice(self._unsent, count)):
            request.calls.append(self._unsent.pop(call_id)[0])
        await self._rpc.write(request)

    def _end(self, error: Exception) -> None:
        """Fail the calls in progress."""
        self._is_ended = True
        self._timeouts.close()
        for call_id, wait in self._waits.items():
            wait.fail(NotSent() if call_id in self._unsent else _copy(error))
        self._waits.clear()
        self._unsent.clear()
        self._rpc.cancel()
        for task in self._tasks[1:]:
            task.cancel()
        self._on_end(self, is_draining=False)


def _copy(error: Exception) -> Exception:
    """Return an error of its own for a call, whose handler may add details."""
    if isinstance(error, ServiceError):
        return type(error)(error.message, reason=error.reason, details=error.details)
    return error
