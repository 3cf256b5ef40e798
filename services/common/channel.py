"""Client channels: how one service finds and keeps its connections to another."""

import json

from grpc import aio

MESSAGE_BYTES_MAX = 16 * 1024 * 1024
"""The largest gRPC message either side accepts."""

_SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})

_OPTIONS = (
    # The default policy sends everything to one address; behind a headless Service there are many.
    ("grpc.service_config", _SERVICE_CONFIG),
    # A service that comes back is used again within a second, the jitter of a fifth included.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 500),
    # A peer that vanished without a word is noticed within 15 s; servers allow this pace (server.py).
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    # An HTTP proxy of the environment is for the internet, never for calls between services.
    ("grpc.enable_http_proxy", 0),
)


def open_channel(target: str) -> aio.Channel:
    """Return a channel to `target`, a gRPC name such as `dns:///auth.stack.svc:50051`; it connects when first used."""
    return aio.insecure_channel(target, options=_OPTIONS)
