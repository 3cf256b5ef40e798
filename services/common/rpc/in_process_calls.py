"""Calls to handlers of one's own process, with what gRPC promises of a call: a status, a deadline, cancellation.

A deadline ends the wait as soon as the handler has cleaned up behind itself; over gRPC, callers do not wait for that.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextvars import copy_context
from typing import Any, Self

import grpc
from grpc import aio

from services.common.rpc.interceptors import Handler
from services.common.telemetry import tracing

_ENDS = (aio.AbortError, aio.AioRpcError, TimeoutError, asyncio.CancelledError)
"""What a call can end with, other than an answer; the interceptor makes aborts of everything else."""
_closing: set["asyncio.Task[None]"] = set()


class _CallContext:
    """What a handler is told of its call, as far as handlers here ask."""

    __slots__ = ("_code", "_details", "_metadata", "_trailing")

    def __init__(self, metadata: Any) -> None:
        self._metadata = metadata or ()
        self._code: Any = None
        self._details = ""
        self._trailing: Any = ()

    def invocation_metadata(self) -> Any:
        return self._metadata

    def peer(self) -> str:
        return "inproc:"

    def code(self) -> Any:
        return self._code

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        self._code, self._details, self._trailing = code, details, trailing_metadata
        raise aio.AbortError

    def error(self) -> aio.AioRpcError:
        """Return what the caller gets to see of an abort."""
        return call_error(self._code, self._details, self._trailing)


class Call:
    """What both kinds of calls share: what was asked of whom until when, and an end that callbacks are told of."""

    __slots__ = ("_callbacks", "_context", "_deadline", "_find", "_method", "_own_context", "_request", "_status")

    def __init__(
        self, find: Callable[[str], Handler], method: str, request: Any, *, timeout: float | None, metadata: Any
    ) -> None:
        self._find, self._method, self._request = find, method, request
        self._context = _CallContext(metadata)
        self._deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        # A handler's span is its own: it must not become that of what its caller does next.
        self._own_context = copy_context() if tracing.is_on() else None
        self._callbacks: list[Callable[[Any], None]] = []
        self._status: grpc.StatusCode | None = None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Have `callback` called with the call when it ends."""
        self._callbacks.append(callback)

    async def code(self) -> grpc.StatusCode:
        """Return the status of a call that has ended."""
        assert self._status is not None, "the call has not ended"
        return self._status

    def _in_own_context(self, work: Awaitable[Any]) -> Awaitable[Any]:
        """Return a part of the handler's work, to be done apart from the caller's span where there is one."""
        if self._own_context is None:
            return work
        return asyncio.get_running_loop().create_task(_awaited(work), context=self._own_context)

    def _handler(self) -> Handler:
        """Return who answers, unless it is too late to ask."""
        if self._deadline is not None and asyncio.get_running_loop().time() >= self._deadline:
            raise TimeoutError
        return self._find(self._method)

    def _end(self, status: grpc.StatusCode) -> None:
        if self._status is not None:
            return
        self._status = status
        for callback in self._callbacks:
            callback(self)

    def _failed(self, exc: BaseException) -> BaseException:
        """Return what the caller gets for what went wrong."""
        error = self._error_of(exc)
        self._end(error.code() if isinstance(error, aio.AioRpcError) else grpc.StatusCode.CANCELLED)
        return error

    def _error_of(self, exc: BaseException) -> BaseException:
        if isinstance(exc, aio.AbortError):
            return self._context.error()
        if isinstance(exc, TimeoutError):
            return call_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        task = asyncio.current_task()
        is_over = self._status is not None  # Then it was this call that was cancelled, and its reader with it.
        if isinstance(exc, asyncio.CancelledError) and not is_over and task is not None and not task.cancelling():
            return call_error(grpc.StatusCode.CANCELLED, "the handler was cancelled")
        return exc


class UnaryCall(Call):
    """A call with one answer; it begins when it is awaited."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        try:
            behaviour = self._handler().unary_unary
            async with asyncio.timeout_at(self._deadline):
                answer = await self._in_own_context(behaviour(self._request, self._context))
        except _ENDS as exc:
            raise self._failed(exc) from exc.__cause__
        self._end(grpc.StatusCode.OK)
        return answer


class StreamCall(Call):
    """A call with many answers, which is iterated over once; it begins with the first step."""

    __slots__ = ("_is_interrupted", "_is_late", "_reader", "_responses", "_timer")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._responses: AsyncGenerator[Any, None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reader: asyncio.Task[Any] | None = None
        """Who waits for the next answer."""
        self._is_interrupted = False
        """Whether it was this call that cancelled its reader, and not the reader's own superior."""
        self._is_late = False

    def cancel(self) -> bool:
        """Cancel it, its reader's wait for an answer too; false when it had ended."""
        if self._status is not None:
            return False
        self._end(grpc.StatusCode.CANCELLED)
        self._interrupt()
        return True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._step()
        except StopAsyncIteration:
            self._end(grpc.StatusCode.OK)
            raise
        except _ENDS as exc:
            raise self._failed(exc) from exc.__cause__

    async def _step(self) -> Any:
        """Return the next answer. One timer is for the whole call: one for each step would cost more than the step."""
        if self._is_late:
            raise TimeoutError
        if self._status is grpc.StatusCode.CANCELLED:
            raise asyncio.CancelledError
        responses = self._responses or self._begin()
        self._reader = asyncio.current_task()
        try:
            return await self._in_own_context(anext(responses))
        except asyncio.CancelledError as exc:
            if self._is_late and self._reader is not None and self._reader.cancelling() == 1:
                raise TimeoutError from exc
            raise
        finally:
            self._let_reader_go()

    def _begin(self) -> AsyncGenerator[Any, None]:
        responses: AsyncGenerator[Any, None] = self._handler().unary_stream(self._request, self._context)
        self._responses = responses
        if self._deadline is not None:
            self._timer = asyncio.get_running_loop().call_at(self._deadline, self._expire)
        return responses

    def _expire(self) -> None:
        """End the call, whether its reader waits for an answer or is elsewhere."""
        self._is_late = True
        if self._reader is None:
            self._end(grpc.StatusCode.DEADLINE_EXCEEDED)
        self._interrupt()

    def _interrupt(self) -> None:
        """End the handler's work. Where a reader waits for it, it runs in that one's task and cannot be closed."""
        if self._reader is None:
            self._close()
        elif not self._is_interrupted:
            self._is_interrupted = self._reader.cancel()

    def _let_reader_go(self) -> None:
        """Take back what was done to the reader, and close a handler that answered all the same."""
        if self._is_interrupted and self._reader is not None:
            self._reader.uncancel()
            self._is_interrupted = False
            self._close()
        self._reader = None

    def _end(self, status: grpc.StatusCode) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super()._end(status)

    def _close(self) -> None:
        if self._responses is None:
            return
        task = asyncio.get_running_loop().create_task(_awaited(self._responses.aclose()))
        _closing.add(task)
        task.add_done_callback(_closing.discard)


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


def call_error(code: grpc.StatusCode, details: str, trailing_metadata: Any = ()) -> aio.AioRpcError:
    return aio.AioRpcError(code, aio.Metadata(), aio.Metadata(*trailing_metadata), details)
