"""Responses of all forms are read whole, and what is not HTTP is an error."""

import asyncio
import random
import socket
import struct
from contextlib import suppress

import pytest

from services.inference.http.client import HTTPClient
from services.inference.http.errors import ConnectionLost, HTTPClientError, MalformedResponse
from tests.integration.http_client.server import (
    GET,
    OK,
    Handler,
    Peer,
    answering,
    client_of,
    closing,
    fetch,
    post,
    sending,
    serving,
)

_HEAD = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = _HEAD + b"transfer-encoding: chunked\r\n\r\n"
_LENGTH = _HEAD + b"content-length: 6\r\n"

KEPT: dict[str, bytes] = {
    "content-length": _LENGTH + b"\r\nabcdef",
    "chunks": _CHUNKED + b"2\r\nab\r\n4\r\ncdef\r\n0\r\n\r\n",
    "chunks with an extension and trailers": _CHUNKED + b"6;a=b\r\nabcdef\r\n0\r\nx-trailer: 1\r\n\r\n",
    "chunk sizes with spaces": _CHUNKED + b"6  \r\nabcdef\r\n0\r\n\r\n",
    "interim responses": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    + _LENGTH
    + b"\r\nabcdef",
    "an offer to upgrade": _LENGTH + b"connection: upgrade, keep-alive\r\nupgrade: h2c\r\n\r\nabcdef",
    "keep-alive of HTTP/1.0": b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 6\r\n\r\nabcdef",
    "no reason phrase": b"HTTP/1.1 200\r\ncontent-length: 6\r\n\r\nabcdef",
    "line ends without CR": b"HTTP/1.1 200 OK\ncontent-length: 6\n\nabcdef",
}
CLOSED: dict[str, bytes] = {
    "the end of the connection": _HEAD + b"\r\nabcdef",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\ncontent-length: 6\r\n\r\nabcdef",
    "connection: close": _LENGTH + b"connection: close\r\n\r\nabcdef",
    "bytes after the response": _LENGTH + b"\r\nabcdef" + b"HTTP/1.1 2",
    "another response": _LENGTH + b"\r\nabcdef" + OK,
    "bytes after the last response": _LENGTH + b"connection: close\r\n\r\nabcdef" + b"more",
}


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_a_body_is_read_whole_in_segments_of_any_size_and_its_connection_is_kept(name: str, size: int) -> None:
    parts = [KEPT[name][start : start + size] for start in range(0, len(KEPT[name]), size)]
    async with serving(sending(*parts)) as server, client_of(server.url) as client:
        assert [await fetch(client) for _ in range(2)] == [b"abcdef"] * 2
        assert len(server.peers) == 1


@pytest.mark.parametrize("name", CLOSED)
async def test_a_connection_that_cannot_be_reused_is_closed_after_its_response(name: str) -> None:
    async with serving(closing(CLOSED[name])) as server, client_of(server.url) as client:
        assert [await fetch(client) for _ in range(2)] == [b"abcdef"] * 2
        assert len(server.peers) == 2


@pytest.mark.parametrize("status", [204, 304])
async def test_a_response_without_a_body_ends_with_its_head(status: int) -> None:
    async with serving(sending(b"HTTP/1.1 %d None\r\n\r\n" % status)) as server, client_of(server.url) as client:
        for _ in range(2):
            with await client.send(GET) as response:
                assert (response.status, await response.read()) == (status, b"")
        assert len(server.peers) == 1


async def test_headers_have_lower_case_names_and_the_first_of_several_counts() -> None:
    head = (
        b"HTTP/1.1 302 Found\r\nX-One: 1\r\nx-one: 2\r\nX-Empty:\r\nX-Latin: \xe4\r\nLocation: http://127.0.0.1:1/\r\n"
    )
    async with serving(sending(head + b"content-length: 0\r\n\r\n")) as server, client_of(server.url) as client:
        with await client.send(GET) as response:
            headers, status = dict(response.headers), response.status

    assert status == 302, "a redirect is not followed"
    assert headers["x-one"] == "1"
    assert (headers["x-empty"], headers["x-latin"]) == ("", "ä")


_LINE = b"x: " + b"y" * 1_000 + b"\r\n"
MALFORMED: dict[str, bytes] = {
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
    "a bad version": b"HTTP/9.9 200 OK\r\n\r\n",
    "a bad header": _HEAD + b"no colon\r\n\r\n",
    "two lengths": _HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\n",
    "a length and chunks": _LENGTH + b"transfer-encoding: chunked\r\n\r\n",
    "a bad length": _HEAD + b"content-length: x\r\n\r\n",
    "a switch of protocols": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    "too many headers": _HEAD + b"a: b\r\n" * 129 + b"content-length: 0\r\n\r\n",
    "a large head": _HEAD + _LINE * 66 + b"content-length: 0\r\n\r\n",
    "a head without an end": _HEAD + _LINE * 100,
    "a header without an end": _HEAD + b"x: " + b"y" * 100_000,
    "interim responses without an end": b"HTTP/1.1 100 Continue\r\n\r\n" * 4_000,
}
MALFORMED_BODIES: dict[str, bytes] = {
    "a bad size": b"zz\r\n",
    "a negative size": b"-5\r\nabc\r\n",
    "a huge size": b"f" * 40,
    "no line end after a chunk": b"3\r\nabcdef",
    "an extension without an end": b"3;" + b"a" * 100_000,
    "trailers without an end": b"0\r\n" + _LINE * 100,
}


def waiting(parts: bytes) -> Handler:
    """Return a handler that sends segments of 16 KB and then waits."""

    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(*(parts[start : start + 16_384] for start in range(0, len(parts), 16_384)))
        await peer.until_closed()

    return handle


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_head_is_an_error_and_closes_the_connection(name: str) -> None:
    async with serving(waiting(MALFORMED[name])) as server, client_of(server.url) as client:
        async with asyncio.timeout(5):
            with pytest.raises(MalformedResponse) as raised:
                await client.send(GET)
            await server.peers[0].closed.wait()

    assert not str(raised.value)


@pytest.mark.parametrize("name", MALFORMED_BODIES)
@pytest.mark.parametrize("before", [b"", b"5\r\nhello\r\n"])
async def test_a_malformed_body_is_an_error_after_what_came_before_it(name: str, before: bytes) -> None:
    async with serving(waiting(_CHUNKED + before + MALFORMED_BODIES[name])) as server, client_of(server.url) as client:
        received: list[bytes] = []
        async with asyncio.timeout(5):
            with pytest.raises(MalformedResponse):
                await read_parts(client, received)
            await server.peers[0].closed.wait()

    assert b"".join(received).startswith(b"hello") == bool(before)


async def read_parts(client: HTTPClient, received: list[bytes]) -> None:
    """Send a request and add the parts of its response to `received`."""
    with await client.send(GET) as response:
        while part := await response.read():
            received.append(part)


CUT: dict[str, bytes] = {
    "before the head": b"",
    "in the head": _HEAD + b"x: ",
    "in a body of known length": _LENGTH + b"\r\nabc",
    "in a chunk": _CHUNKED + b"6\r\nabc",
    "between chunks": _CHUNKED + b"3\r\nabc\r\n",
    "in another encoding": _HEAD + b"transfer-encoding: gzip\r\n\r\nabc",
}


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("is_reset", [False, True])
async def test_a_cut_response_is_an_error_after_what_came_before_it(name: str, is_reset: bool) -> None:
    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(CUT[name])
        if is_reset:
            peer.writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            peer.writer.transport.abort()

    received: list[bytes] = []
    async with serving(handle) as server, client_of(server.url) as client:
        with pytest.raises(ConnectionLost):
            await read_parts(client, received)

    assert b"".join(received) == (b"abc" if CUT[name].endswith((b"abc", b"abc\r\n")) else b"")


def mutated(text: bytes, chance: random.Random) -> bytes:
    """Return a response with a few bytes replaced, removed, repeated or added."""
    for _ in range(chance.randrange(1, 4)):
        at, size = chance.randrange(len(text)), chance.randrange(0, 6)
        piece = chance.choice([b"", b"\r\n", b"0", b"-1", b"\0", b"x: y\r\n", text[at : at + 20], chance.randbytes(4)])
        text = (text[:at] + piece + text[at + size :]) or b"x"
    return text


@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 20))])
async def test_a_mutated_response_is_read_or_is_an_error_and_affects_no_other_request(seed: int) -> None:
    chance, texts = random.Random(seed), [*KEPT.values(), *CLOSED.values()]
    is_healthy = False

    async def handle(peer: Peer) -> None:
        if is_healthy:
            await answering(peer)
        await peer.request()
        text = mutated(chance.choice(texts), chance)
        at = chance.randrange(len(text) + 1)
        await peer.send(text[:at], text[at:])
        peer.writer.write_eof()
        await peer.until_closed()

    async with serving(handle) as server, client_of(server.url, connections_max=1) as client, asyncio.timeout(10):
        for _ in range(100):
            with suppress(HTTPClientError):
                await fetch(client)
        assert server.requests > 50
        is_healthy = True
        assert [await fetch(client, is_idempotent=True) for _ in range(3)] == [b"ok"] * 3


async def test_segments_that_arrived_before_the_reader_came_are_returned_together() -> None:
    parts = [b"5\r\nhello\r\n"] * 20
    async with serving(waiting(b"")) as server, client_of(server.url) as client:
        sent = asyncio.create_task(client.send(GET))
        while not server.requests:
            await asyncio.sleep(0)
        await server.peers[0].send(_CHUNKED)
        with await sent as response:
            await server.peers[0].send(*parts)
            assert await response.read() == b"hello" * 20


async def test_a_reader_that_pauses_bounds_what_is_buffered_and_loses_nothing() -> None:
    sent, size = 0, 64 * 1024 * 1024

    async def handle(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        peer.writer.write(_HEAD + b"content-length: %d\r\n\r\n" % size)
        while sent < size:
            peer.writer.write(bytes([sent >> 16 & 255]) * 65_536)
            await peer.writer.drain()
            sent += 65_536
        await peer.until_closed()

    async with serving(handle) as server, client_of(server.url) as client:
        with await client.send(GET) as response:
            stalled, before = 0, -1
            while stalled < 20:
                stalled, before = (stalled + 1 if sent == before else 0), sent
                await asyncio.sleep(0.005)
            assert sent < 16 * 1024 * 1024, "the sockets' buffers, and little more"
            received, largest = 0, 0
            while part := await response.read():
                assert part[0] == received >> 16 & 255
                received, largest = received + len(part), max(largest, len(part))
    assert received == size
    assert largest < 1024 * 1024


@pytest.mark.parametrize("bytes_max", [1, 6, 7, 100])
async def test_the_beginning_of_a_body_is_as_long_as_requested(bytes_max: int) -> None:
    async with serving(sending(KEPT["chunks"][:60], KEPT["chunks"][60:])) as server, client_of(server.url) as client:
        with await client.send(GET) as response:
            assert await response.read_beginning(bytes_max) == b"abcdef"[:bytes_max]
        assert await fetch(client) == b"abcdef"


async def test_a_body_larger_than_the_buffer_is_read_with_one_wait() -> None:
    body = bytes(range(256)) * 8_192
    async with serving(sending(_HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)) as server:
        async with client_of(server.url) as client, asyncio.timeout(10):
            assert [await fetch(client) for _ in range(3)] == [body] * 3
        assert len(server.peers) == 1


async def test_bytes_that_no_request_asked_for_are_not_the_response_to_the_next_one() -> None:
    evil = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"

    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if len(server.peers) == 1:
            await peer.send(evil)
            await peer.until_closed()
        await answering(peer)

    async with serving(handle) as server, client_of(server.url) as client:
        assert await fetch(client) == b"ok"
        async with asyncio.timeout(5):
            await server.peers[0].closed.wait()
        assert await fetch(client) == b"ok"
        assert len(server.peers) == 2


async def test_a_response_before_the_request_was_read_is_delivered_and_the_connection_closed() -> None:
    body = b"x" * 20_000_000

    async def handle(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno")
        await asyncio.Event().wait()

    async with serving(handle) as server, client_of(server.url) as client, asyncio.timeout(5):
        for number in (1, 2):
            with await client.send(post(body), body) as response:
                assert (response.status, await response.read()) == (413, b"no")
            assert len(server.peers) == number


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 5_000_000])
async def test_a_request_body_of_any_size_arrives_whole(size: int) -> None:
    received: list[bytes] = []

    async def handle(peer: Peer) -> None:
        while True:
            received.append(await peer.request())
            await peer.send(OK)

    body = bytes(number % 251 for number in range(1_000)) * (size // 1_000 + 1)
    async with serving(handle) as server, client_of(server.url) as client:
        for _ in range(2):
            assert await fetch(client, post(body[:size]), body[:size]) == b"ok"

    assert received == [body[:size]] * 2


async def test_a_closed_response_is_not_read_from_the_next_request() -> None:
    async with serving(answering) as server, client_of(server.url) as client:
        with await client.send(GET) as response:
            pass
        with pytest.raises(AssertionError):
            await response.read()
        response.close()
        assert await fetch(client) == b"ok"


def test_no_error_contains_what_was_sent_or_received() -> None:
    assert all(not str(error()) for error in (ConnectionLost, MalformedResponse, HTTPClientError))
