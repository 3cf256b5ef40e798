"""Counting tokens is free, so no key may keep the others from it, or fill the memory."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, cast

import pytest
from starlette.requests import Request
from starlette.responses import Response

from services.common.concurrency.byte_budget import ByteBudget
from services.common.errors import InvalidRequest, Throttled, Unavailable
from services.common.runtime.clock import SystemClock
from services.common.web.request_id import REQUEST_ID
from services.gateway.apis.chat_completions.limits import ChatLimits
from services.gateway.apis.messages.count_limiter import CountLimiter
from services.gateway.apis.routes import API
from services.gateway.apis.surface import Context
from services.gateway.http.request_bodies import RequestBodies
from services.gateway.requests.handler import RequestHandler
from services.gateway.requests.invalid_requests import InvalidRequestLimiter
from services.gateway.requests.types import Principal
from tests.unit.gateway.auth_client import ManualClock

_VALID = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()


class Sent:
    """A request whose body has arrived, or has still to be read."""

    def __init__(self, body: bytes | None = None) -> None:
        self._messages: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        if body is not None:
            self._messages.put_nowait({"type": "http.request", "body": body, "more_body": False})
        headers = [(b"authorization", b"Bearer k")]
        scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "client": ("192.0.2.1", 1)}
        self.request = Request({**scope, REQUEST_ID: "req_1"}, self._messages.get)

    def leave(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})


class Counting:
    """Counts that end when the test says so."""

    def __init__(self) -> None:
        self.limiter = CountLimiter(ManualClock())
        self.done = threading.Event()
        self.begun: list[bytes] = []

    def begin(self, key_id: str, body: bytes, sent: Sent | None = None) -> "asyncio.Task[bytes | None]":
        return asyncio.create_task(self.limiter.run((sent or Sent()).request, key_id, body, self._count))

    def _count(self, body: bytes) -> bytes:
        self.begun.append(body[:2])
        assert self.done.wait(10)
        return body[:2]


@pytest.fixture
def counting() -> Iterator[Counting]:
    counting = Counting()
    yield counting
    counting.done.set()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_another_key_is_next_however_many_requests_of_one_key_wait(counting: Counting) -> None:
    first = [counting.begin("a", b"a%d" % number) for number in range(9)]
    await _until(lambda: bool(counting.begun))
    second = [counting.begin("b", b"b0"), counting.begin("c", b"c0")]
    await _until(lambda: len(counting.begun) == 2)
    assert counting.begun == [b"a0", b"b0"], "one count of each key runs"
    counting.done.set()
    assert await asyncio.gather(*first, *second) == [*(b"a%d" % number for number in range(9)), b"b0", b"c0"]
    assert counting.begun.index(b"c0") <= 4


async def test_a_request_beyond_the_queue_of_a_key_is_a_429(counting: Counting) -> None:
    waiting = [counting.begin("a", b"a0") for _ in range(33)]
    await _until(lambda: bool(counting.begun))
    with pytest.raises(Throttled) as refused:
        await counting.begin("a", b"a0")
    assert refused.value.reason == "concurrency_limit_exceeded"
    assert refused.value.details.retry_after_seconds == 1
    counting.done.set()
    await asyncio.gather(*waiting)


async def test_a_client_that_leaves_gives_up_its_place(counting: Counting) -> None:
    leaving = Sent()
    waiting = [counting.begin("a", b"a0") for _ in range(8)]
    left = counting.begin("a", b"xx", leaving)
    await _until(lambda: bool(counting.begun))
    leaving.leave()
    assert await left is None
    waiting.append(counting.begin("a", b"a1"))
    counting.done.set()
    assert (await asyncio.gather(*waiting))[-1] == b"a1"
    assert b"xx" not in counting.begun


async def test_the_bodies_that_wait_are_bounded_in_bytes(counting: Counting) -> None:
    large = b"x" * (4 * 2**20)
    waiting = [counting.begin("a", large) for _ in range(4)]
    await _until(lambda: bool(counting.begun))
    with pytest.raises(Throttled) as refused:
        await counting.begin("a", b"x")
    assert refused.value.reason == "too_many_bytes_at_once"
    waiting += [counting.begin(key, large) for key in "bcd" for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await counting.begin("e", b"x")
    counting.done.set()
    await asyncio.gather(*waiting)
    assert await counting.begin("e", b"e0") == b"e0"


async def test_counts_are_limited_per_second_by_their_size() -> None:
    clock = ManualClock()
    limiter = CountLimiter(clock)
    for _ in range(3):
        limiter.admit("a")
        assert await limiter.run(Sent().request, "a", b"x" * (4 * 2**20), len) == 4 * 2**20
    limiter.admit("a")
    await limiter.run(Sent().request, "a", b"x" * (4 * 2**20), len)
    with pytest.raises(Throttled) as refused:
        limiter.admit("a")
    assert (refused.value.reason, refused.value.details.retry_after_seconds) == ("too_many_token_counts", 7)
    limiter.admit("b")
    clock.seconds += 7
    limiter.admit("a")


class _Surfaces:
    def context(self) -> Context:
        return Context()


class _Authenticator:
    async def authenticate(self, token: str, *, address: str) -> Principal:
        return Principal("key_1", "acc_1", 10, None)


def _api() -> API:
    handler = RequestHandler(
        cast(Any, None),
        cast(Any, None),
        cast(Any, None),
        RequestBodies(ByteBudget(total_max=10_000, share_max=10_000), bytes_max=10_000),
        InvalidRequestLimiter(SystemClock(), per_second=0.05),
        cast(Any, None),
        estimate=cast(Any, None),
        new_request_id=lambda: "req_2",
        heartbeat_seconds=1,
    )
    none: Any = None
    return API(handler, cast(Any, _Authenticator()), none, none, cast(Any, _Surfaces()), ChatLimits(), none)


async def _counted(api: API, body: bytes) -> Response:
    return await api.count_tokens(Sent(body).request)


async def test_an_invalid_count_is_an_invalid_request() -> None:
    api = _api()
    response = await _counted(api, _VALID)
    assert (response.status_code, response.headers["request-id"]) == (200, "req_1")
    with pytest.raises(InvalidRequest):
        await _counted(api, b"{")
    with pytest.raises(Throttled) as refused:
        await _counted(api, _VALID)
    assert refused.value.reason == "too_many_invalid_requests"
