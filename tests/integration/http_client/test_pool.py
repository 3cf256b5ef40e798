"""Connections are reused, limited and closed, and no way of ending a request loses a place of the pool."""

import asyncio
import gc
import random
from collections.abc import Callable
from contextlib import suppress

import httpx
import pytest

from services.inference.http.client import HTTPClient, open_client
from services.inference.http.connection import Connection
from services.inference.http.errors import (
    ConnectError,
    ConnectionLost,
    ConnectTimeout,
    HTTPClientError,
    StaleConnection,
)
from services.inference.http.pool import ConnectionPool
from tests.integration.http_client.server import (
    GET,
    OK,
    Handler,
    Peer,
    answering,
    client_of,
    fetch,
    post,
    serving,
    until,
)


async def hanging(peer: Peer) -> None:
    """Receive a request and never answer."""
    await peer.request()
    await peer.until_closed()


async def begun(peer: Peer) -> None:
    """Begin an answer and never end it."""
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
    await peer.until_closed()


async def test_requests_one_after_the_other_use_one_connection_and_concurrent_ones_their_own() -> None:
    async with serving(answering) as server, client_of(server.url) as client:
        for _ in range(5):
            await fetch(client)
        assert len(server.peers) == 1
        await asyncio.gather(*(fetch(client) for _ in range(5)))
        assert len(server.peers) == 5


async def test_the_connection_used_last_is_used_first_so_that_the_others_expire() -> None:
    async with serving(answering) as server, client_of(server.url, idle_seconds=0.6) as client:
        await asyncio.gather(*(fetch(client) for _ in range(5)))
        async with asyncio.timeout(5):
            while sum(not peer.closed.is_set() for peer in server.peers) > 1:
                await fetch(client)
                await asyncio.sleep(0.02)
        assert len(server.peers) == 5, "none had to be opened again"


async def test_idle_connections_are_closed_in_time_and_not_before() -> None:
    loop = asyncio.get_running_loop()
    async with serving(answering) as server, client_of(server.url, idle_seconds=0.6) as client:
        await fetch(client)
        await asyncio.sleep(0.3)
        await fetch(client)
        began = loop.time()
        await server.peers[0].closed.wait()
        assert 0.5 < loop.time() - began < 3
        assert await fetch(client) == b"ok"
        assert len(server.peers) == 2


async def test_there_are_never_more_connections_than_the_limit_and_callers_wait_in_order() -> None:
    order: list[int] = []

    async def ask(client: HTTPClient, number: int) -> None:
        await fetch(client)
        order.append(number)

    async with serving(answering) as server, client_of(server.url, connections_max=2) as client:
        await asyncio.gather(*(ask(client, number) for number in range(40)))
        assert len(server.peers) == 2

    assert all(abs(number - place) <= 2 for place, number in enumerate(order))


async def test_the_time_out_of_connecting_covers_the_wait_for_a_connection() -> None:
    loop = asyncio.get_running_loop()
    limits = {"connections_max": 1, "connect_timeout_seconds": 0.2}
    async with serving(hanging) as server, client_of(server.url, **limits) as client:  # type: ignore[arg-type]
        first = asyncio.create_task(client.send(GET))
        await until(lambda: server.requests == 1)
        began = loop.time()
        with pytest.raises(ConnectTimeout):
            await client.send(GET)
        assert 0.15 < loop.time() - began < 3
        assert not first.done(), "a request that was sent has no time-out"
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_a_connection_that_failed_makes_room_for_a_waiting_caller() -> None:
    async def handle(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(0.05)
        if len(server.peers) > 1:
            await peer.send(OK)
            await answering(peer)

    async with serving(handle) as server, client_of(server.url, connections_max=1) as client:
        found = await asyncio.gather(*(fetch(client) for _ in range(3)), return_exceptions=True)

    assert [type(one) for one in found] == [ConnectionLost, bytes, bytes]


async def test_a_connection_that_the_server_closed_while_idle_is_not_reused() -> None:
    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await asyncio.sleep(0.02)

    async with serving(handle) as server, client_of(server.url, connections_max=1) as client:
        for number in range(1, 4):
            assert await fetch(client, post(b"x"), b"x") == b"ok"
            await server.peers[-1].closed.wait()
            await asyncio.sleep(0.05)
            assert len(server.peers) == number


async def connected(url: str, on_lost: Callable[[Connection], None]) -> Connection:
    """Open a connection without a pool."""
    host, port = url.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(on_lost), host, int(port))
    return connection


async def test_a_closed_connection_sends_nothing_and_does_not_wait_for_a_response() -> None:
    lost: list[Connection] = []
    async with serving(answering) as server, asyncio.timeout(5):
        connection = await connected(server.url, lost.append)
        connection.close()
        await until(lambda: lost == [connection])
        with pytest.raises(ConnectionLost):
            await connection.send(GET, b"")


async def test_a_connection_that_is_being_closed_is_not_reused() -> None:
    async def connect(on_lost: Callable[[Connection], None]) -> Connection:
        return await connected(server.url, on_lost)

    async with serving(answering) as server, asyncio.timeout(5):
        pool = ConnectionPool(connect, connections_max=1, connect_timeout_seconds=1, idle_seconds=60)
        first = await pool.acquire()
        await first.send(GET, b"")
        assert await first.read() == b"ok"
        pool.release(first)
        first.close()
        assert pool.take_idle() is None
        second = await pool.acquire()
        assert second is not first
        pool.release(second)
        await pool.close()


async def second_closes(peer: Peer) -> None:
    """Answer the first request of the first connection, and close it at its second."""
    await peer.request()
    await peer.send(OK)
    await peer.request()


async def test_a_request_that_met_a_closing_connection_is_sent_again_only_if_that_is_harmless() -> None:
    async with serving(second_closes) as server, client_of(server.url) as client:
        await fetch(client)
        with pytest.raises(ConnectionLost):
            await fetch(client, post(b"x"), b"x")
        assert server.requests == 2
        await fetch(client)
        assert await fetch(client, is_idempotent=True) == b"ok"
        assert (server.requests, len(server.peers)) == (5, 3)


async def test_a_stale_connection_closes_those_that_were_idle_for_longer() -> None:
    started = asyncio.Event()

    async def handle(peer: Peer) -> None:
        await peer.request()
        await started.wait()
        await peer.send(OK)
        await peer.request()

    async with serving(handle) as server, client_of(server.url) as client:
        fetching = [asyncio.ensure_future(fetch(client)) for _ in range(3)]
        await until(lambda: server.requests == 3)
        started.set()
        await asyncio.gather(*fetching)
        with pytest.raises(StaleConnection):
            await fetch(client)
        await until(lambda: all(peer.closed.is_set() for peer in server.peers))
        assert await fetch(client) == b"ok"
        assert (server.requests, len(server.peers)) == (5, 4)


async def test_a_connection_that_is_lost_late_or_at_its_first_request_is_not_stale() -> None:
    async def handle(peer: Peer) -> None:
        if len(server.peers) == 1:
            await peer.request()
            await peer.send(OK)
            await peer.request()
            await asyncio.sleep(1.1)

    async with serving(handle) as server, client_of(server.url) as client:
        await fetch(client)
        for _ in range(2):
            with pytest.raises(ConnectionLost) as raised:
                await fetch(client)
            assert not isinstance(raised.value, StaleConnection)


async def test_an_idempotent_request_is_sent_at_most_twice() -> None:
    async def handle(peer: Peer) -> None:
        await peer.request()

    async with serving(handle) as server, client_of(server.url) as client:
        with pytest.raises(ConnectionLost):
            await fetch(client, is_idempotent=True)
        assert server.requests == 2


@pytest.mark.parametrize("handle", [hanging, begun])
async def test_a_cancelled_request_closes_its_connection_at_once_and_frees_its_place(handle: Handler) -> None:
    async with serving(handle) as server, client_of(server.url, connections_max=1) as client:
        for number in range(1, 4):
            asking = asyncio.create_task(fetch(client))
            await until(lambda number=number: server.requests == number)  # type: ignore[misc]
            await asyncio.sleep(0.02)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            async with asyncio.timeout(3):
                await server.peers[-1].closed.wait()


async def test_a_response_that_is_not_read_to_its_end_closes_its_connection() -> None:
    async with serving(begun) as server, client_of(server.url, connections_max=1, connect_timeout_seconds=1) as client:
        for _ in range(3):
            with await client.send(GET) as response:
                assert await response.read() == b"abc"
            async with asyncio.timeout(3):
                await server.peers[-1].closed.wait()


async def test_a_cancelled_wait_gives_its_place_to_the_next_caller() -> None:
    async with serving(hanging) as server, client_of(server.url, connections_max=1) as client:
        first, *others = [asyncio.create_task(client.send(GET)) for _ in range(4)]
        await until(lambda: server.requests == 1)
        # The place passes to the first of the others, which is cancelled before it can run.
        first.cancel()
        await asyncio.sleep(0)
        others[0].cancel()
        others[1].cancel()
        await until(lambda: server.requests == 2)
        assert not others[2].done()
        others[2].cancel()
        await asyncio.gather(first, *others, return_exceptions=True)


@pytest.mark.parametrize("turns", range(6))
async def test_a_connection_handed_to_a_cancelled_caller_is_not_lost(turns: int) -> None:
    async with serving(answering) as server, client_of(server.url, connections_max=1) as client:
        response = await client.send(GET)
        waiting = asyncio.create_task(fetch(client))
        for _ in range(3):
            await asyncio.sleep(0)
        await response.read()
        response.close()
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(2):
            assert await fetch(client) == b"ok"


async def test_the_end_of_the_client_closes_idle_and_used_connections() -> None:
    async def handle(peer: Peer) -> None:
        await (hanging if len(server.peers) == 2 else answering)(peer)

    async with serving(handle) as server:
        async with client_of(server.url) as client:
            response = await client.send(GET)
            asking = asyncio.create_task(fetch(client))
            await until(lambda: server.requests == 2)
            await response.read()
            response.close()
        with pytest.raises(ConnectionLost):
            await asking
        async with asyncio.timeout(3):
            await asyncio.gather(*(peer.closed.wait() for peer in server.peers))
        with pytest.raises(ConnectError):
            await client.send(GET)


async def test_the_end_of_the_client_ends_the_wait_for_a_connection() -> None:
    async with serving(hanging) as server:
        async with client_of(server.url, connections_max=1) as client:
            asking = [asyncio.create_task(client.send(GET)) for _ in range(3)]
            await until(lambda: server.requests == 1)
        found = await asyncio.gather(*asking, return_exceptions=True)

    assert [type(one) for one in found] == [ConnectionLost, ConnectError, ConnectError]


async def test_a_response_that_outlives_its_client_is_an_error_and_not_a_wait() -> None:
    async with serving(begun) as server:
        async with client_of(server.url) as client:
            response = await client.send(GET)
            await response.read()
        with pytest.raises(ConnectionLost):
            await response.read()
        response.close()


async def test_what_arrived_before_the_end_of_the_client_can_still_be_read() -> None:
    sent = 0

    async def handle(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n")
        while True:  # More than is buffered, so that reading pauses.
            await peer.send(b"x" * 65_536)
            sent += 65_536

    async with serving(handle) as server:
        async with client_of(server.url) as client:
            response = await client.send(GET)
            await until(lambda: sent > 1_000_000)
        assert len(await response.read()) >= 128 * 1024
        with pytest.raises(ConnectionLost):
            await response.read()
        response.close()


async def misbehaving(peer: Peer) -> None:
    """Answer, hang, cut, close or send nonsense, by chance."""
    while True:
        await peer.request()
        await asyncio.sleep(random.random() * 0.004)
        match random.randrange(8):
            case 0:
                return
            case 1:
                await peer.send(b"nonsense")
                return
            case 2:
                await peer.send(OK[:-1])
                return
            case 3:
                await peer.send(OK)
                return
            case 4:
                await peer.send(OK, OK)
            case 5:
                await peer.until_closed()
                return
            case _:
                await peer.send(OK)


@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 20))])
async def test_no_way_of_ending_a_request_loses_a_place(seed: int) -> None:
    random.seed(seed)
    limit = 4

    async def ask(client: HTTPClient) -> None:
        with suppress(HTTPClientError, TimeoutError):
            async with asyncio.timeout(random.random() * 0.05):
                with await client.send(GET, is_idempotent=random.random() < 0.3) as response:
                    while random.random() < 0.9 and await response.read():
                        pass

    async with serving(lambda peer: answering(peer) if is_healthy else misbehaving(peer)) as server:
        is_healthy = False
        async with client_of(server.url, connections_max=limit, idle_seconds=0.02) as client:
            for _ in range(30):
                for asking in asyncio.as_completed([ask(client) for _ in range(random.randrange(1, 12))]):
                    await asking
                assert sum(not peer.closed.is_set() for peer in server.peers) <= 2 * limit
            is_healthy = True
            await asyncio.sleep(0.1)
            async with asyncio.timeout(5):
                responses = [await client.send(GET) for _ in range(limit)]
            for response in responses:
                assert await response.read() == b"ok"
                response.close()


async def test_a_pool_leaves_no_reference_cycle_of_a_failed_request() -> None:
    async with serving(hanging) as server:
        gc.collect()
        gc.disable()
        try:
            async with open_client(
                httpx.URL(server.url), proxy=None, connections_max=1, connect_timeout_seconds=0.05
            ) as client:
                first = asyncio.create_task(client.send(GET))
                await asyncio.sleep(0.02)
                for _ in range(5):
                    with suppress(ConnectTimeout):
                        await client.send(GET)
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)
            found = [one for one in gc.get_objects() if isinstance(one, ConnectTimeout)]
        finally:
            gc.enable()
    assert len(found) <= 1
