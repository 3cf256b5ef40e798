"""Client channels: how one service finds and keeps its connections to another."""

import asyncio
import json
from typing import Any

from grpc import aio

from services.common.rpc.failover_channel import FailoverChannel
from services.common.rpc.forwarding_channel import CurrentMethod, DrainingChannels, ForwardingChannel
from services.common.rpc.tls import Certificates, Credentials, channel_credentials, identity
from services.common.rpc.traced_channel import TracedChannel
from services.common.telemetry import tracing

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
"""The largest gRPC message either side accepts."""
METADATA_BYTES_MAX = 64 * 1024
"""The largest metadata of an answer. gRPC's default of 8 KiB leaves no room for what a model wrote in vain."""

# Replicas are taken in turn, and one that says it is not ready any more is left before it stops.
_SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}})
_READY_SECONDS = 5.0

_OPTIONS = (
    # The default policy sends everything to one address; behind a headless Service there are many.
    ("grpc.service_config", _SERVICE_CONFIG),
    # A service that comes back is used again within a second, the jitter of a fifth included.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 500),
    # A pod that comes back has another address. By default a name that was looked up is not asked for again for 30 s.
    ("grpc.dns_min_time_between_resolutions_ms", 500),
    # A peer that vanished without a word is noticed within 15 s; servers allow this pace (server.py).
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_metadata_size", METADATA_BYTES_MAX),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
    # An HTTP proxy of the environment is for the internet, never for calls between services.
    ("grpc.enable_http_proxy", 0),
)


def open_channel(target: str, certificates: Certificates | None = None, *, service: str = "") -> aio.Channel:
    """Return a channel that connects when first used, and looks for successors where replicas come and go (`dns:`).

    Args:
        target: A gRPC name such as `dns:///auth.stack.svc:50051`.
        certificates: What to show the service, and whom to trust; None speaks plaintext.
        service: Whose certificate the other side must show, such as `auth`; unused in plaintext.
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
    """A channel over mTLS, whose new calls use renewed certificates without anybody's doing.

    gRPC fixes a channel's credentials when it is made. So a renewal makes a new channel, which the next call uses; what
    is under way ends where it began, however long that takes.
    """

    def __init__(self, target: str, certificates: Certificates, *, service: str) -> None:
        """Prepare a channel to `target`, whose certificate must bear the identity of `service`."""
        self._target = target
        self._certificates = certificates
        # The certificate says who a service is; where it was found (a name, an address) says nothing of it.
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
        """Return when connected; certificates that are put right meanwhile are used."""
        while True:
            try:
                return await asyncio.wait_for(self.current().channel_ready(), _READY_SECONDS)
            except TimeoutError:
                continue

    async def close(self, grace: float | None = None) -> None:
        await asyncio.gather(self._channel.close(grace), self._draining.close(grace))

    def _open(self, credentials: Credentials) -> aio.Channel:
        return aio.secure_channel(self._target, channel_credentials(credentials), options=self._options)
