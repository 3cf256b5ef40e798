"""What a service says of its own state, in gRPC's health protocol.

A cluster's probes know no TLS, so the same answers are given on a plaintext port of their own where one is wanted.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.common.errors import StartError
from services.common.runtime.address import parse_address, resolve, why_not_bound

LIVENESS = "liveness"
"""Health name that follows nothing but the process: while it answers, a restart would not help."""

PORT_OFFSET = 100
"""Added to a service's port, it is the port of its plaintext health where none is given."""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Alive always; ready from `begin` until `leave`."""

    def __init__(self, listen: str) -> None:
        """Answer beside the service, and on `listen` in plaintext unless it is empty."""
        self._servicer = health.aio.HealthServicer()
        self._listen = listen
        self._server: aio.Server | None = None
        self._is_open = False

    async def open(self) -> None:
        """Answer "alive" and "not ready" on the port of its own; a second time does nothing.

        Raises:
            StartError: The port is taken or cannot be used.
        """
        if self._is_open:
            return
        self._is_open = True
        await self._servicer.set("", _NOT_SERVING)
        await self._servicer.set(LIVENESS, _SERVING)
        if self._listen:
            self._server = aio.server(options=[("grpc.so_reuseport", 0)])
            self.answer_on(self._server)
            bind(self._server, self._listen)
            await self._server.start()

    def answer_on(self, server: aio.Server) -> None:
        """Answer on `server` too, once it starts."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def begin(self) -> None:
        """Say ready."""
        await self._servicer.set("", _SERVING)

    async def leave(self) -> None:
        """Say not ready, for good."""
        await self._servicer.enter_graceful_shutdown()

    async def close(self) -> None:
        """End the port of its own, and with it whoever watches."""
        if self._server is not None:
            await self._server.stop(0)


def bind(server: aio.Server, listen: str) -> None:
    """Let `server` listen in plaintext.

    Raises:
        StartError: The address is taken or cannot be used.
    """
    with binding(listen):
        server.add_insecure_port(listen)


@contextmanager
def binding(listen: str) -> Iterator[None]:
    """Have a failure to bind inside the block end the start with a sentence: gRPC itself says only that it failed.

    Raises:
        StartError: The address is taken or cannot be used.
    """
    if listen.startswith("unix:"):
        reason = "the path cannot be used; its folder must exist, and the whole must be shorter than 107 bytes"
        with _failing_with(lambda: StartError(f"cannot listen on {listen}: {reason}")):
            yield
        return
    resolve(parse_address(listen))
    with _failing_with(lambda: StartError(why_not_bound(parse_address(listen)))):
        yield


@contextmanager
def _failing_with(error: Callable[[], StartError]) -> Iterator[None]:
    try:
        yield
    except RuntimeError as exc:
        raise error() from exc


def default_health_address(listen: str) -> str:
    """Return the address of the health port that belongs to a service's address; a Unix socket has none."""
    if listen.startswith("unix:") or not parse_address(listen).port:
        return ""
    return str(parse_address(listen).shifted(PORT_OFFSET))
