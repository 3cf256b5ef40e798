"""Connections for batches: TLS, time-outs, and replies that are late, malformed or nobody's."""

import asyncio
import contextlib
import itertools
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from redis.exceptions import BusyLoadingError, ConnectionError, InvalidResponse, ResponseError

from services.quota.redis.connections import RedisTarget, connect
from tests.valkey_backend import valkey_server, valkey_url

__all__ = ["valkey_server", "valkey_url"]

Connect = Callable[..., Any]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
TIMEOUT_SECONDS = 0.3
_ROLE = b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"


@pytest.fixture
async def connected() -> AsyncIterator[Connect]:
    """A function that opens clients, which are closed after the test."""
    async with AsyncExitStack() as stack:

        def open_client(target: RedisTarget | str, timeout_seconds: float = 10) -> Any:
            client = connect(target, timeout_seconds=timeout_seconds)
            stack.push_async_callback(client.aclose)
            return client

        yield open_client


async def test_replies_are_in_order_and_a_failed_command_is_an_exception(valkey_url: str, connected: Connect) -> None:
    client, long = connected(valkey_url), "x" * 1_000_000
    commands: Sequence[Any] = [("SET", "a", long), ("HGET", "a", "b"), ("GET", "a"), ("GET", "absent"), ("ECHO", 7)]

    done, failed, text, absent, number = await client.run_batch(commands)

    assert (done, text, absent, number) == (b"OK", long.encode(), None, b"7")
    assert isinstance(failed, ResponseError)
    assert await client.run_batch([]) == []


async def test_a_connection_that_the_server_closed_while_it_was_idle_is_replaced(
    valkey_url: str, connected: Connect
) -> None:
    client = connected(valkey_url)
    ids = await asyncio.gather(*(client.run_batch([("CLIENT", "ID")]) for _ in range(3)))
    for (number,) in ids:
        assert await client.client_kill_filter(_id=number) == 1

    assert await client.run_batch([("ECHO", "new")]) == [b"new"]


async def test_closing_the_client_closes_idle_connections_and_those_in_use(valkey_url: str, connected: Connect) -> None:
    client, other = connected(valkey_url), connected(valkey_url)
    waiting = asyncio.create_task(client.run_batch([("BLPOP", "list", 5)]))
    await client.run_batch([("ECHO", "idle")])
    while not (await other.info("clients"))["blocked_clients"]:
        await asyncio.sleep(0)

    await client.aclose()
    await other.lpush("list", "last")

    assert await waiting == [[b"list", b"last"]]
    while len(await other.client_list()) > 1:
        await asyncio.sleep(0)


async def test_tls_verifies_the_server_and_the_url_selects_user_and_database(
    valkey_url: str, connected: Connect, tmp_path: Path
) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    for name, one in (("trusted", authority), ("other", stranger)):
        one.cert_pem.write_to_path(tmp_path / name)
    admin = connected(valkey_url)
    await admin.execute_command("ACL", "SETUSER", "ada", "on", ">secret", "~*", "+@all")
    async with _tls_in_front_of(valkey_url, authority) as port:
        url = f"rediss://ada:secret@localhost:{port}/3?ssl_ca_certs={tmp_path}"
        client = connected(f"{url}/trusted")

        found = await client.run_batch([("ACL", "WHOAMI"), ("SET", "name", "value")])

        assert found == [b"ada", b"OK"]
        (info,) = await admin.run_batch([("INFO", "keyspace")])
        assert b"db3:keys=1" in info
        await client.aclose()
        with pytest.raises(ssl.SSLError):
            await connected(f"{url}/other").run_batch([("PING",)])
    await admin.execute_command("ACL", "DELUSER", "ada")


async def test_a_time_out_is_that_of_each_batch_and_not_of_the_connection(valkey_url: str, connected: Connect) -> None:
    client, started = connected(valkey_url, TIMEOUT_SECONDS), time.monotonic()
    while time.monotonic() < started + 3 * TIMEOUT_SECONDS:
        await client.run_batch([("BLPOP", "nothing", TIMEOUT_SECONDS / 10)])
    started = time.monotonic()

    with pytest.raises(TimeoutError):
        await client.run_batch([("BLPOP", "nothing", 0)])

    assert TIMEOUT_SECONDS <= time.monotonic() - started < 3 * TIMEOUT_SECONDS
    assert await client.run_batch([("ECHO", "next")]) == [b"next"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", InvalidResponse),
        (b"+OK\r\n+late\r\n", InvalidResponse),
        (b"-LOADING Redis is loading the dataset in memory\r\n", BusyLoadingError),
        (b"$5\r\nhal", ConnectionError),
    ],
    ids=["another protocol", "two replies", "a server that loads", "half a reply"],
)
async def test_a_connection_with_an_unusable_reply_is_not_used_again(
    connected: Connect, answer: bytes, error: type[Exception]
) -> None:
    async with _server_that_answers(answer, b"$4\r\nnext\r\n") as port:
        client = connected(f"redis://127.0.0.1:{port}/0")
        with pytest.raises(error):
            await client.run_batch([("GET", "first")])

        assert await client.run_batch([("GET", "second")]) == [b"next"]
        await client.aclose()


async def test_bytes_that_come_while_a_connection_is_idle_are_no_reply(connected: Connect) -> None:
    sent = asyncio.Event()

    async def late(writer: asyncio.StreamWriter) -> None:
        if not sent.is_set():
            await sent.wait()
            writer.write(b"+late\r\n")

    async with _server_that_answers(b"+first\r\n", b"+second\r\n", afterwards=late) as port:
        client = connected(f"redis://127.0.0.1:{port}/0")
        assert await client.run_batch([("GET", "first")]) == [b"first"]
        sent.set()
        for _ in range(50):
            await asyncio.sleep(0)

        assert await client.run_batch([("GET", "second")]) == [b"second"]
        await client.aclose()


@pytest.mark.parametrize("is_late", [False, True], ids=["with a reply", "later"])
async def test_a_part_of_a_reply_without_a_command_does_not_shift_the_next_replies(
    connected: Connect, is_late: bool
) -> None:
    connections, is_idle = itertools.count(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_first = next(connections) == 0
        await reader.readuntil(b"ROLE\r\n")
        writer.write(_ROLE)
        if is_first:
            await reader.readuntil(b"first\r\n")
            writer.write(b"+first\r\n" if is_late else b"+first\r\n+la")
            await is_idle.wait()
            writer.write(b"+la" if is_late else b"")
        await reader.readuntil(b"b\r\n")
        writer.write(b"te\r\n+a\r\n" if is_first else b"+a\r\n")
        await asyncio.sleep(0.05)
        writer.write(b"+b\r\n")
        await reader.read()

    async with _serving(serve) as port:
        client = connected(f"redis://127.0.0.1:{port}/0")
        with contextlib.suppress(InvalidResponse):
            await client.run_batch([("GET", "first")])
        is_idle.set()
        await asyncio.sleep(0.05)

        assert await client.run_batch([("GET", "a"), ("GET", "b")]) == [b"a", b"b"]
        await client.aclose()


@asynccontextmanager
async def _server_that_answers(
    *answers: bytes, afterwards: Callable[[asyncio.StreamWriter], Awaitable[None]] | None = None
) -> AsyncIterator[int]:
    """Serve connections that each accept the role, give the next answer to a command, and end unless told otherwise."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"ROLE\r\n")
        writer.write(_ROLE)
        await reader.readuntil(b"GET\r\n")
        writer.write(left.pop(0))
        if afterwards:
            await afterwards(writer)
            await reader.read()

    async with _serving(serve) as port:
        yield port


@asynccontextmanager
async def _tls_in_front_of(url: str, authority: trustme.CA) -> AsyncIterator[int]:
    """Forward TLS connections to a server on a Unix socket."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_unix_connection(url.removeprefix("unix://"))
        await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer))

    async with _serving(forward, tls=context) as port:
        yield port


@asynccontextmanager
async def _serving(serve: Serve, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve on a port, and end each connection when `serve` returns."""
    tasks: set[asyncio.Task[None]] = set()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        with contextlib.suppress(OSError):
            writer.close()
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.get_running_loop().create_task(served(reader, writer)))

    async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls) as server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.gather(*tasks)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()
