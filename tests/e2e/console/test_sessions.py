"""Sessions over real services: what ends with a session, and what continues."""

import asyncio
import json
import re
import secrets
import time
from collections.abc import AsyncIterator
from html import unescape
from typing import Any

import httpx
import pytest

from services.common.rpc.channel import open_channel
from stack.auth.v1 import accounts_pb2, accounts_pb2_grpc, keys_pb2, keys_pb2_grpc, plans_pb2, plans_pb2_grpc
from tests.e2e.console.browser import PASSWORD, Browser, forms_of, secret_of
from tests.e2e.stack import Stack, say

_STREAM = "[[standin:slow token_ms=100]] [[standin:tokens count=80]]"
"""Eight seconds long."""


@pytest.fixture
async def owner(stack: Stack) -> AsyncIterator[Browser]:
    """Yield a browser of a newly signed-up user."""
    async with Browser(stack) as browser:
        assert (await browser.sign_up(f"{secrets.token_hex(6)}@example.com")).status_code == 200
        yield browser


@pytest.mark.long
async def test_a_playground_stream_ends_with_its_session_and_the_key_still_works(owner: Browser) -> None:
    """The end of the session used to be remembered for the key, which no stream could use until a restart."""
    secret = secret_of((await owner.submit("/keys", "/keys", {"name": "laptop"})).text)
    page = (await owner.get("/playground")).text
    csrf, key = re.search(r'data-csrf="(\w+)"', page), re.search(r'<option value="(key_\w+)"', page)
    assert csrf
    assert key
    headers = {"x-csrf-token": csrf[1], "stack-key-id": key[1], "origin": owner.origin}
    body = say(_STREAM, stream=True)
    async with owner.client.stream("POST", "/playground/chat", headers=headers, json=body) as answer:
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        logged_out_at = time.monotonic()
        await owner.submit("/playground", "/logout", {})
        events = [line async for line in lines if line.startswith("data: ")]
        ended_seconds = time.monotonic() - logged_out_at

    print(f"\nended {ended_seconds:.2f} s after the log-out")
    assert ended_seconds < 4
    assert "Your session has ended" in json.loads(events[-1].removeprefix("data: "))["error"]["message"]
    bearer = {"authorization": f"Bearer {secret}"}
    receipt = await _receipt(owner, answer.headers["x-request-id"], bearer, outcome="session_ended")
    assert receipt["charged"]
    for _ in range(3):
        streamed = await owner.client.post("/api/v1/chat", headers=bearer, json=say("hi", stream=True))
        assert (streamed.status_code, streamed.text.rstrip()[-6:]) == (200, "[DONE]")


async def test_a_session_that_ends_while_a_playground_request_arrives_starts_none(owner: Browser) -> None:
    secret = secret_of((await owner.submit("/keys", "/keys", {"name": "laptop"})).text)
    page = (await owner.get("/playground")).text
    csrf, key = re.search(r'data-csrf="(\w+)"', page), re.search(r'<option value="(key_\w+)"', page)
    assert csrf
    assert key
    headers = {"x-csrf-token": csrf[1], "stack-key-id": key[1], "origin": owner.origin}
    body = json.dumps(say("hi")).encode()

    async def slow_body() -> AsyncIterator[bytes]:
        yield body[:-1]
        await owner.submit("/playground", "/logout", {})
        await asyncio.sleep(1)
        yield body[-1:]

    cookies = {"cookie": "; ".join(f"{name}={value}" for name, value in owner.client.cookies.items())}
    answer = await owner.client.post("/playground/chat", headers=headers | cookies, content=slow_body())

    assert answer.status_code == 401
    assert "Your session has ended" in answer.json()["error"]["message"]
    used = (await owner.client.get("/api/v1/key", headers={"authorization": f"Bearer {secret}"})).json()["used"]
    assert used == 0


async def _receipt(owner: Browser, request_id: str, bearer: dict[str, str], *, outcome: str) -> dict[str, Any]:
    """Return the receipt of a request once it has this outcome."""
    async with asyncio.timeout(20):
        while True:
            answer = await owner.client.get(f"/api/v1/usage/{request_id}", headers=bearer)
            receipt: dict[str, Any] = answer.json()
            if receipt.get("outcome") == outcome:
                return receipt
            await asyncio.sleep(0.1)


async def test_a_revoked_key_ends_the_playground_streams_that_use_it(owner: Browser) -> None:
    await owner.submit("/keys", "/keys", {"name": "laptop"})
    page = (await owner.get("/playground")).text
    csrf, key = re.search(r'data-csrf="(\w+)"', page), re.search(r'<option value="(key_\w+)"', page)
    assert csrf
    assert key
    headers = {"x-csrf-token": csrf[1], "stack-key-id": key[1], "origin": owner.origin}
    async with owner.client.stream(
        "POST", "/playground/chat", headers=headers, json=say(_STREAM, stream=True)
    ) as answer:
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        revoked_at = time.monotonic()
        revoked: httpx.Response = await owner.submit("/keys", f"/keys/{key[1]}/revoke", {})
        events = [line async for line in lines if line.startswith("data: ")]
    assert revoked.status_code == 200
    assert time.monotonic() - revoked_at < 3
    assert "revoked" in json.loads(events[-1].removeprefix("data: "))["error"]["message"]


@pytest.mark.long
async def test_the_audit_log_and_the_requests_can_be_paged_to_their_ends(stack: Stack, owner: Browser) -> None:
    """Fifty log-ins used to hide an intruder's traces: there was no second page."""
    secret = secret_of((await owner.submit("/keys", "/keys", {"name": "the oldest change"})).text)
    for _ in range(6):
        for action in re.findall(r'action="(/keys/key_\w+/revoke)"', (await owner.get("/keys")).text):
            await owner.submit("/keys", action, {})
        secret = secret_of((await owner.submit("/keys", "/keys", {"name": "laptop"})).text)
    key_id = re.findall(r"/keys/(key_\w+)/revoke", (await owner.get("/keys")).text)[0]
    async with open_channel(stack.settings.auth_listen) as channel:
        keys = keys_pb2_grpc.KeyServiceStub(channel)
        for number in range(60):
            request = keys_pb2.SetKeyLimitRequest(key_id=key_id, daily_limit=1_000 + number)
            await keys.SetKeyLimit(request, metadata=stack.admin_metadata, timeout=5)
    bearer = {"authorization": f"Bearer {secret}"}
    calls = [await owner.client.post("/api/v1/chat", headers=bearer, json=say("hi")) for _ in range(120)]

    events = await _all_pages(
        owner, "/account", r'title="((?:acc|key|ses)_\w+)">', r'href="(/account\?before=aud_\w+)"'
    )
    requests = await _all_pages(owner, "/usage", r"/usage/requests/(req_\w+)", r'href="(/usage\?[^"]*before=req_\w+)"')

    shown = [target for page in events for target in page]
    assert [len(page) for page in events] == [50, len(shown) - 50]
    # Seven keys created, six revoked, sixty changes of a limit, the account and its first session.
    assert (len(shown), sum(target.startswith("key_") for target in shown)) == (75, 73)
    assert shown[-1].startswith("acc_"), "the oldest change is hidden"
    assert [request_id for page in requests for request_id in page] == [
        call.headers["x-request-id"] for call in reversed(calls)
    ]
    assert [len(page) for page in requests] == [50, 50, 20]


async def _all_pages(browser: Browser, path: str, item: str, older: str) -> list[list[str]]:
    """Return the items of all pages of a list, following the link to the next page."""
    pages: list[list[str]] = []
    while True:
        html = (await browser.get(path)).text
        assert len(pages) < 10, "the same page was returned again"
        pages.append(re.findall(item, html))
        link = re.search(older, html)
        if link is None:
            return pages
        path = unescape(link[1])


async def _end_elsewhere(stack: Stack, owner: Browser) -> str:
    """End a browser's session from another one, as its owner; return the account's e-mail."""
    email: str = re.findall(r">([0-9a-f]{12}@example\.com)<", (await owner.get("/account")).text)[0]
    async with Browser(stack, gateway=1) as other:
        await other.submit("/login", "/login", {"email": email, "password": PASSWORD})
        account = (await other.get("/account")).text
        action = re.findall(r'action="(/account/sessions/ses_\w+/end)"', account)[0]
        assert (await other.send(account, action, {})).status_code == 200
    return email


async def test_a_form_of_an_ended_session_is_kept_through_the_log_in(stack: Stack, owner: Browser) -> None:
    """It used to be lost, and answered as "opened too long ago"."""
    page = (await owner.get("/keys")).text
    email = await _end_elsewhere(stack, owner)
    typed = {"name": "my lapt\u00f6p & more", "expires": "2031-05-01", "models": "openai/*, my-model"}
    typed["model:openai/gpt-oss-20b"] = "1"

    reported = await owner.send(page, "/keys", typed)
    assert reported.status_code == 403
    assert "Your session has ended" in reported.text
    assert "opened" not in reported.text
    back = await owner.send(reported.text, "/login", {"email": email, "password": PASSWORD})

    assert back.url.path == "/keys"
    fields = next(form for form in forms_of(back.text) if form.action == "/keys").fields
    assert {name: fields[name] for name in typed} == typed
    assert "my lapt\u00f6p" not in (await owner.get("/keys")).text, "a key was created without a confirmation"
    assert "my lapt\u00f6p" in (await owner.send(back.text, "/keys", {})).text


async def test_a_page_of_an_ended_session_is_opened_again_after_the_log_in_with_its_query(
    stack: Stack, owner: Browser
) -> None:
    email = await _end_elsewhere(stack, owner)
    wanted = "/usage?key=key_01ARZ3NDEKTSV4RRFFQ69G5FAV&outcome=cut&from=2026-11-01"

    reported = await owner.get(wanted)
    assert "Your session has ended" in reported.text
    back = await owner.send(reported.text, "/login", {"email": email, "password": PASSWORD})

    assert str(back.url) == f"{owner.origin}{wanted}"


@pytest.mark.parametrize("action", ["/account/password", "/account/delete", "/logout"])
async def test_a_form_of_an_ended_session_is_never_reported_as_too_old(
    stack: Stack, owner: Browser, action: str
) -> None:
    page = (await owner.get("/account")).text
    await _end_elsewhere(stack, owner)

    reported = await owner.send(page, action, {"current": PASSWORD, "new": "another good one", "password": PASSWORD})

    assert "reload the page" not in reported.text
    assert ("Log in" in reported.text) or reported.url.path == "/"
    assert "another good one" not in reported.text, "a password is kept"


async def test_a_user_who_logged_out_in_another_tab_is_asked_to_log_in(owner: Browser) -> None:
    page = (await owner.get("/keys")).text
    await owner.submit("/account", "/logout", {})

    reported = await owner.send(page, "/keys", {"name": "laptop"})

    assert (reported.status_code, "Log in" in reported.text) == (403, True)
    assert "name%3Dlaptop" in reported.text or "name=laptop" in reported.text


async def test_a_log_in_form_opened_before_another_log_in_says_so(stack: Stack, owner: Browser) -> None:
    async with Browser(stack) as browser:
        early = (await browser.get("/login")).text
        await browser.sign_up(f"{secrets.token_hex(6)}@example.com")
        reported = await browser.send(early, "/login", {"email": "a@example.com", "password": PASSWORD})
    assert reported.status_code == 403
    assert "you have logged in or out since" in reported.text


async def test_the_pages_show_the_plans_limit_and_the_invitations(own_stack: Stack) -> None:
    async with open_channel(own_stack.settings.auth_listen) as channel:
        plans = plans_pb2_grpc.PlanServiceStub(channel)
        for name, limit in (("free", 250), ("team", 12_345)):
            request = plans_pb2.SetPlanRequest(plan=plans_pb2.Plan(name=name, daily_limit=limit))
            await plans.SetPlan(request, metadata=own_stack.admin_metadata, timeout=5)
        accounts = accounts_pb2_grpc.AccountServiceStub(channel)
        invite = await accounts.CreateInvite(
            accounts_pb2.CreateInviteRequest(plan="team"), metadata=own_stack.admin_metadata, timeout=5
        )
    async with Browser(own_stack) as browser:
        for path in ("/signup", "/", "/docs"):
            page = (await browser.get(path)).text
            assert "250" in page, path
            assert "1,000" not in page, path
        assert "12,345 requests a day" in (await browser.get(f"/signup?token={invite.token}")).text
        assert "250 requests a day" in (await browser.get("/signup?token=one_stk_nonsense")).text
        own_stack.kill("auth")
        for path in ("/", "/docs"):
            away = await browser.get(path)
            assert (away.status_code, "250" in away.text) == (200, True)
