"""The event stream of the usage page: who gets it, how many, and when it ends."""

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from services.common.rpc.channel import open_channel
from services.gateway.console.usage.live import LISTENERS_PER_ACCOUNT
from stack.auth.v1 import accounts_pb2
from stack.auth.v1.accounts_pb2_grpc import AccountServiceStub
from tests.e2e.console.browser import Browser, secret_of
from tests.e2e.stack import Stack, running_stack, say


@pytest.fixture
async def owner(stack: Stack) -> AsyncIterator[Browser]:
    """Yield a browser of a newly signed-up user."""
    async with Browser(stack) as browser:
        await browser.sign_up(f"{secrets.token_hex(6)}@example.com")
        yield browser


@asynccontextmanager
async def _events(browser: Browser, path: str = "/usage/live") -> AsyncIterator[AsyncIterator[str]]:
    async with browser.client.stream("GET", path) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield response.aiter_lines()


async def _ids(lines: AsyncIterator[str], count: int) -> list[str]:
    """Return the ids of the next requests."""
    ids: list[str] = []
    async with asyncio.timeout(15):
        async for line in lines:
            if line.startswith("data: "):
                ids += [row["id"] for row in json.loads(line[6:])]
            if len(ids) >= count:
                break
    return ids


async def _key(owner: Browser, name: str) -> str:
    return secret_of((await owner.submit("/keys", "/keys", {"name": name})).text)


async def _call(owner: Browser, secret: str, text: str = "hi") -> str:
    headers = {"authorization": f"Bearer {secret}"}
    answer = await owner.client.post("/api/v1/chat", headers=headers, json=say(text))
    return str(answer.headers["x-request-id"])


async def test_requests_of_the_account_that_match_arrive_as_they_end(owner: Browser, stack: Stack) -> None:
    first, second = await _key(owner, "first"), await _key(owner, "second")
    ids = dict(re.findall(r'<option value="(key_\w{26})">(\w+) ', (await owner.get("/usage")).text))
    key_id = next(key_id for key_id, name in ids.items() if name == "second")
    async with _events(owner) as everything, _events(owner, f"/usage/live?key={key_id}&outcome=answered") as some:
        async with Browser(stack) as other:
            await other.sign_up(f"{secrets.token_hex(6)}@example.com")
            await _call(other, await _key(other, "of another account"))
        sent = [await _call(owner, first), await _call(owner, second, "[[standin:503]]"), await _call(owner, second)]
        assert sorted(await _ids(everything, 3)) == sorted(sent)
        assert await _ids(some, 1) == sent[2:]


async def test_without_a_session_or_from_another_site_there_are_no_events(owner: Browser, stack: Stack) -> None:
    for site in ("cross-site", "same-site"):
        assert (await owner.client.get("/usage/live", headers={"sec-fetch-site": site})).status_code == 403
    async with Browser(stack) as visitor:
        assert (await visitor.client.get("/usage/live")).status_code == 401
        visitor.client.cookies.set(visitor.session_cookie, "ses_stk_nonsense")
        assert (await visitor.client.get("/usage/live")).status_code == 401


async def test_a_request_for_the_headers_alone_ends_and_leaves_the_connection_to_others(owner: Browser) -> None:
    async with asyncio.timeout(10):
        for _ in range(LISTENERS_PER_ACCOUNT + 1):
            headers = (await owner.client.head("/usage/live")).headers
            assert headers["content-type"].startswith("text/event-stream")
        assert await _status(owner) == 200


async def test_an_account_has_a_bounded_number_of_streams_and_a_closed_one_frees_its_place(owner: Browser) -> None:
    async with AsyncExitStack() as streams:
        for _ in range(LISTENERS_PER_ACCOUNT):
            await streams.enter_async_context(_events(owner))
        refused = await owner.client.get("/usage/live")
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["code"] == "too_many_live_pages"
        assert (await owner.get("/usage")).status_code == 200, "streams hold the console's slots"
    async with asyncio.timeout(5):
        while (status := await _status(owner)) != 200:
            assert status == 429
            await asyncio.sleep(0.1)


async def _status(owner: Browser) -> int:
    async with owner.client.stream("GET", "/usage/live") as response:
        return response.status_code


@pytest.mark.long
async def test_a_stream_ends_with_its_session(owner: Browser) -> None:
    async with _events(owner) as lines:
        await owner.submit("/account", "/logout", {})
        async with asyncio.timeout(12):
            heard = [line async for line in lines]
    assert "event: session-ended" in heard


@pytest.mark.long
async def test_a_stream_ends_when_its_account_is_suspended(stack: Stack) -> None:
    email = f"{secrets.token_hex(6)}@example.com"
    request = accounts_pb2.SuspendAccountRequest(account=email)
    async with Browser(stack) as owner, open_channel(stack.settings.auth_listen) as channel:
        await owner.sign_up(email)
        async with _events(owner) as lines:
            await AccountServiceStub(channel).SuspendAccount(request, metadata=stack.admin_metadata)
            async with asyncio.timeout(12):
                heard = [line async for line in lines]
    assert "event: session-ended" in heard


@pytest.fixture(name="stack_with_grace")
def _stack_with_grace() -> Iterator[Stack]:
    """Yield a stack whose gateway waits half a minute for requests in flight."""
    with running_stack(DRAIN_SECONDS="0", GRACE_SECONDS="30") as running:
        yield running


async def test_a_gateway_that_stops_does_not_wait_for_streams(stack_with_grace: Stack) -> None:
    async with Browser(stack_with_grace) as owner:
        await owner.sign_up(f"{secrets.token_hex(6)}@example.com")
        async with _events(owner) as lines:
            assert await anext(lines) == "retry: 3000"
            stopping = asyncio.create_task(asyncio.to_thread(stack_with_grace.stop, "gateway-1", within_seconds=15))
            async with asyncio.timeout(15):
                assert [line async for line in lines if line.startswith("data: [{")] == []
        assert await stopping == 0


@pytest.mark.long
async def test_while_inference_is_down_listeners_are_told_and_then_served(own_stack: Stack) -> None:
    async with Browser(own_stack) as owner:
        await owner.sign_up(f"{secrets.token_hex(6)}@example.com")
        secret = await _key(owner, "laptop")
        async with _events(owner) as lines:
            own_stack.kill("inference")
            async with asyncio.timeout(15):
                while await anext(lines) != "event: unavailable":
                    pass
            await own_stack.repair()
            async with asyncio.timeout(15):
                while await anext(lines) != "event: available":
                    pass
            request_id = await _call(owner, secret)
            assert request_id in await _ids(lines, 1)
