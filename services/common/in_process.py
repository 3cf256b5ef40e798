"""Calls between services that share a process: straight to the handler, without bytes and sockets in between.

On one machine all services may live in one process (services/local/worker.py). A call to an address that is served in
the caller's own process then goes to the very handler that the gRPC server has there, under the same interceptor, and
keeps gRPC's promises: a deadline, a status with its details, cancellation that reaches the handler. Messages are handed
over as they are; neither side changes one that it has sent or got.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Mapping
from contextvars import copy_context
from types import TracebackType
from typing import Any, Self

import grpc
from grpc import aio

from services.common import tracing
from services.common.interceptors import Handler, wrapped

_ENDS = (aio.AbortError, aio.AioRpcError, TimeoutError, asyncio.CancelledError)
"""What a call can end with, other than an answer; the interceptor makes aborts of everything else."""
_closing: set["asyncio.Task[None]"] = set()


class InProcessServer:
    """One service's handlers, for callers of its own process; open while the service takes calls."""

    def __init__(self) -> None:
        """Begin closed and empty."""
        self._handlers: dict[str, Handler] = {}
        self._is_open = asyncio.Event()

    def add(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Take over a service's handlers, by their methods' names."""
        for name, handler in handlers.items():
            method = f"/{service}/{name}"
            self._handlers[method] = wrapped(handler, method)

    def open(self) -> None:
        """Take calls from now on."""
        self._is_open.set()

    def close(self) -> None:
        """Refuse calls from now on; those under way end as they would."""
        self._is_open.clear()

    async def until_open(self) -> None:
        """Return when calls are taken."""
        await self._is_open.wait()

    def handler(self, method: str) -> Handler:
        """Return the handler of a method.

        Raises:
            aio.AioRpcError: It is closed, or has no such method.
        """
        if not self._is_open.is_set():
            raise _error(grpc.StatusCode.UNAVAILABLE, "the service takes no calls")
        if method not in self._handlers:
            raise _error(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        return self._handlers[method]


_servers: dict[str, InProcessServer] = {}


def share(addresses: Iterable[str]) -> None:
    """Serve these addresses to callers of this process without a wire; called before anything listens or calls."""
    _servers.update({address: InProcessServer() for address in addresses})


def server_at(address: str) -> InProcessServer | None:
    """Return what stands for an address in this process; None where calls take the wire."""
    return _servers.get(address)


class RecordingServer(aio.Server):
    """A gRPC server that also tells an `InProcessServer` which handlers it got."""

    def __init__(self, server: aio.Server, recorder: InProcessServer) -> None:
        """Stand before `server`."""
        self._server = server
        self._recorder = recorder

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        self._recorder.add(service_name, method_handlers)
        self._server.add_registered_method_handlers(service_name, method_handlers)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Any) -> None:
        self._server.add_generic_rpc_handlers(generic_rpc_handlers)

    def add_insecure_port(self, address: str) -> int:
        return self._server.add_insecure_port(address)

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        return self._server.add_secure_port(address, server_credentials)

    async def start(self) -> None:
        await self._server.start()

    async def stop(self, grace: float | None) -> None:
        await self._server.stop(grace)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        return await self._server.wait_for_termination(timeout)


class InProcessChannel(aio.Channel):
    """A channel to a service of the same process."""

    def __init__(self, server: InProcessServer) -> None:
        """Call `server`."""
        self._server = server

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Method(_UnaryCall, self._server, method)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Method(_StreamCall, self._server, method)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("no service takes a stream")

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("no service takes a stream")

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await asyncio.Event().wait()

    async def channel_ready(self) -> None:
        await self._server.until_open()

    async def close(self, grace: float | None = None) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        pass


class _Method:
    """One RPC method."""

    __slots__ = ("_kind", "_name", "_server")

    def __init__(self, kind: "type[_Call]", server: InProcessServer, name: str) -> None:
        self._kind, self._server, self._name = kind, server, name

    def __call__(self, request: Any, *, timeout: float | None = None, metadata: Any = (), **options: Any) -> "_Call":
        return self._kind(self._server, self._name, request, timeout=timeout, metadata=metadata)


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
        return _error(self._code, self._details, self._trailing)


class _Call:
    """What both kinds of calls share: what was asked of whom until when, and an end that callbacks are told of."""

    __slots__ = ("_callbacks", "_context", "_deadline", "_method", "_own_context", "_request", "_server", "_status")

    def __init__(
        self, server: InProcessServer, method: str, request: Any, *, timeout: float | None, metadata: Any
    ) -> None:
        self._server, self._method, self._request = server, method, request
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
        return self._server.handler(self._method)

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
            return _error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        task = asyncio.current_task()
        is_over = self._status is not None  # Then it was this call that was cancelled, and its reader with it.
        if isinstance(exc, asyncio.CancelledError) and not is_over and task is not None and not task.cancelling():
            return _error(grpc.StatusCode.CANCELLED, "the handler was cancelled")
        return exc


class _UnaryCall(_Call):
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


class _StreamCall(_Call):
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


def _error(code: grpc.StatusCode, details: str, trailing_metadata: Any = ()) -> aio.AioRpcError:
    return aio.AioRpcError(code, aio.Metadata(), aio.Metadata(*trailing_metadata), details)
