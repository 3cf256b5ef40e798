"""HTTP transport to Groq, with the same requests as the official package.

The package's cheapest call takes several times the CPU that the same bytes take here (decision 0030). The transport
therefore bypasses it, using its base URL, credentials and headers. A test compares the two
(tests/integration/test_wire.py).
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx
from groq import AsyncGroq

from services.common.runtime.http_proxy import Proxy
from services.inference.http.client import HTTPClient, Response, open_client
from services.inference.http.tunnel import proxy_authorization

_CHAT_PATH = "/openai/v1/chat/completions"
_MODELS_PATH = "/openai/v1/models"


class HTTPTransport:
    """Sends requests to Groq with any of the operator's keys."""

    def __init__(self, client: HTTPClient, *, headers: Sequence[bytes], base_url: str, is_absolute: bool) -> None:
        """Create a transport.

        Args:
            client: HTTP client for Groq.
            headers: Header lines of each key.
            base_url: Base URL of Groq, as in the `groq` package.
            is_absolute: Whether requests contain the whole URL, for a proxy that does not tunnel.
        """
        self._client = client
        chat, models = (httpx.URL(base_url.rstrip("/") + path) for path in (_CHAT_PATH, _MODELS_PATH))
        self._posts = [_head("POST", chat, lines, is_absolute) + b"Content-Length: " for lines in headers]
        """The heads of chat requests, up to the length, for each key."""
        self._gets = [_head("GET", models, lines, is_absolute) + b"\r\n" for lines in headers]

    async def post(self, body: bytes, *, key: int) -> Response:
        """Send a chat request with one key and return the response, of any status, once its head has arrived.

        Raises:
            HTTPClientError: There was no response.
        """
        return await self._client.send(b"%b%d\r\n\r\n" % (self._posts[key], len(body)), body)

    async def get_models(self, *, key: int) -> Response:
        """Request the model list with one key and return the response, as `post` does.

        Raises:
            HTTPClientError: There was no response.
        """
        return await self._client.send(self._gets[key], is_idempotent=True)


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
        connect_timeout_seconds: Time-out of connecting, including the DNS look-up and the wait for the pool. There is
            no other time-out, since answers are read to the end even after the caller got a time-out error.
    """
    url = clients[0].base_url
    # Requests through a tunnel have no header of the proxy's, and the proxy sees none of theirs.
    is_absolute = proxy is not None and url.scheme == "http"
    for_proxy = proxy_authorization(proxy) if proxy and is_absolute else b""
    headers = [_header_lines(client) + for_proxy for client in clients]
    async with open_client(
        url, proxy=proxy, connections_max=connections_max, connect_timeout_seconds=connect_timeout_seconds
    ) as client:
        yield HTTPTransport(client, headers=headers, base_url=str(url), is_absolute=is_absolute)


def _head(method: str, url: httpx.URL, headers: bytes, is_absolute: bool) -> bytes:
    """Return a request's head without its end."""
    target = str(url).encode("ascii") if is_absolute else url.raw_path
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b" % (method.encode("ascii"), target, url.netloc, headers)


def _header_lines(client: AsyncGroq) -> bytes:
    """Return the headers that the package would send, but requesting uncompressed answers.

    A compressed answer's size is unknown until it is decompressed.
    """
    given = {name: value for name, value in client.default_headers.items() if isinstance(value, str)}
    own = {"x-stainless-retry-count": "0", "accept-encoding": "identity"}
    headers = httpx.Headers({**given, **own})
    return b"".join(b"%b: %b\r\n" % header for header in headers.raw)
