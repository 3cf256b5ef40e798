"""The gRPC server of a service."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Self

from grpc import aio
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from services.common.errors import StartError
from services.common.rpc.callers import CallerInterceptor, Callers, merge_callers
from services.common.rpc.health import LIVENESS, Health, bind, binding, default_health_address
from services.common.rpc.interceptors import ServiceInterceptor
from services.common.rpc.sizes import MESSAGE_BYTES_MAX
from services.common.rpc.tls import Certificates, server_credentials
from services.common.runtime import process
from services.common.runtime.address import is_local
from services.common.runtime.settings import ServiceSettings

__all__ = ["LIVENESS", "GrpcServer"]

_log = logging.getLogger(__name__)
_DRAIN_SECONDS_MAX = 0.5
"""Callers watch the health of each replica and switch within milliseconds. A call that they made in between waits until
the server stops, so this must be shorter than the time-outs of calls."""
_NO_CALLERS: Mapping[str, Sequence[str]] = MappingProxyType({})

_OPTIONS = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    # Clients reconnect at this age and so find new replicas. A grace period would end running streams, so none is set.
    ("grpc.max_connection_age_ms", 300_000),
    # Allow the keepalive interval of the services' channels (channel.py).
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


class GrpcServer:
    """A gRPC server with health checks, reflection and error mapping. Uses mTLS if the settings include certificates.

    As a context manager, it serves its plaintext health port, which reports that the process is alive but not ready.
    Liveness probes then do not restart a service that waits before `run`, such as for a schema migration.

    Attributes:
        grpc: The server to register servicers on before `run`.
    """

    def __init__(self, listen: str, settings: ServiceSettings, *, callers: Callers = _NO_CALLERS) -> None:
        """Create a server.

        Args:
            listen: Address, such as `127.0.0.1:50051`, `[::]:50051` or `unix:/run/auth.sock`.
            settings: Settings of the service.
            callers: Identities that may call each gRPC service. Not checked without mTLS.

        Raises:
            StartError: The certificates cannot be used, or there are none and other machines can reach the address.
        """
        self._certificates = _certificates(listen, settings)
        interceptors: list[aio.ServerInterceptor] = [ServiceInterceptor()]
        if self._certificates:
            interceptors.append(CallerInterceptor(merge_callers(callers, settings.tls_callers)))
        # Off by default, so that a port in use is an error instead of silently sharing calls with another process.
        options = (*_OPTIONS, ("grpc.so_reuseport", int(settings.reuse_port)))
        self.grpc = aio.server(interceptors=interceptors, options=options)
        self._listen = listen
        self._settings = settings
        self._grace_ends_at = 0.0
        self._stopping = process.StopSignal()
        self._health = Health(settings.health_listen or (default_health_address(listen) if self._certificates else ""))

    async def __aenter__(self) -> Self:
        await self._health.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        # Also for a server that was never started, which would otherwise need its event loop when it is collected.
        await self.grpc.stop(0)
        await self._health.close()

    async def run(self, service_names: Sequence[str], *, on_drain: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGTERM or SIGINT, then drain and return.

        Args:
            service_names: Full names of the registered services, for reflection.
            on_drain: Called after the drain time, before calls in flight are awaited. It must end streams that would
                not end on their own.

        Raises:
            StartError: The address is in use or cannot be used.
        """
        self._stopping = process.stop_signal()
        await self._health.open()
        await self._start(service_names)
        _log.info("ready", extra={"listen": self._listen, "mtls": self._certificates is not None})
        await self._stopping.wait()
        await self._drain(on_drain)
        _log.info("stopped")

    @property
    def grace_left_seconds(self) -> float:
        """Seconds left of the grace period after `run`, for work that outlives its calls; 0 if the stop is urgent."""
        return 0.0 if self._stopping.is_urgent() else max(0.0, self._grace_ends_at - time.monotonic())

    async def wait_in_grace(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` after `run` until the grace period ends, and then cancel it."""
        task = asyncio.ensure_future(work)
        await self._stopping.wait_for(task, seconds=self.grace_left_seconds)
        if task.cancel():
            await asyncio.wait({task})
        else:
            task.result()

    async def _start(self, service_names: Sequence[str]) -> None:
        self._health.answer_on(self.grpc)
        names = [*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, self.grpc)
        self._bind()
        # Before the start, since a caller whose connection waits for it would see a service that is not ready.
        await self._health.begin()
        await self.grpc.start()

    def _bind(self) -> None:
        if self._certificates is None:
            bind(self.grpc, self._listen)
            return
        with binding(self._listen):
            self.grpc.add_secure_port(self._listen, server_credentials(self._certificates))

    async def _drain(self, on_drain: Callable[[], None]) -> None:
        """Report not ready, wait for callers to switch, then wait for calls in flight. An urgent stop cancels them."""
        stopping = self._stopping
        await self._health.leave()
        await stopping.wait_for(seconds=min(self._settings.drain_seconds, _DRAIN_SECONDS_MAX))
        on_drain()
        self._grace_ends_at = time.monotonic() + self._settings.grace_seconds
        ending = asyncio.ensure_future(self.grpc.stop(self._settings.grace_seconds))
        await stopping.wait_for(ending, seconds=self._settings.grace_seconds)
        if stopping.is_urgent():
            # gRPC handles a second stop only after the first one has been cancelled.
            ending.cancel()
            await asyncio.wait({ending})
        await self.grpc.stop(0)


def _certificates(listen: str, settings: ServiceSettings) -> Certificates | None:
    """Return the certificates to serve with, or None for plaintext."""
    certificates = settings.certificates()
    if certificates is None and not is_local(listen) and not settings.plaintext_allowed:
        raise StartError(
            f"{listen} can be reached from other machines and TLS is not configured. Set TLS_CERTIFICATE_FILE, "
            "TLS_KEY_FILE and TLS_CA_FILE, or set PLAINTEXT_ALLOWED=true if the network is private."
        )
    return certificates
