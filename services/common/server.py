"""One gRPC server from start to drain: listen, say when ready, and stop without dropping a call."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.common import process
from services.common.channel import MESSAGE_BYTES_MAX
from services.common.errors import StartError
from services.common.interceptors import ServiceInterceptor
from services.common.settings import ServiceSettings

LIVENESS = "liveness"
"""Health name that follows nothing but the process: while it answers, a restart would not help."""

_log = logging.getLogger(__name__)
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

_OPTIONS = (
    # Off, so that a taken port is an error and not a silent sharing of calls with a stranger.
    ("grpc.so_reuseport", 0),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    # Callers reconnect at this age and so find new replicas. No grace beside it: a grace would cut running streams.
    ("grpc.max_connection_age_ms", 300_000),
    # The pace of our own channels' keepalive (channel.py).
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


class GrpcServer:
    """A gRPC server with health, reflection and our error mapping.

    Attributes:
        grpc: Where servicers are registered before `run`.
    """

    def __init__(self, listen: str, settings: ServiceSettings) -> None:
        """Prepare a server on `listen`: `127.0.0.1:50051`, `[::]:50051` or `unix:/run/auth.sock`."""
        self.grpc = aio.server(interceptors=[ServiceInterceptor()], options=_OPTIONS)
        self._listen = listen
        self._settings = settings
        self._health = health.aio.HealthServicer()

    async def run(self, service_names: Sequence[str], *, on_drain: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGTERM or SIGINT, then drain and return.

        Args:
            service_names: Full names of the registered services, for reflection.
            on_drain: Called when callers have had the time to leave and calls in flight are waited for; ends streams
                that would never end by themselves.

        Raises:
            StartError: The address is taken or cannot be used.
        """
        stopping = process.stop_signal()
        await self._start(service_names)
        _log.info("ready", extra={"listen": self._listen})
        await stopping.wait()
        await self._drain(on_drain)
        _log.info("stopped")

    async def _start(self, service_names: Sequence[str]) -> None:
        await self._health.set("", _NOT_SERVING)
        await self._health.set(LIVENESS, _SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        names = [*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, self.grpc)
        try:
            self.grpc.add_insecure_port(self._listen)
        except RuntimeError as exc:
            raise StartError(f"cannot listen on {self._listen}: the address is in use or not this machine's") from exc
        await self.grpc.start()
        await self._health.set("", _SERVING)

    async def _drain(self, on_drain: Callable[[], None]) -> None:
        """Fail readiness first, let callers move away, then let calls in flight finish."""
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(self._settings.drain_seconds)
        on_drain()
        await self.grpc.stop(self._settings.grace_seconds)
