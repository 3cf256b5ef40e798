"""Chat requests to Groq over aiohttp itself, as the official package would send them.

The package's cheapest call costs several times the CPU that aiohttp takes to carry the same bytes. So chats go past it,
with its address, credentials and headers, and everything that is not hot stays with it. A test holds the two wires to
be equal (tests/integration/test_wire.py).
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import httpx
from groq import AsyncGroq
from multidict import CIMultiDict
from yarl import URL

from services.common.http_proxy import Proxy

_CHAT_PATH = "/openai/v1/chat/completions"
_KEEP_SECONDS = 60


class Wire:
    """Sends chat requests with any of the operator's keys."""

    def __init__(
        self,
        sessions: Sequence[aiohttp.ClientSession],
        *,
        headers: Sequence[CIMultiDict[str] | None],
        base_url: str,
        proxy: Proxy | None,
    ) -> None:
        """Send over `sessions`, one for each key, to the address that the package's `base_url` means.

        Args:
            sessions: Where requests are sent.
            headers: For each session, what is sent beside its own headers; None for nothing.
            base_url: Address of Groq.
            proxy: What to reach it through; None reaches it directly.
        """
        self._sessions = sessions
        self._url = URL(base_url.rstrip("/") + _CHAT_PATH)
        self._headers = headers
        # In the URL, not in a header for the proxy: aiohttp puts that one into the session's.
        self._proxy = proxy.url_with_credentials if proxy else None

    async def post(self, body: bytes, *, key: int) -> aiohttp.ClientResponse:
        """Send a body with one key and return the answer, whatever its status, as soon as its headers are there.

        Raises:
            aiohttp.ClientError: No answer.
        """
        return await self._sessions[key].post(
            self._url, data=body, headers=self._headers[key], proxy=self._proxy, allow_redirects=False
        )


@asynccontextmanager
async def open_wire(
    clients: Sequence[AsyncGroq],
    *,
    proxy: Proxy | None,
    connections_max: int,
    connect_timeout_seconds: float,
    first_byte_timeout_seconds: float,
) -> AsyncIterator[Wire]:
    """Open a pool of connections for the block.

    Args:
        clients: The package's clients, one for each key, all of one address.
        proxy: What to reach Groq through; None reaches it directly.
        connections_max: Most connections at the same time.
        connect_timeout_seconds: Longest wait for a connection, the look-up of its address and the pool included.
        first_byte_timeout_seconds: Longest wait for an answer's first byte, and for each next one.
    """
    # `connect`, not `sock_connect`: looking up the name is in it, which hangs where the network is cut.
    timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout_seconds, sock_read=first_byte_timeout_seconds)
    # The package's own context, so that the same authorities are believed.
    connector = aiohttp.TCPConnector(
        limit=connections_max, keepalive_timeout=_KEEP_SECONDS, ssl=httpx.create_ssl_context()
    )
    jar = aiohttp.DummyCookieJar()  # The edge in front of Groq sets cookies; ours are no browser's sessions.
    headers = [_headers_of(client) for client in clients]
    # A session's own headers are not merged into every request. But aiohttp shows them to a proxy too, so with one they
    # go with each request: Groq's key is not the proxy's business.
    of_session, of_request = ([None] * len(headers), headers) if proxy else (headers, [None] * len(headers))
    async with connector, AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(
                aiohttp.ClientSession(
                    connector=connector, connector_owner=False, headers=own, timeout=timeout, cookie_jar=jar
                )
            )
            for own in of_session
        ]
        yield Wire(sessions, headers=of_request, base_url=str(clients[0].base_url), proxy=proxy)


def _headers_of(client: AsyncGroq) -> CIMultiDict[str]:
    """Return what the package would send; of a client's retries and time-outs it tells in headers of its own."""
    given = {name: value for name, value in client.default_headers.items() if isinstance(value, str)}
    timeout = client.timeout
    read_seconds = timeout.read if isinstance(timeout, httpx.Timeout) else timeout
    told = {"x-stainless-retry-count": "0", "x-stainless-read-timeout": str(read_seconds)}
    return CIMultiDict({**given, **told})
