"""Calls between services that share a process: straight to the handler, without bytes and sockets in between.

On one machine all services may live in one process (services/local/worker.py). A call to an address that is served in
the caller's own process then goes to the very handler that the gRPC server has there, under the same interceptor, and
keeps gRPC's promises: a deadline, a status with its details, cancellation that reaches the handler. Messages are handed
over as they are; neither side changes one that it has sent or got.
"""

import asyncio
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import grpc
from grpc import aio

from services.common.rpc.in_process_calls import Call, StreamCall, UnaryCall, call_error
from services.common.rpc.interceptors import Handler, wrapped
from services.common.runtime.address import reachable


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
            raise call_error(grpc.StatusCode.UNAVAILABLE, "the service takes no calls")
        if method not in self._handlers:
            raise call_error(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        return self._handlers[method]


_servers: dict[str, InProcessServer] = {}


def share(addresses: Iterable[str]) -> None:
    """Serve these addresses to callers of this process without a wire; called before anything listens or calls.

    A server that listens on all addresses is called at one of them.
    """
    for address in addresses:
        _servers[address] = _servers[reachable(address)] = InProcessServer()


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
        return _Method(UnaryCall, self._server, method)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return _Method(StreamCall, self._server, method)

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

    def __init__(self, kind: type[Call], server: InProcessServer, name: str) -> None:
        self._kind, self._server, self._name = kind, server, name

    def __call__(self, request: Any, *, timeout: float | None = None, metadata: Any = (), **options: Any) -> Call:
        return self._kind(self._server.handler, self._name, request, timeout=timeout, metadata=metadata)
