"""Opening of connections: directly or through a proxy, with TLS where the server has it."""

import asyncio
import ssl
from collections.abc import Callable

from services.common.runtime.http_proxy import Proxy
from services.inference.http.connection import Connection
from services.inference.http.errors import ConnectError, HTTPClientError
from services.inference.http.origin import Origin
from services.inference.http.resolver import Resolver
from services.inference.http.tunnel import Tunnel


class Connector:
    """Opens connections to one server."""

    def __init__(
        self, origin: Origin, *, proxy: Proxy | None, proxy_origin: Origin | None, tls: ssl.SSLContext | None
    ) -> None:
        """Create a connector.

        Args:
            origin: The server.
            proxy: Proxy to use; None connects directly.
            proxy_origin: Where the proxy is; None without one.
            tls: Settings of TLS. Required if the server or the proxy has it.
        """
        self._origin = origin
        self._proxy = proxy
        self._first = proxy_origin or origin
        """What the sockets are connected to."""
        self._tls = tls
        self._resolver = Resolver(self._first)

    async def connect(self, on_lost: Callable[[Connection], None]) -> Connection:
        """Open a connection.

        Args:
            on_lost: Called after the connection has been closed, by whichever side.

        Raises:
            ConnectError: The connection could not be opened.
        """
        try:
            return await self._connect(on_lost)
        except ConnectError:
            raise
        except (OSError, UnicodeError, HTTPClientError) as exc:
            raise ConnectError from exc

    async def _connect(self, on_lost: Callable[[Connection], None]) -> Connection:
        sock = await self._resolver.open_socket()
        if not self._first.is_tls and not self._is_tunnelled:
            _, connection = await asyncio.get_running_loop().create_connection(lambda: Connection(on_lost), sock=sock)
            return connection
        plain, tunnel = await asyncio.get_running_loop().create_connection(Tunnel, sock=sock)
        try:
            return await self._secure(plain, tunnel, on_lost)
        except BaseException:
            plain.abort()  # Not `close`, which would wait for the other side to end TLS.
            raise

    async def _secure(
        self, transport: asyncio.Transport, tunnel: Tunnel, on_lost: Callable[[Connection], None]
    ) -> Connection:
        """Start TLS with the server, through a tunnel if there is a proxy."""
        if self._is_tunnelled and self._proxy is not None:
            if self._first.is_tls:
                transport = await self._start_tls(transport, tunnel, self._first)
            await tunnel.open(self._origin, self._proxy)
        connection = Connection(on_lost)
        await self._start_tls(transport, connection, self._origin if self._is_tunnelled else self._first)
        return connection

    @property
    def _is_tunnelled(self) -> bool:
        return self._proxy is not None and self._origin.is_tls

    async def _start_tls(
        self, transport: asyncio.Transport, protocol: asyncio.Protocol, origin: Origin
    ) -> asyncio.Transport:
        assert self._tls is not None
        secured = await asyncio.get_running_loop().start_tls(
            transport, protocol, self._tls, server_hostname=origin.server_hostname
        )
        if secured is None or secured.is_closing():
            raise ConnectError
        protocol.connection_made(secured)
        return secured
