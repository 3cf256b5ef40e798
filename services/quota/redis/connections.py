"""Connections to Redis: one server, the nodes of a cluster, or a primary that Sentinels know."""

from dataclasses import dataclass, field
from typing import Any, cast

from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, MasterDownError, ReadOnlyError, ResponseError

from services.common.runtime.address import parse_address
from services.common.url_credentials import with_credentials, with_encoded_credentials
from services.quota.redis.batches import BatchRedis
from services.quota.redis.state import RedisState

_CONNECTIONS_MAX = 64


class ClusterRedis(RedisCluster):
    """A client of the nodes of a cluster.

    Attributes:
        state: Whether they answer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.state = RedisState()


Client = BatchRedis | ClusterRedis
"""One server, or the nodes of a cluster."""


@dataclass(frozen=True, slots=True)
class RedisTarget:
    """Where Redis is, and how to connect to it."""

    url: str = field(repr=False)
    """`redis://user:password@host:port/db`, `rediss://…` or `unix:///path`."""
    user: str = ""
    """In place of the URL's; empty leaves that."""
    password: str = field(default="", repr=False)
    """In place of the URL's; empty leaves that."""
    is_cluster: bool = False
    sentinels: tuple[str, ...] = ()
    """Addresses of Sentinels, `host:port`; with any, the URL's host is not used."""
    sentinel_service: str = ""
    sentinel_password: str = field(default="", repr=False)


def check_redis_url(url: str) -> str:
    """Return a URL that can be used.

    Raises:
        ValueError: It cannot; the message does not repeat it.
    """
    try:
        _options_of(url)
    except ValueError:
        raise ValueError("expected redis://user:password@host:6379/0, rediss://… or unix:///path") from None
    return url


def connect(target: RedisTarget | str, *, timeout_seconds: float, is_cluster: bool = False) -> Client:
    """Return a client that connects when first used, fails within the time-out, and never retries on its own.

    A hidden retry would run a script twice; the callers know what a lost answer means. A cluster's client follows moved
    slots, which is no retry: the node that sent it elsewhere did nothing.

    Args:
        target: Where Redis is; a string is its URL.
        timeout_seconds: Longest wait, to connect and to answer.
        is_cluster: Whether a target that is a string is a node of a cluster.
    """
    if isinstance(target, str):
        target = RedisTarget(target, is_cluster=is_cluster)
    options: dict[str, Any] = {"socket_timeout": timeout_seconds, "socket_connect_timeout": timeout_seconds}
    # What a server says that is no primary any more closes its connection, so that the next one finds the new primary.
    options |= {"retry": Retry(NoBackoff(), 0), "retry_on_error": [ReadOnlyError, MasterDownError, ClusterDownError]}
    options |= {"max_connections": _CONNECTIONS_MAX, "protocol": 2}
    url = with_credentials(target.url, user=target.user, password=target.password)
    if target.is_cluster:
        del options["retry_on_error"]  # It follows its nodes' roles itself.
        return cast(ClusterRedis, ClusterRedis.from_url(url, **options))
    options["redis_connect_func"] = _connect_to_primary
    if target.sentinels:
        return _through_sentinels(target, {**_options_of(url), **options}, timeout_seconds=timeout_seconds)
    return cast(BatchRedis, BatchRedis.from_url(url, **options))


async def _connect_to_primary(connection: Any) -> None:
    """Log in, and refuse a replica: it would answer what is read, from the past, and nothing that is written."""
    await connection.on_connect()
    await connection.send_command("ROLE", check_health=False)
    try:
        role = await connection.read_response()
    except ResponseError:
        return  # A user without the right to ask; then its writes tell.
    if role[0] not in (b"master", "master"):
        raise ReadOnlyError("a replica")


def _through_sentinels(target: RedisTarget, options: dict[str, Any], *, timeout_seconds: float) -> BatchRedis:
    # One that is silent must leave time for another within one time-out.
    part = timeout_seconds / (len(target.sentinels) + 1)
    of_sentinels: dict[str, Any] = {"socket_timeout": part, "socket_connect_timeout": part}
    of_sentinels |= {"retry": Retry(NoBackoff(), 0), "protocol": 2}
    if target.sentinel_password:
        of_sentinels["password"] = target.sentinel_password
    addresses = [(one.host, one.port) for one in map(parse_address, target.sentinels)]
    sentinel = Sentinel(addresses, sentinel_kwargs=of_sentinels)  # type: ignore[no-untyped-call]
    is_tls = options.pop("connection_class", None) is SSLConnection
    client = sentinel.master_for(target.sentinel_service, redis_class=BatchRedis, ssl=is_tls, **options)
    client.on_close = [one.aclose for one in sentinel.sentinels]
    return cast(BatchRedis, client)


def _options_of(url: str) -> dict[str, Any]:
    return dict(parse_url(with_encoded_credentials(url)))
