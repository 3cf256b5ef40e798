"""One HTTP/1.1 connection as a load generator wants it: requests as ready bytes, and the moments of what came back."""

import asyncio
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import httptools

from bench.closed_loop import NotAnswered
from bench.contenders import Contender


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; moments are those of `time.perf_counter`."""

    status: int
    body: bytes
    began: float
    """When the first bytes of the body came; of an event stream, its first event."""
    ended: float


class Connection(asyncio.Protocol):
    """A connection that is kept alive; it has one request at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    async def ask(self, request: bytes) -> Reply:
        """Send one request and return its whole answer.

        Raises:
            NotAnswered: The connection ended first.
        """
        self._reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._begun = asyncio.Event()
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._transport.write(request)
        return await self._reply

    async def until_begun(self) -> None:
        """Return when the body of the answer that is awaited has begun."""
        # The task that asks may not have run yet.
        await asyncio.sleep(0)
        await self._begun.wait()

    def close(self) -> None:
        """Close it."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        """Keep a part of the body."""
        if not self._parts:
            self._began = time.perf_counter()
            self._begun.set()
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """Give the answer to whoever waits."""
        now = time.perf_counter()
        began = self._began if self._parts else now
        self._reply.set_result(Reply(self._parser.get_status_code(), b"".join(self._parts), began, now))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail whoever still waits."""
        if hasattr(self, "_reply") and not self._reply.done():
            self._reply.set_exception(NotAnswered(f"the connection ended before the answer: {exc}"))


async def connect(contender: Contender) -> Connection:
    """Open a connection to where the contender's chat requests go."""
    parts = urlsplit(contender.url)
    _, connection = await asyncio.get_running_loop().create_connection(
        Connection, parts.hostname or "", parts.port or 80
    )
    return connection


def request(contender: Contender, body: bytes) -> bytes:
    """Return a POST of `body` as it goes over the wire."""
    parts = urlsplit(contender.url)
    headers = {
        "Host": parts.netloc,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **contender.headers,
    }
    lines = [f"POST {parts.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + body
