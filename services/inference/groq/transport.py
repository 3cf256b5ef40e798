"""HTTP transport to Groq over aiohttp, with the same requests as the official package.

The package's cheapest call takes several times the CPU that aiohttp takes for the same bytes. The transport therefore
bypasses it, using its base URL, credentials and headers. A test compares the two (tests/integration/test_wire.py).
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import httpx
from groq import AsyncGroq
from multidict import CIMultiDict
from yarl import URL

from services.common.runtime.http_proxy import Proxy
from services.inference.groq import response_handler

_CHAT_PATH = "/openai/v1/chat/completions"
_MODELS_PATH = "/openai/v1/models"
_MODELS_TIMEOUT_SECONDS = 5.0
_KEEPALIVE_SECONDS = 60


class HTTPTransport:
    """Sends requests to Groq with any of the operator's keys."""

    def __init__(
        self,
        sessions: Sequence[aiohttp.ClientSession],
        *,
        headers: Sequence[CIMultiDict[str] | None],
        base_url: str,
        proxy: Proxy | None,
    ) -> None:
        """Create a transport.

        Args:
            sessions: One session for each key.
            headers: For each session, headers to send in addition to its own; None for no others.
            base_url: Base URL of Groq, as in the `groq` package.
            proxy: Proxy to use; None connects directly.
        """
        self._sessions = sessions
        self._url = URL(base_url.rstrip("/") + _CHAT_PATH)
        self._models_url = URL(base_url.rstrip("/") + _MODELS_PATH)
        self._headers = headers
        # The credentials are in the URL, since aiohttp would add a proxy header to the session's headers.
        self._proxy = proxy.url_with_credentials if proxy else None

    async def post(self, body: bytes, *, key: int) -> aiohttp.ClientResponse:
        """Send a chat request with one key and return the response, of any status, once its headers have arrived.

        Raises:
            aiohttp.ClientError: There was no response.
        """
        return await self._sessions[key].post(
            self._url, data=body, headers=self._headers[key], proxy=self._proxy, allow_redirects=False
        )

    async def get_models(self, *, key: int) -> aiohttp.ClientResponse:
        """Request the model list with one key and return the response, as `post` does.

        Raises:
            aiohttp.ClientError: There was no response.
            TimeoutError: The response took too long.
        """
        timeout = aiohttp.ClientTimeout(total=_MODELS_TIMEOUT_SECONDS)
        return await self._sessions[key].get(
            self._models_url, headers=self._headers[key], proxy=self._proxy, allow_redirects=False, timeout=timeout
        )


@asynccontextmanager
async def open_transport(
    clients: Sequence[AsyncGroq],
    *,
    proxy: Proxy | None,
    connections_max: int,
    connect_timeout_seconds: float,
) -> AsyncIterator[HTTPTransport]:
    """Open a connection pool for the block.

    Args:
        clients: The package's clients, one for each key, with the same base URL.
        proxy: Proxy to use; None connects directly.
        connections_max: Maximum number of connections.
        connect_timeout_seconds: Time-out of connecting, including the DNS look-up and the wait for the pool.
    """
    # `connect` includes the DNS look-up, unlike `sock_connect`; it hangs if the network is down. There is no read
    # time-out, since answers are read to the end even after the caller got a time-out error.
    timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout_seconds)
    # The package's SSL context, so that the same certificate authorities are trusted.
    connector = aiohttp.TCPConnector(
        limit=connections_max, keepalive_timeout=_KEEPALIVE_SECONDS, ssl=httpx.create_ssl_context()
    )
    response_handler.install(connector)
    jar = aiohttp.DummyCookieJar()  # Ignore the cookies that Groq's edge sets.
    headers = [_headers_of(client) for client in clients]
    # Session headers are cheaper, since aiohttp does not merge them into every request. But aiohttp also sends them to
    # a proxy, which must not see Groq's key, so with a proxy they are request headers.
    none: list[CIMultiDict[str] | None] = [None] * len(headers)
    session_headers, request_headers = (none, headers) if proxy else (headers, none)
    async with connector, AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(
                aiohttp.ClientSession(
                    connector=connector, connector_owner=False, headers=own, timeout=timeout, cookie_jar=jar
                )
            )
            for own in session_headers
        ]
        yield HTTPTransport(sessions, headers=request_headers, base_url=str(clients[0].base_url), proxy=proxy)


def _headers_of(client: AsyncGroq) -> CIMultiDict[str]:
    """Return the headers that the package would send, but requesting uncompressed answers.

    A compressed answer's size is unknown until it is decompressed.
    """
    given = {name: value for name, value in client.default_headers.items() if isinstance(value, str)}
    own = {"x-stainless-retry-count": "0", "accept-encoding": "identity"}
    return CIMultiDict({**given, **own})
