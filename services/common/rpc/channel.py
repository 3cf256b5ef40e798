"""gRPC client channels between the services."""

import asyncio
import json
from typing import Any

from grpc import aio

from services.common.rpc.failover_channel import FailoverChannel
from services.common.rpc.forwarding_channel import CurrentMethod, DrainingChannels, ForwardingChannel
from services.common.rpc.sizes import MESSAGE_BYTES_MAX, METADATA_BYTES_MAX
from services.common.rpc.tls import Certificates, TLSCredentials, channel_credentials, identity
from services.common.rpc.traced_channel import TracedChannel
from services.common.telemetry import tracing

# Calls rotate over the replicas, except those whose health check reports that they are draining.
_SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}})
_READY_SECONDS = 5.0

_OPTIONS = (
    # The default policy uses a single address, and a headless Service has many.
    ("grpc.service_config", _SERVICE_CONFIG),
    # Reconnect within a second to a service that is back, including gRPC's jitter of 20 %.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 500),
    # A restarted pod has a new address, and by default gRPC resolves a name at most once per 30 s.
    ("grpc.dns_min_time_between_resolutions_ms", 500),
    # Detect a dead peer within 15 s. Servers allow this interval (server.py).
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
    # An HTTP proxy in the environment is for the internet, never for calls between services.
    ("grpc.enable_http_proxy", 0),
)


def open_channel(target: str, certificates: Certificates | None = None, *, service: str = "") -> aio.Channel:
    """Return a channel that connects on first use. A channel to a `dns:` name fails over to new replicas.

    Args:
        target: A gRPC name such as `dns:///auth.stack.svc:50051`.
        certificates: Client certificate and trusted authorities; None uses plaintext.
        service: The service that the server's certificate must identify, such as `auth`. Not used in plaintext.
    """

    def open_one() -> aio.Channel:
        channel = _open(target, certificates, service=service)
        return TracedChannel(channel) if tracing.is_on() else channel

    return FailoverChannel(open_one) if target.startswith("dns:") else open_one()


def _open(target: str, certificates: Certificates | None, *, service: str) -> aio.Channel:
    if certificates is None:
        return aio.insecure_channel(target, options=_OPTIONS)
    return ReloadingChannel(target, certificates, service=service)


class ReloadingChannel(ForwardingChannel):
    """An mTLS channel that uses renewed certificates for new calls.

    The credentials of a gRPC channel are fixed at its creation, so the first call after a renewal opens a new channel.
    Calls in flight finish on the old one, however long they take.
    """

    def __init__(self, target: str, certificates: Certificates, *, service: str) -> None:
        """Create a channel to `target`, whose certificate must contain the identity of `service`."""
        self._target = target
        self._certificates = certificates
        # Verify the service's identity instead of the name or address that was dialled.
        self._options = (*_OPTIONS, ("grpc.ssl_target_name_override", identity(service)))
        self._credentials = certificates.current()
        self._channel = self._open(self._credentials)
        self._draining = DrainingChannels()

    def current(self) -> aio.Channel:
        credentials = self._certificates.current()
        if credentials is not self._credentials:
            self._draining.add(self._channel)
            self._credentials, self._channel = credentials, self._open(credentials)
        return self._channel

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return CurrentMethod(self, "unary_unary", args, kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return CurrentMethod(self, "unary_stream", args, kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return CurrentMethod(self, "stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return CurrentMethod(self, "stream_stream", args, kwargs)

    async def channel_ready(self) -> None:
        """Return when connected. Certificates renewed in the meantime are used."""
        while True:
            try:
                return await asyncio.wait_for(self.current().channel_ready(), _READY_SECONDS)
            except TimeoutError:
                continue

    async def close(self, grace: float | None = None) -> None:
        await asyncio.gather(self._channel.close(grace), self._draining.close(grace))

    def _open(self, credentials: TLSCredentials) -> aio.Channel:
        return aio.secure_channel(self._target, channel_credentials(credentials), options=self._options)
