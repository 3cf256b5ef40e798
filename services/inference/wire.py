"""Chat requests to Groq over aiohttp itself, as the official package would send them.

The package's cheapest call costs several times the CPU that aiohttp takes to carry the same bytes. So chats go past it,
with its address, credentials and headers. A test compares the two (tests/integration/test_wire.py).
"""

import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import httpx
from groq import AsyncGroq
from multidict import CIMultiDict
from yarl import URL

from services.inference import response_handler

_CHAT_PATH = "/openai/v1/chat/completions"
_MODELS_PATH = "/openai/v1/models"
_MODELS_TIMEOUT_SECONDS = 5.0
_KEEP_SECONDS = 60


class Wire:
    """Sends chat requests with any of the operator's keys."""

    def __init__(self, sessions: Sequence[aiohttp.ClientSession], *, base_url: str) -> None:
        """Send over `sessions`, one for each key, to the address that the package's `base_url` means."""
        self._sessions = sessions
        self._url = URL(base_url.rstrip("/") + _CHAT_PATH)
        self._models_url = URL(base_url.rstrip("/") + _MODELS_PATH)
        self._proxy = _proxy_for(self._url)

    async def post(self, body: bytes, *, key: int) -> aiohttp.ClientResponse:
        """Send a body with one key and return the answer, whatever its status, as soon as its headers are there.

        Raises:
            aiohttp.ClientError: No answer.
        """
        return await self._sessions[key].post(self._url, data=body, proxy=self._proxy, allow_redirects=False)

    async def get_models(self, *, key: int) -> aiohttp.ClientResponse:
        """Ask for the model list with one key and return the answer as `post` does.

        Raises:
            aiohttp.ClientError: No answer, or none in time.
        """
        timeout = aiohttp.ClientTimeout(total=_MODELS_TIMEOUT_SECONDS)
        session = self._sessions[key]
        return await session.get(self._models_url, proxy=self._proxy, allow_redirects=False, timeout=timeout)


@asynccontextmanager
async def open_wire(
    clients: Sequence[AsyncGroq],
    *,
    connections_max: int,
    connect_timeout_seconds: float,
) -> AsyncIterator[Wire]:
    """Open a pool of connections for the block.

    Args:
        clients: The package's clients, one for each key, all of one address.
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
    async with connector, AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(
                # One for each key: headers that a session brings are not merged into every request anew.
                aiohttp.ClientSession(
                    connector=connector,
                    connector_owner=False,
                    headers=_headers_of(client),
                    timeout=timeout,
                    cookie_jar=jar,
                )
            )
            for client in clients
        ]
        yield Wire(sessions, base_url=str(clients[0].base_url))


def _headers_of(client: AsyncGroq) -> CIMultiDict[str]:
    """Return the headers that the package would send, uncompressed answers asked for.

    A compressed answer would have to be decompressed before its size is known.
    """
    given = {name: value for name, value in client.default_headers.items() if isinstance(value, str)}
    own = {"x-stainless-retry-count": "0", "accept-encoding": "identity"}
    return CIMultiDict({**given, **own})


def _proxy_for(url: URL) -> str | None:
    """Return the proxy that the environment names for an address, looked up once and not at every request."""
    if urllib.request.proxy_bypass(url.host or ""):
        return None
    return urllib.request.getproxies().get(url.scheme)
