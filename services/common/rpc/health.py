"""Health checks of a service, in gRPC's health protocol.

Kubernetes probes do not support TLS, so health can also be served in plaintext on a separate port.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.common.errors import StartError
from services.common.runtime.address import parse_address, resolve, why_not_bound

LIVENESS = "liveness"
"""Health check name for liveness probes: serving for as long as the process responds."""

PORT_OFFSET = 100
"""Offset of the default plaintext health port from the service's port."""
_PORT_MAX = 65_535

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """The health of a service: always alive, and ready from `begin` until `leave`."""

    def __init__(self, listen: str) -> None:
        """Serve health on the service's port, and in plaintext on `listen` unless it is empty."""
        self._servicer = health.aio.HealthServicer()
        self._listen = listen
        self._server: aio.Server | None = None
        self._is_open = False

    async def open(self) -> None:
        """Start the plaintext port, which reports alive and not ready. Further calls do nothing.

        Raises:
            StartError: The port is in use or cannot be used.
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
        """Also serve health on `server`, which must not have started yet."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def begin(self) -> None:
        """Report ready."""
        await self._servicer.set("", _SERVING)

    async def leave(self) -> None:
        """Report not ready, permanently."""
        await self._servicer.enter_graceful_shutdown()

    async def close(self) -> None:
        """Close the plaintext port and end the watches on it."""
        if self._server is not None:
            await self._server.stop(0)


def bind(server: aio.Server, listen: str) -> None:
    """Make `server` listen in plaintext.

    Raises:
        StartError: The address is in use or cannot be used.
    """
    with binding(listen):
        server.add_insecure_port(listen)


@contextmanager
def binding(listen: str) -> Iterator[None]:
    """Convert a failure to bind inside the block to an error with its cause, which gRPC does not report.

    Raises:
        StartError: The address is in use or cannot be used.
    """
    if listen.startswith("unix:"):
        reason = "the path cannot be used. Its folder must exist, and the path must be shorter than 107 bytes."
        with _failing_with(lambda: StartError(f"Cannot listen on {listen}: {reason}")):
            yield
        return
    resolve(parse_address(listen))
    with _failing_with(lambda: StartError(f"{why_not_bound(parse_address(listen))}. Choose another address.")):
        yield


@contextmanager
def _failing_with(error: Callable[[], StartError]) -> Iterator[None]:
    try:
        yield
    except RuntimeError as exc:
        raise error() from exc


def default_health_address(listen: str) -> str:
    """Return the default health address of a service's address; empty for a Unix socket or port 0.

    Raises:
        StartError: The port is so high that the health port would not exist.
    """
    if listen.startswith("unix:") or not parse_address(listen).port:
        return ""
    if parse_address(listen).port + PORT_OFFSET > _PORT_MAX:
        raise StartError(f"The health port of {listen} would be above {_PORT_MAX}. Set HEALTH_LISTEN, or a lower port.")
    return str(parse_address(listen).shifted(PORT_OFFSET))
