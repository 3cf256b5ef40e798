"""One gRPC server from start to drain: listen, say when ready, and stop without dropping a call."""

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
from services.common.rpc.callers import CallerInterceptor, Callers, with_more
from services.common.rpc.channel import MESSAGE_BYTES_MAX
from services.common.rpc.health import LIVENESS, Health, bind, binding, default_health_address
from services.common.rpc.interceptors import ServiceInterceptor
from services.common.rpc.tls import Certificates, server_credentials
from services.common.runtime import process
from services.common.runtime.address import is_local
from services.common.runtime.settings import ServiceSettings

__all__ = ["LIVENESS", "GrpcServer"]

_log = logging.getLogger(__name__)
_NOBODY: Mapping[str, Sequence[str]] = MappingProxyType({})

_OPTIONS = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    # Callers reconnect at this age and so find new replicas. No grace beside it: a grace would cut running streams.
    ("grpc.max_connection_age_ms", 300_000),
    # The pace of our own channels' keepalive (channel.py).
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


class GrpcServer:
    """A gRPC server with health, reflection and our error mapping; over mTLS where the settings name certificates.

    Entered as a context, it says on its plaintext health port that the process is alive and not ready yet, so that what
    a service has to wait for before `run` (a schema, say) is no reason to start it again.

    Attributes:
        grpc: Where servicers are registered before `run`.
    """

    def __init__(self, listen: str, settings: ServiceSettings, *, callers: Callers = _NOBODY) -> None:
        """Prepare a server on `listen`: `127.0.0.1:50051`, `[::]:50051` or `unix:/run/auth.sock`.

        Args:
            listen: The address.
            settings: Of the whole service.
            callers: Whom each gRPC service expects, known by certificate; without mTLS nobody is asked.

        Raises:
            StartError: The certificates cannot be used, or there are none and strangers could reach the address.
        """
        self._certificates = _certificates(listen, settings)
        interceptors: list[aio.ServerInterceptor] = [ServiceInterceptor()]
        if self._certificates:
            interceptors.append(CallerInterceptor(with_more(callers, settings.tls_callers)))
        # Off but for siblings, so that a taken port is an error and not a silent sharing of calls with a stranger.
        options = (*_OPTIONS, ("grpc.so_reuseport", int(settings.reuse_port)))
        self.grpc = aio.server(interceptors=interceptors, options=options)
        self._listen = listen
        self._settings = settings
        self._ends_at = 0.0
        self._stopping = process.StopSignal()
        self._health = Health(settings.health_listen or (default_health_address(listen) if self._certificates else ""))

    async def __aenter__(self) -> Self:
        await self._health.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.grpc.stop(
            0
        )  # Where it was never started; unstopped, it would look for its loop when it is collected.
        await self._health.close()

    async def run(self, service_names: Sequence[str], *, on_drain: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGTERM or SIGINT, then drain and return.

        Args:
            service_names: Full names of the registered services, for reflection.
            on_drain: Called when callers have had the time to leave and calls in flight are waited for; ends streams
                that would never end by themselves.

        Raises:
            StartError: The address is taken or cannot be used.
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
        """What is left of the grace after `run`, for work that outlives its calls; nothing when the stop is urgent."""
        return 0.0 if self._stopping.is_urgent() else max(0.0, self._ends_at - time.monotonic())

    async def wait_in_grace(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` after `run`, for as long as the grace lasts, and then cancel it."""
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
        await self.grpc.start()
        await self._health.begin()

    def _bind(self) -> None:
        if self._certificates is None:
            bind(self.grpc, self._listen)
            return
        with binding(self._listen):
            self.grpc.add_secure_port(self._listen, server_credentials(self._certificates))

    async def _drain(self, on_drain: Callable[[], None]) -> None:
        """Fail readiness first, let callers move away, then let calls in flight finish; an urgent stop cuts them."""
        stopping = self._stopping
        await self._health.leave()
        await stopping.wait_for(seconds=self._settings.drain_seconds)
        on_drain()
        self._ends_at = time.monotonic() + self._settings.grace_seconds
        ending = asyncio.ensure_future(self.grpc.stop(self._settings.grace_seconds))
        await stopping.wait_for(ending, seconds=self._settings.grace_seconds)
        if stopping.is_urgent():
            # gRPC takes one stop at a time, and another only when the first one's grace is not waited for any more.
            ending.cancel()
            await asyncio.wait({ending})
        await self.grpc.stop(0)


def _certificates(listen: str, settings: ServiceSettings) -> Certificates | None:
    """Return the certificates to serve with; None serves plaintext."""
    certificates = settings.certificates()
    if certificates is None and not is_local(listen) and not settings.plaintext_allowed:
        raise StartError(
            f"{listen} can be reached from other machines, and there is no TLS: set TLS_CERTIFICATE_FILE, TLS_KEY_FILE "
            "and TLS_CA_FILE, or PLAINTEXT_ALLOWED=true where the network itself keeps strangers out"
        )
    return certificates
