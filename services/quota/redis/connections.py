"""Redis clients for a single server, a cluster, or a primary found through Sentinels."""

from dataclasses import dataclass, field
from typing import Any, cast

from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, MasterDownError, ReadOnlyError, ResponseError

from services.common.redis.batch_client import BatchClient
from services.common.redis_url import redis_options
from services.common.runtime.address import parse_address
from services.common.url_credentials import with_credentials
from services.quota.redis.state import RedisState

_CONNECTIONS_MAX = 64


class BatchRedis(BatchClient):
    """A client of a single server.

    Attributes:
        state: Whether the server is usable.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.state = RedisState()


class ClusterRedis(RedisCluster):
    """A Redis Cluster client.

    Attributes:
        state: Whether the cluster is usable.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.state = RedisState()


Client = BatchRedis | ClusterRedis
"""A client of a single server or of a cluster."""


@dataclass(frozen=True, slots=True)
class RedisTarget:
    """Address and credentials of Redis."""

    url: str = field(repr=False)
    """`redis://user:password@host:port/db`, `rediss://…` or `unix:///path`."""
    user: str = ""
    """Overrides the URL's user unless empty."""
    password: str = field(default="", repr=False)
    """Overrides the URL's password unless empty."""
    is_cluster: bool = False
    sentinels: tuple[str, ...] = ()
    """Sentinel addresses, `host:port`. If there are any, the URL's host is ignored."""
    sentinel_service: str = ""
    sentinel_password: str = field(default="", repr=False)


def connect(target: RedisTarget | str, *, timeout_seconds: float, is_cluster: bool = False) -> Client:
    """Return a client that connects on first use, fails within the time-out and does not retry.

    A retry could run a script twice, so callers handle lost replies themselves. A cluster client follows redirections
    to moved slots. That is safe, since the redirecting node did not run the command.

    Args:
        target: Connection parameters, or a URL.
        timeout_seconds: Time-out of connecting, and of a command.
        is_cluster: Whether a `target` given as a URL is a cluster node; ignored otherwise.
    """
    if isinstance(target, str):
        target = RedisTarget(target, is_cluster=is_cluster)
    options: dict[str, Any] = {"socket_timeout": timeout_seconds, "socket_connect_timeout": timeout_seconds}
    # These replies mean that the server is no longer the primary. They close the connection, so that the next one
    # reaches the new primary.
    options |= {"retry": Retry(NoBackoff(), 0), "retry_on_error": [ReadOnlyError, MasterDownError, ClusterDownError]}
    options |= {"max_connections": _CONNECTIONS_MAX, "protocol": 2}
    url = with_credentials(target.url, user=target.user, password=target.password)
    if target.is_cluster:
        del options["retry_on_error"]  # The cluster client tracks the nodes' roles itself.
        return cast(ClusterRedis, ClusterRedis.from_url(url, **options))
    options["redis_connect_func"] = _connect_to_primary
    if target.sentinels:
        return _connect_through_sentinels(target, {**redis_options(url), **options}, timeout_seconds=timeout_seconds)
    return cast(BatchRedis, BatchRedis.from_url(url, **options))


async def _connect_to_primary(connection: Any) -> None:
    """Authenticate and reject a replica, which would serve stale reads and refuse writes."""
    await connection.on_connect()
    await connection.send_command("ROLE", check_health=False)
    try:
        role = await connection.read_response()
    except ResponseError:
        return  # The user may not run ROLE; a replica then fails on the first write.
    if role[0] not in (b"master", "master"):
        raise ReadOnlyError("a replica")


def _connect_through_sentinels(target: RedisTarget, options: dict[str, Any], *, timeout_seconds: float) -> BatchRedis:
    # Split the time-out, so that an unresponsive Sentinel leaves time to query the next one.
    sentinel_timeout = timeout_seconds / (len(target.sentinels) + 1)
    sentinel_options: dict[str, Any] = {"socket_timeout": sentinel_timeout, "socket_connect_timeout": sentinel_timeout}
    sentinel_options |= {"retry": Retry(NoBackoff(), 0), "protocol": 2}
    if target.sentinel_password:
        sentinel_options["password"] = target.sentinel_password
    addresses = [(address.host, address.port) for address in map(parse_address, target.sentinels)]
    sentinel = Sentinel(addresses, sentinel_kwargs=sentinel_options)  # type: ignore[no-untyped-call]
    is_tls = options.pop("connection_class", None) is SSLConnection
    client = sentinel.master_for(target.sentinel_service, redis_class=BatchRedis, ssl=is_tls, **options)
    client.on_close = [sentinel_client.aclose for sentinel_client in sentinel.sentinels]
    return cast(BatchRedis, client)
