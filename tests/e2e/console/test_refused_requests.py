"""Refused requests of a key appear in the console, each once; an outage of quota is not shown as zero."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.e2e.console.browser import Browser, secret_of
from tests.e2e.console.test_console import an_email
from tests.e2e.stack import Stack, running_stack, say

_SECONDS_MAX = 5
_BODY_BYTES_MAX = 100_000
_ROW = re.compile(
    r'<a href="([^"]+)">(\d*) ?<code>([a-z_ ]+)</code></a>.*?data-label="24 hours" class="n">([\d,]+)</td>'
    r'<td data-label="7 days" class="n">([\d,]+)<',
    re.DOTALL,
)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(0, id="services"),
        pytest.param(1, id="one worker", marks=pytest.mark.long),
        pytest.param(2, id="workers", marks=pytest.mark.long),
    ],
)
def small_stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Yield a stack that accepts small bodies only."""
    with running_stack(
        workers=request.param,
        gateways=2,
        quotas=2,
        GATEWAY_BODY_BYTES_MAX=str(_BODY_BYTES_MAX),
        GATEWAY_INVALID_REQUESTS_PER_SECOND="0",
        AUTH_SIGN_UPS_PER_ADDRESS_MAX="100000",
    ) as running:
        yield running


@asynccontextmanager
async def _owner(stack: Stack) -> AsyncIterator[tuple[Browser, str, str]]:
    """Yield a browser of a new user with a key that allows one request a day, its id and its secret."""
    async with Browser(stack) as owner:
        await owner.sign_up(an_email())
        secret = secret_of((await owner.submit("/keys", "/keys", {"name": "laptop"})).text)
        key_id = re.findall(r"/keys/(key_\w+)", (await owner.get("/keys")).text)[0]
        saved = await owner.submit(f"/keys/{key_id}", f"/keys/{key_id}/settings", {"requests_day": "1"})
        assert "are saved" in saved.text
        yield owner, key_id, secret


async def _post(client: httpx.AsyncClient, origin: str, secret: str, path: str = "chat", **members: object) -> int:
    headers = {"authorization": f"Bearer {secret}"}
    answer = await client.post(f"{origin}/api/v1/{path}", headers=headers, json=say("hi", **members))
    return answer.status_code


def _shown(html: str) -> dict[tuple[str, str], int]:
    """Return the numbers of the last day by status and code, which are those of the week, too."""
    rows = _ROW.findall(html)
    assert all(in_day == in_week for *_, in_day, in_week in rows)
    return {(status, code): int(in_day.replace(",", "")) for _, status, code, in_day, _ in rows}


async def _until_shown(owner: Browser, path: str, expected: dict[tuple[str, str], int]) -> str:
    """Return the page once it shows these numbers."""
    for _ in range(_SECONDS_MAX * 10):
        html = (await owner.get(path)).text
        if _shown(html) == expected:
            return html
        await asyncio.sleep(0.1)
    raise AssertionError(f"{path} shows {_shown(html)}")


@pytest.mark.long
async def test_every_refusal_is_counted_once_by_code_and_appears_within_seconds(small_stack: Stack) -> None:
    gateways = small_stack.gateways
    async with _owner(small_stack) as (owner, key_id, secret), httpx.AsyncClient(trust_env=False, timeout=20) as client:
        statuses = Counter([await _post(client, gateways[0], secret)])
        for number in range(6):
            origin = gateways[number % len(gateways)]
            statuses[await _post(client, origin, secret, temperature=9)] += 1
            statuses[await _post(client, origin, secret)] += 1
            statuses[await _post(client, origin, secret, user="u" * _BODY_BYTES_MAX)] += 1
            statuses[await _post(client, origin, secret, "embeddings")] += 1
        assert statuses == {200: 1, 400: 6, 429: 6, 413: 6, 404: 6}
        listed = (await owner.get("/keys")).text
        await owner.send(listed, f"/keys/{key_id}/revoke", {})
        refused = Counter([await _post(client, one, secret) for one in gateways for _ in range(5)])
        while refused[401] < 5:  # A gateway notices the revocation within a second.
            refused[await _post(client, gateways[0], secret)] += 1
        unknown = await _post(client, gateways[0], f"{secret[:-1]}0")
        assert unknown == 401

        expected = {
            ("400", "decimal_above_max_value"): 6,
            ("413", "request_too_large"): 6,
            ("404", "unsupported_endpoint"): 6,
            ("401", "invalid_api_key"): refused[401],
            ("429", "rate_limit_exceeded"): 6 + refused[429],
        }
        for path in (f"/keys/{key_id}", "/usage", f"/usage?key={key_id}"):
            html = await _until_shown(owner, path, expected)
            assert 'href="/docs/errors#a-limit-is-reached-429"' in html
            assert "is used up" in html
            assert f'aria-label="Refused requests per hour in the last 24 hours: {sum(expected.values())} in' in html
        await asyncio.sleep(2)  # Longer than the gateways wait: nothing is sent twice.
        await _until_shown(owner, "/usage", expected)


async def test_a_refusal_in_the_playground_is_counted(small_stack: Stack) -> None:
    async with _owner(small_stack) as (owner, key_id, _):
        page = (await owner.get("/playground")).text
        (token,) = re.findall(r'data-csrf="([^"]+)"', page)
        headers = {"stack-key-id": key_id, "x-csrf-token": token, "origin": owner.origin}
        answer = await owner.client.post("/playground/chat", headers=headers, json=say("hi", temperature=9))
        assert answer.status_code == 400, answer.text
        await _until_shown(owner, f"/keys/{key_id}", {("400", "decimal_above_max_value"): 1})


@pytest.mark.long
async def test_an_owner_sees_no_refusals_of_other_accounts(small_stack: Stack) -> None:
    async with (
        _owner(small_stack) as (_, _, secret),
        _owner(small_stack) as (other, other_key_id, _),
        httpx.AsyncClient(trust_env=False) as client,
    ):
        assert await _post(client, small_stack.base_url, secret, temperature=9) == 400
        await asyncio.sleep(2)
        for path in ("/usage", f"/keys/{other_key_id}"):
            assert "None in the last 7 days." in (await other.get(path)).text


@pytest.mark.long
async def test_while_quota_is_down_pages_say_unknown_and_refusals_are_sent_later(own_stack: Stack) -> None:
    async with _owner(own_stack) as (owner, key_id, secret), httpx.AsyncClient(trust_env=False, timeout=20) as client:
        own_stack.kill("quota")
        statuses = [
            await _post(client, own_stack.base_url, secret, temperature=9),
            await _post(client, own_stack.base_url, secret),
        ]
        assert statuses == [400, 503]
        for path in ("/usage", f"/keys/{key_id}"):
            html = (await owner.get(path)).text
            assert "How many requests were refused cannot be read" in html
            assert "None in the last 7 days." not in html
        await own_stack.start_missing()
        expected = {("400", "decimal_above_max_value"): 1, ("503", "quota_unavailable"): 1}
        await _until_shown(owner, f"/keys/{key_id}", expected)


@pytest.mark.long
async def test_a_gateway_that_stops_sends_what_it_has_counted(own_stack: Stack) -> None:
    async with _owner(own_stack) as (owner, key_id, secret), httpx.AsyncClient(trust_env=False) as client:
        assert await _post(client, own_stack.base_url, secret, temperature=9) == 400
        own_stack.stop("gateway-1")
        await own_stack.start_missing()
        await _until_shown(owner, f"/keys/{key_id}", {("400", "decimal_above_max_value"): 1})
