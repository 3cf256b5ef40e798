"""HTTP/1.1 client for one server. It follows no redirects, keeps no cookies and decompresses nothing."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager

import httpx

from services.common.runtime.http_proxy import Proxy
from services.inference.http.connection import Connection
from services.inference.http.connector import Connector
from services.inference.http.errors import ConnectionLost, StaleConnection
from services.inference.http.origin import Origin, origin_of
from services.inference.http.pool import ConnectionPool

_IDLE_SECONDS = 60.0


class Response:
    """A response whose head has arrived. Use it in a `with` block, which returns the connection to the pool."""

    __slots__ = ("_connection", "_pool", "headers", "status")

    def __init__(self, connection: Connection, pool: ConnectionPool) -> None:
        self._connection: Connection | None = connection
        self._pool = pool
        self.status: int = connection.status
        """HTTP status."""
        self.headers: Mapping[str, str] = connection.headers
        """Headers by lower-case name; the first one of several with the same name."""

    def __enter__(self) -> "Response":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def read(self) -> Awaitable[bytes]:
        """Return the bytes of the body that have arrived since the last call, after waiting for some; empty at the end.

        Raises:
            HTTPClientError: The body cannot be read to the end.
        """
        assert self._connection is not None, "the response is closed"
        return self._connection.read()

    async def read_beginning(self, bytes_max: int) -> bytes:
        """Return the first `bytes_max` bytes of the body, or all if there are fewer.

        Raises:
            HTTPClientError: The body cannot be read to its end or to this size.
        """
        assert self._connection is not None, "the response is closed"
        parts, size = [], 0
        while size < bytes_max and (part := await self._connection.read(bytes_max - size)):
            parts.append(part)
            size += len(part)
        return b"".join(parts)[:bytes_max]

    def close(self) -> None:
        """Return the connection to the pool, which closes it unless the body was read to the end."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection)


class HTTPClient:
    """Sends requests over the connections of a pool."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def send(self, head: bytes, body: bytes = b"", *, is_idempotent: bool = False) -> Response:
        """Send a request and return the response, of any status, once its head has arrived.

        Args:
            head: The request's head.
            body: The request's body.
            is_idempotent: Whether the request can be sent again if the connection is closed before the response. The
                server may have closed an idle connection at the moment when the request was sent.

        Raises:
            HTTPClientError: There was no response.
        """
        try:
            return await self._send(head, body)
        except ConnectionLost:
            if not is_idempotent:
                raise
        return await self._send(head, body)

    async def _send(self, head: bytes, body: bytes) -> Response:
        pool = self._pool
        connection = pool.take_idle() or await pool.acquire()
        try:
            await connection.send(head, body)
        except BaseException as exc:
            pool.release(connection)
            if isinstance(exc, StaleConnection):  # Those that have been idle for longer are probably closed too.
                pool.close_idle(until=connection.sent_at)
            raise
        return Response(connection, pool)


@asynccontextmanager
async def open_client(
    url: httpx.URL,
    *,
    proxy: Proxy | None,
    connections_max: int,
    connect_timeout_seconds: float,
    idle_seconds: float = _IDLE_SECONDS,
) -> AsyncIterator[HTTPClient]:
    """Open a client for the block.

    Args:
        url: Any URL of the server.
        proxy: Proxy to use; None connects directly.
        connections_max: Maximum number of connections.
        connect_timeout_seconds: Time-out of connecting, including the wait for a connection, the look-up of the
            server's addresses and TLS.
        idle_seconds: Time after which an idle connection is closed.
    """
    origin = origin_of(url)
    proxy_origin = origin_of(httpx.URL(proxy.url)) if proxy else None
    connector = Connector(origin, proxy=proxy, proxy_origin=proxy_origin, tls=_tls(origin, proxy_origin))
    pool = ConnectionPool(
        connector.connect,
        connections_max=connections_max,
        connect_timeout_seconds=connect_timeout_seconds,
        idle_seconds=idle_seconds,
    )
    try:
        yield HTTPClient(pool)
    finally:
        await pool.close()


def _tls(*origins: Origin | None) -> ssl.SSLContext | None:
    """Return the settings of TLS with the certificate authorities that httpx trusts; None if no server has TLS."""
    return httpx.create_ssl_context() if any(origin and origin.is_tls for origin in origins) else None
