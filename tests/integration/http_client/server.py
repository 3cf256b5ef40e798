"""A server on a real socket whose answers a test writes byte by byte, and clients for it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import httpx

from services.inference.http.client import HTTPClient, open_client

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass
class Peer:
    """The server's side of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    heads: list[bytes] = field(default_factory=list)
    """The heads of the requests received."""
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client has closed the connection."""

    async def request(self) -> bytes:
        """Return the body of the next request."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return await self.reader.readexactly(int(lengths[0]) if lengths else 0)

    async def send(self, *parts: bytes) -> None:
        """Send parts, each as a segment of its own if possible."""
        pause = 0.002 if len(parts) < 10 else 0
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(pause)

    async def until_closed(self) -> None:
        """Read until the client has closed the connection."""
        while await self.reader.read(65_536):
            pass


Handler = Callable[[Peer], Awaitable[None]]


@dataclass
class Server:
    """A running server."""

    url: str = ""
    peers: list[Peer] = field(default_factory=list)
    """Its connections, in the order of their acceptance."""

    @property
    def requests(self) -> int:
        """Number of requests received."""
        return sum(len(peer.heads) for peer in self.peers)


@asynccontextmanager
async def serving(
    handle: Handler, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Server]:
    """Run a server that handles each connection with `handle`, and closes it after that."""
    server, tasks = Server(), set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        peer = Peer(reader, writer)
        server.peers.append(peer)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
                await handle(peer)
        finally:
            peer.closed.set()
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError, ssl.SSLError):
                await writer.wait_closed()

    listener = await asyncio.start_server(serve, host, 0, ssl=tls)
    scheme = "https" if tls else "http"
    server.url = f"{scheme}://{host}:{listener.sockets[0].getsockname()[1]}"
    async with listener:
        yield server
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def answering(peer: Peer) -> None:
    """Answer each request with `ok` and keep the connection."""
    while True:
        await peer.request()
        await peer.send(OK)


def sending(*parts: bytes) -> Handler:
    """Return a handler that answers each request with these segments and keeps the connection."""

    async def handle(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(*parts)

    return handle


def closing(*parts: bytes) -> Handler:
    """Return a handler that answers one request with these segments and closes the connection."""

    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(*parts)

    return handle


@asynccontextmanager
async def client_of(
    url: str, *, connections_max: int = 10, connect_timeout_seconds: float = 5, idle_seconds: float = 60
) -> AsyncIterator[HTTPClient]:
    """Open a client without a proxy for the block."""
    async with open_client(
        httpx.URL(url),
        proxy=None,
        connections_max=connections_max,
        connect_timeout_seconds=connect_timeout_seconds,
        idle_seconds=idle_seconds,
    ) as client:
        yield client


async def fetch(client: HTTPClient, head: bytes = GET, body: bytes = b"", *, is_idempotent: bool = False) -> bytes:
    """Send a request and return the whole body of its response."""
    with await client.send(head, body, is_idempotent=is_idempotent) as response:
        return await response.read_beginning(100_000_000)


def post(body: bytes) -> bytes:
    """Return the head of a request with this body."""
    return b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % len(body)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, for five seconds at most."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)
