"""Chat requests to Groq over aiohttp itself, as the official package would send them.

The package's cheapest call costs several times the CPU that aiohttp takes to carry the same bytes. So chats go past it,
with its address, credentials and headers. A test compares the two (tests/integration/test_wire.py).
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
_KEEP_SECONDS = 60


class HTTPTransport:
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
        self._models_url = URL(base_url.rstrip("/") + _MODELS_PATH)
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

    async def get_models(self, *, key: int) -> aiohttp.ClientResponse:
        """Ask for the model list with one key and return the answer as `post` does.

        Raises:
            aiohttp.ClientError: No answer, or none in time.
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
    """Open a pool of connections for the block.

    Args:
        clients: The package's clients, one for each key, all of one address.
        proxy: What to reach Groq through; None reaches it directly.
        connections_max: Most connections at the same time.
        connect_timeout_seconds: Longest wait for a connection, the look-up of its address and the pool included.
    """
    # `connect`, not `sock_connect`: looking up the name is in it, which hangs where the network is cut. Reading has no
    # time-out here: what Groq does goes on after a time-out of ours, and is read to its end.
    timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout_seconds)
    # The package's own context, so that the same authorities are believed.
    connector = aiohttp.TCPConnector(
        limit=connections_max, keepalive_timeout=_KEEP_SECONDS, ssl=httpx.create_ssl_context()
    )
    response_handler.install(connector)
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
        yield HTTPTransport(sessions, headers=of_request, base_url=str(clients[0].base_url), proxy=proxy)


def _headers_of(client: AsyncGroq) -> CIMultiDict[str]:
    """Return the headers that the package would send, uncompressed answers asked for.

    A compressed answer would have to be decompressed before its size is known.
    """
    given = {name: value for name, value in client.default_headers.items() if isinstance(value, str)}
    own = {"x-stainless-retry-count": "0", "accept-encoding": "identity"}
    return CIMultiDict({**given, **own})
