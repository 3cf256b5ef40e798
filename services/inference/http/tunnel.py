"""Tunnels through an HTTP proxy (RFC 9110, §9.3.6). The proxy sees the server's name, but no request."""

import asyncio
import base64
import re
from typing import cast

from services.common.runtime.http_proxy import Proxy
from services.inference.http.errors import ConnectionLost, ProxyRefused
from services.inference.http.origin import Origin

_HEAD_BYTES_MAX = 64 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")


def proxy_authorization(proxy: Proxy) -> bytes:
    """Return the header line with a proxy's credentials; empty if it requires none."""
    if not proxy.user:
        return b""
    credentials = f"{proxy.user}:{proxy.password}".encode("latin-1")
    return b"Proxy-Authorization: Basic " + base64.b64encode(credentials) + b"\r\n"


class Tunnel(asyncio.Protocol):
    """A connection to a proxy, until it has become a tunnel."""

    def __init__(self) -> None:
        self._head = b""
        self._answered = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Collect the head of the proxy's response."""
        self._head += data
        if b"\r\n\r\n" in self._head or len(self._head) > _HEAD_BYTES_MAX:
            self._end()

    def eof_received(self) -> None:
        """End the wait for the response; the transport closes itself."""
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the wait for the response."""
        self._end()

    async def open(self, origin: Origin, proxy: Proxy) -> None:
        """Request a tunnel.

        Raises:
            ProxyRefused: The proxy's response is not 2xx.
            ConnectionLost: The proxy closed the connection.
        """
        host = origin.authority.encode("ascii")
        head = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (host, host, proxy_authorization(proxy))
        self._transport.write(head)
        await self._answered
        if not self._head:
            raise ConnectionLost
        match = _STATUS.match(self._head)
        status = int(match[1]) if match else 0
        # The server sends nothing before it has received something, so more than the head is not from the server.
        _, end, rest = self._head.partition(b"\r\n\r\n")
        if not 200 <= status < 300 or not end or rest:
            raise ProxyRefused(status)

    def _end(self) -> None:
        if not self._answered.done():
            self._answered.set_result(None)
