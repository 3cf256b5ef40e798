"""A revoked key ends its stream at once, with one error event, and cancels the call to inference."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.common.errors import Unavailable
from services.common.surface import Surface
from services.gateway.apis.chat_completions.surface import ChatRenderer
from services.gateway.http_server.write_flow import ClientStalled
from services.gateway.keys.revocation import Revocation
from services.gateway.requests.disconnect import DisconnectMonitor
from services.gateway.requests.streaming import begin_stream
from services.gateway.requests.surface import SurfaceRequest
from services.gateway.requests.types import Chat, Departure
from tests.unit.gateway.auth_client import KEY, settle

_REQUEST = Chat({}, stream=True, surface=Surface.CHAT)


class Upstream:
    """A stream of the test's events that records whether it was read to its end."""

    def __init__(self) -> None:
        self.parts: asyncio.Queue[list[bytes] | Exception | None] = asyncio.Queue()
        self.is_read_out = False
        self.is_closed = False

    async def events(self) -> AsyncGenerator[list[bytes], None]:
        try:
            while (part := await self.parts.get()) is not None:
                if isinstance(part, Exception):
                    raise part
                yield part
            self.is_read_out = True
        finally:
            self.is_closed = True


class Browser:
    """An ASGI client that reads everything, or nothing while its gate is closed, or that has stalled for one send."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.is_complete = False
        self.is_stalled = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        await self.gate.wait()
        if self.is_stalled:
            self.is_stalled = False
            raise ClientStalled
        assert not self.is_complete, "something was sent after the end"
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")
        self.is_complete = message["type"] == "http.response.body" and not message["more_body"]

    async def receive(self) -> MutableMapping[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    @property
    def events(self) -> list[str]:
        return [line.removeprefix("data: ") for line in self.body.decode().split("\n\n") if line]


class World:
    """One stream of one client."""

    def __init__(self) -> None:
        self.upstream, self.browser, self.revocation = Upstream(), Browser(), Revocation("key_1", KEY)
        self.store: Callable[[], Awaitable[None]] | None = None
        self.client = DisconnectMonitor()
        self.client.cancel_on_departure()

    async def answer(self) -> None:
        """Send the stream to the browser to its end."""
        stream = self.upstream.events()
        with self.client.watching({"type": "http"}, self.browser.receive):
            response = await begin_stream(
                stream,
                SurfaceRequest(_REQUEST, ChatRenderer(), self.store),
                {"x-own": "1"},
                self.client,
                self.revocation,
                heartbeat_seconds=60,
            )
        if not self.client.has_left:
            await response({"type": "http"}, self.browser.receive, self.browser.send)

    async def emit(self, *parts: list[bytes] | Exception | None) -> None:
        for part in parts:
            self.upstream.parts.put_nowait(part)
        await settle()


@asynccontextmanager
async def _answering(world: World) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(world.answer())
    await settle()
    yield task
    async with asyncio.timeout(5):
        await task


def _assert_refused(text: str) -> None:
    error = json.loads(text)["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert "This API key has been revoked" in error["message"]


async def test_a_stream_that_is_not_cancelled_is_sent_completely() -> None:
    world = World()
    async with _answering(world):
        await world.emit([b"1"], [b"2", b"3"], None)
    assert world.browser.events == ["1", "2", "3", "[DONE]"]


async def test_a_cancellation_ends_the_response_and_the_call_at_once() -> None:
    world = World()
    async with _answering(world):
        await world.emit([b"1"])
        world.revocation.cancel()
        await settle()
        assert world.browser.is_complete
    assert world.client.departure is Departure.KEY_REVOKED
    assert world.browser.events[0] == "1"
    _assert_refused(world.browser.events[1])
    assert len(world.browser.events) == 2
    assert (world.upstream.is_closed, world.upstream.is_read_out) == (True, False)


async def test_a_cancellation_before_the_first_event_is_a_401() -> None:
    world = World()
    async with _answering(world):
        world.revocation.cancel()
        await settle()
        assert (world.browser.status, world.browser.is_complete) == (401, True)
    _assert_refused(world.browser.body.decode())
    assert world.upstream.is_closed


async def test_a_stream_whose_key_was_revoked_before_it_began_is_a_401() -> None:
    world = World()
    world.revocation.cancel()
    await world.emit([b"1"], None)
    async with _answering(world):
        pass
    assert world.browser.status == 401
    assert world.upstream.is_closed


async def test_a_cancellation_at_the_end_of_the_stream_ends_the_response_once() -> None:
    world = World()
    async with _answering(world):
        await world.emit([b"1"])
        world.revocation.cancel()
        world.upstream.parts.put_nowait(None)
    assert world.browser.is_complete
    assert len(world.browser.events) == 2


async def test_a_cancellation_during_a_write_lets_it_finish_and_sends_no_more_events() -> None:
    world = World()
    async with _answering(world):
        await world.emit([b"1"])
        world.browser.gate.clear()
        await world.emit([b"2"], [b"3"])
        world.revocation.cancel()
        await settle()
        world.browser.gate.set()
        await world.emit([b"4"], None)
    assert world.browser.events[:2] == ["1", "2"]
    _assert_refused(world.browser.events[2])
    assert len(world.browser.events) == 3


async def test_a_client_that_stops_reading_gets_an_error_event_and_its_call_is_cancelled() -> None:
    world = World()
    async with _answering(world):
        await world.emit([b"1"])
        world.browser.is_stalled = True
        await world.emit([b"2"])
    assert world.client.departure is Departure.CLIENT_STALLED
    assert world.browser.events[0] == "1"
    assert json.loads(world.browser.events[1])["error"]["code"] == "client_stalled"
    assert len(world.browser.events) == 2
    assert world.browser.is_complete
    assert world.upstream.is_closed


async def test_a_cancelled_stream_whose_client_stopped_reading_is_ended_too() -> None:
    world = World()
    async with _answering(world):
        await world.emit([b"1"])
        world.browser.is_stalled = True
        world.revocation.cancel()
    assert world.client.departure is not None
    assert world.upstream.is_closed


@pytest.mark.parametrize("has_begun", [False, True])
async def test_a_client_that_disconnects_cancels_its_call_at_once(has_begun: bool) -> None:
    world, disconnected = World(), asyncio.Event()

    async def receive() -> MutableMapping[str, Any]:
        await disconnected.wait()
        return {"type": "http.disconnect"}

    world.browser.receive = receive  # type: ignore[method-assign]
    async with _answering(world):
        if has_begun:
            await world.emit([b"1"])
        disconnected.set()
    assert world.client.departure is Departure.CLIENT_LEFT
    assert world.upstream.is_closed


async def test_the_first_reason_of_a_disconnect_is_kept() -> None:
    client = DisconnectMonitor()

    client.depart(Departure.KEY_REVOKED)
    client.depart(Departure.CLIENT_LEFT)

    assert client.departure is Departure.KEY_REVOKED


async def test_a_handler_is_not_cancelled_before_it_allows_it() -> None:
    client, left = DisconnectMonitor(), asyncio.Event()

    async def receive() -> MutableMapping[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    with client.watching({"type": "http"}, receive):
        left.set()
        await settle()
        assert client.has_left, "the disconnect is noticed, but nothing is cancelled"


async def test_a_cancellation_of_the_handler_itself_is_propagated() -> None:
    client = DisconnectMonitor()
    client.cancel_on_departure()

    async def handler() -> None:
        with client.watching({"type": "http"}, Browser().receive):
            await asyncio.Event().wait()

    task = asyncio.create_task(handler())
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_answer_is_stored_before_its_last_event() -> None:
    world = World()
    seen: list[str] = []

    async def store() -> None:
        seen.extend(world.browser.events)

    world.store = store
    async with _answering(world):
        await world.emit([b'{"n":1}'], None)
    assert seen == ['{"n":1}']
    assert world.browser.events == ['{"n":1}', "[DONE]"]


async def test_a_stream_whose_answer_cannot_be_stored_ends_with_an_error() -> None:
    world = World()

    async def store() -> None:
        raise Unavailable("The storage is away.", reason="response_storage_unavailable")

    world.store = store
    async with _answering(world):
        await world.emit([b'{"n":1}'], None)
    first, last = world.browser.events
    assert first == '{"n":1}'
    assert json.loads(last)["error"]["message"] == "The storage is away."
    assert world.browser.is_complete
