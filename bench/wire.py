"""A minimal HTTP/1.1 client for load generation: it sends encoded requests and records response times."""

import asyncio
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import httptools

from bench.contenders import Contender


class NotAnswered(Exception):
    """Some requests were not answered with 200, so the measurement is invalid."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A response. Times are values of `time.perf_counter`."""

    status: int
    body: bytes
    began: float
    """When the first bytes of the body arrived; for an event stream, its first event."""
    ended: float


class Connection(asyncio.Protocol):
    """A keep-alive connection with one request at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    async def ask(self, request: bytes) -> Reply:
        """Send one request and return the complete response.

        Raises:
            NotAnswered: The connection was closed before the response ended.
        """
        self._reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._begun = asyncio.Event()
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._transport.write(request)
        return await self._reply

    async def until_begun(self) -> None:
        """Wait until the body of the pending response has begun."""
        # The task that sends the request may not have run yet.
        await asyncio.sleep(0)
        await self._begun.wait()

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse received data."""
        self._parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        """Store a part of the body."""
        if not self._parts:
            self._began = time.perf_counter()
            self._begun.set()
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """Complete the pending request."""
        now = time.perf_counter()
        began = self._began if self._parts else now
        self._reply.set_result(Reply(self._parser.get_status_code(), b"".join(self._parts), began, now))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the pending request, if any."""
        if hasattr(self, "_reply") and not self._reply.done():
            self._reply.set_exception(NotAnswered(f"the connection was closed before the response ended: {exc}"))


async def connect(contender: Contender) -> Connection:
    """Open a connection to the host of the contender's URL."""
    parts = urlsplit(contender.url)
    _, connection = await asyncio.get_running_loop().create_connection(
        Connection, parts.hostname or "", parts.port or 80
    )
    return connection


def request(contender: Contender, body: bytes, *, path: str = "") -> bytes:
    """Return an encoded POST request with `body`, to the path of chat requests unless another is given."""
    parts = urlsplit(contender.url)
    headers = {
        "Host": parts.netloc,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **contender.headers,
    }
    lines = [f"POST {path or parts.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + body
