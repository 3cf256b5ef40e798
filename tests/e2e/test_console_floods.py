"""During a flood of cheap requests to the console, keys are created and revoked and chats are answered.

The suite sends one kind of flood for seconds in each layout; `make test-floods` sends every kind for longer.
"""

import os
import secrets
from collections.abc import Iterator

import aiohttp
import pytest

from tests.e2e import console_floods as floods
from tests.e2e.console.browser import Browser
from tests.e2e.stack import Stack, running_stack

_IS_WHOLE = os.environ.get("CONSOLE_FLOODS") == "whole"
_KINDS = ("wrong form token", "wrong form token, logged in", "page, logged in", "log-in page", "static file", "no page")
_CHATS = 100 if _IS_WHOLE else 14
_REVOCATIONS = 5 if _IS_WHOLE else 1


@pytest.fixture(scope="module", params=["one process", "four processes"])
def flooded_stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Yield a stack of each layout."""
    with running_stack(workers=1 if request.param == "one process" else 0) as running:
        yield running


@pytest.mark.long
@pytest.mark.parametrize("kind", _KINDS if _IS_WHOLE else _KINDS[:1])
async def test_during_a_console_flood_a_key_is_revoked_within_a_second_and_chats_are_not_slowed(
    flooded_stack: Stack, kind: str
) -> None:
    """Earlier, chats took 1.2 s at the median, and a revoked key was answered for 2 s and more."""
    stack, url = flooded_stack, flooded_stack.base_url
    # Keys new to the gateway: each of their chats needs auth.
    keys = [await stack.create_key() for _ in range(_CHATS)]
    request = await _request(stack, kind)
    async with aiohttp.ClientSession() as session:
        before = await floods.chats(session, url, [await stack.create_key() for _ in range(14)])
        async with floods.flooded(url, request) as flood:
            during = await floods.chats(session, url, keys)
            revoked = [await floods.created_and_revoked(stack, session, url) for _ in range(_REVOCATIONS)]
            summary = flood.summary()
    print(
        f"\n{kind}: {summary}; before: {before.summary()}; during: {during.summary()}; "
        f"refused after {max(revoked):.2f} s"
    )
    assert flood.statuses.total() > 1_000, "the load was too low"
    assert set(flood.statuses) <= {200, 403, 404}
    assert during.statuses == {200: _CHATS}
    assert during.p50 < 0.5
    assert max(revoked) < 1


async def _request(stack: Stack, kind: str) -> bytes:
    host = stack.base_url.removeprefix("http://")
    async with Browser(stack) as browser:
        await browser.sign_up(f"{secrets.token_hex(6)}@example.com")
        cookie = "; ".join(f"{one.name}={one.value}" for one in browser.client.cookies.jar)
    match kind:
        case "wrong form token":
            return floods.form("/login", "csrf_token=wrong&email=a&password=b", host=host)
        case "wrong form token, logged in":
            return floods.form("/keys", "csrf_token=wrong&name=x", cookie=cookie, host=host)
        case "page, logged in":
            return floods.page("/keys", cookie=cookie, host=host)
        case "log-in page":
            return floods.page("/login", host=host)
        case "static file":
            return floods.page("/static/console.css", host=host)
        case _:
            return floods.page("/nowhere", host=host)
