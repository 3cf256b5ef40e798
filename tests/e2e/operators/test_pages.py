"""The operators' pages, walked by browsers without rendering over real processes."""

import re
import secrets
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.e2e.console.browser import Browser, secret_of
from tests.e2e.operators.operator import (
    OperatorBrowser,
    Owner,
    account_id_of,
    operator,
    set_role,
    signed_up,
    with_totp,
)
from tests.e2e.stack import Stack, say

pytestmark = pytest.mark.xdist_group("operators")


@pytest.fixture
async def ada(operated: Stack) -> Owner:
    return await operator(operated)


@pytest.fixture
async def browser(operated: Stack, ada: Owner) -> AsyncIterator[OperatorBrowser]:
    async with OperatorBrowser(operated) as browser:
        assert (await browser.log_in(ada)).url.path == "/accounts"
        yield browser


async def _chat(stack: Stack, secret: str) -> int:
    headers = {"authorization": f"Bearer {secret}"}
    async with httpx.AsyncClient(base_url=stack.base_url, trust_env=False, timeout=20, headers=headers) as client:
        return (await client.post("/api/v1/chat", json=say("hello"))).status_code


@pytest.mark.long
async def test_a_log_in_returns_to_the_page_and_says_what_is_missing(operated: Stack) -> None:
    owner = await with_totp(operated)
    plain = await signed_up(operated)
    async with OperatorBrowser(operated) as browser:
        refused = await browser.enter_password(owner.email, page="/login?next=%2Ftop%3Fdays%3D7")
        assert (refused.status_code, "stackctl operators add" in refused.text) == (403, True)
        await set_role(operated, plain)
        without = await browser.enter_password(plain)
        assert (without.status_code, "Operators need a second factor" in without.text) == (409, True)

        await set_role(operated, owner.email)
        asked = await browser.enter_password(owner.email, page="/login?next=%2Ftop%3Fdays%3D7")
        wrong = await browser.send(asked.text, "/login/code", {"code": "000000"})
        assert (wrong.status_code, "Incorrect code" in wrong.text) == (403, True)
        shown = await browser.send(wrong.text, "/login/code", {"code": owner.code()})
        assert (shown.status_code, str(shown.url.raw_path, "ascii")) == (200, "/top?days=7")
        out = await browser.submit("/accounts", "/logout", {})
        assert "You are logged out" in out.text
        assert (await browser.get("/accounts")).url.path == "/login"
    for email in (plain, owner.email):
        await set_role(operated, email, is_operator=False)


async def test_an_account_is_found_suspended_and_resumed_and_its_key_follows(
    operated: Stack, browser: OperatorBrowser, ada: Owner
) -> None:
    email = f"{secrets.token_hex(6)}@example.com"
    async with Browser(operated) as owner:
        await owner.sign_up(email)
        secret = secret_of((await owner.submit("/keys", "/keys", {"name": "laptop"})).text)
        assert await _chat(operated, secret) == 200

        found = await browser.get(f"/accounts?text={email[:8].upper()}")
        link = re.search(r'href="(/accounts/acc_\w{26})"', found.text)
        assert link
        page = await browser.get(link[1])
        assert "laptop" in page.text
        assert "active" in page.text
        suspended = await browser.send(page.text, f"{link[1]}/suspend", {"reason": "sends spam"})
        assert "is suspended" in suspended.text
        assert "is suspended" not in (await browser.get(link[1])).text, "a confirmation is shown once"
        assert await _chat(operated, secret) == 401
        assert (await owner.get("/keys")).url.path == "/login"

        resumed = await browser.send(suspended.text, f"{link[1]}/resume", {})
        assert "is active again" in resumed.text
        assert await _chat(operated, secret) == 200
    log = await browser.get(f"/audit?account={email}&action=account")
    assert re.findall(r"<code>(account\.\w+)</code>", log.text) == [
        "account.resumed",
        "account.suspended",
        "account.created",
    ]
    assert "sends spam" in log.text
    assert f"operator {ada.email}" in log.text


async def test_the_usage_of_an_account_is_shown_with_its_sessions_and_plan(
    operated: Stack, browser: OperatorBrowser
) -> None:
    key = await operated.create_account_key(email := f"{secrets.token_hex(6)}@example.com")
    for _ in range(3):
        assert await _chat(operated, key.secret) == 200
    await operated.until_settled(key)
    path = f"/accounts/{key.account_id}"

    page = await browser.get(path)
    figures = re.findall(r'<p class="figure">([\d,]+)</p>', page.text)
    assert figures == ["3", "3"]
    moved = await browser.send(page.text, f"{path}/plan", {"plan": "pro"})
    assert f"{email} has the plan pro now" in moved.text
    top = await browser.get("/top?by=tokens&days=1")
    assert email in top.text
    ended = await browser.get("/accounts/acc_00000000000000000000000000")
    assert ended.status_code == 404


async def test_sessions_are_ended_one_by_one_or_all(operated: Stack, browser: OperatorBrowser) -> None:
    email = await signed_up(operated)
    path = f"/accounts/{await account_id_of(operated, email)}"
    async with Browser(operated) as owner:
        await owner.submit("/login", "/login", {"email": email, "password": "correct horse battery"})
        page = await browser.get(path)
        assert page.text.count("End session<") == 2
        one = await browser.send(page.text, f"{path}/sessions/end", {})
        assert "1 session ended." in one.text
        everything = await browser.send(one.text, f"{path}/sessions/end", {"session": ""})
        assert "1 session ended." in everything.text
        assert "No open sessions" in everything.text
        assert (await owner.get("/keys")).url.path == "/login"


async def test_plans_are_created_and_only_what_was_changed_is_set(operated: Stack, browser: OperatorBrowser) -> None:
    name = f"plan-{secrets.token_hex(4)}"
    created = await browser.submit("/plans", "/plans", {"name": name, "daily_limit": "1,000"})
    assert created.url.path == f"/plans/{name}"
    await operated.set_plan(name, daily_limit=7, account_daily_limit=70)  # Meanwhile, with `stackctl`.

    changed = await browser.send(
        created.text, f"/plans/{name}", {"daily_limit": "1000", "weight": "3", "limits": "key:tokens:minute=6000"}
    )
    assert "is changed" in changed.text
    page = await browser.get(f"/plans/{name}")
    values = dict(re.findall(r'<input id="(\w+)"[^>]* value="(\w*)"', page.text))
    assert (values["daily_limit"], values["account_daily_limit"], values["weight"]) == ("7", "70", "3")
    assert "key:tokens:minute=6000" in page.text
    for fields, told in (
        ({"daily_limit": "many"}, "Daily limit: enter a whole number."),
        ({"limits": "key:tokens:year=1"}, "is not a limit"),
        ({"weight": "0"}, "The weight must be at least 1."),
        ({"weight": "9999999999"}, "Weight: enter at most 2,147,483,647."),
        ({"weight": "2000000000"}, "It must be 1 to 1000."),
        ({"active_keys_max": "9" * 16}, "Active keys max: enter at most"),
        ({"new_keys_per_day_max": "9" * 20}, "New keys per day max: enter a whole number."),
        ({"was": "[" * 15_000}, "The form is not valid."),
    ):
        refused = await browser.send(page.text, f"/plans/{name}", fields)
        assert (refused.status_code, told in refused.text) == (400, True), refused.text
    assert (await browser.get("/plans/none")).status_code == 404


async def test_an_invitation_is_shown_once_listed_without_its_token_and_revoked(
    operated: Stack, browser: OperatorBrowser
) -> None:
    created = await browser.submit("/invites", "/invites", {"plan": "pro"})
    link = re.search(r'<code id="link"[^>]*>(http[^<]+)</code>', created.text)
    assert link
    assert link[1] not in (await browser.get("/invites")).text
    action = re.findall(r'action="(/invites/\w+/revoke)"', created.text)[-1]
    revoked = await browser.send(created.text, action, {})
    assert "The invitation is revoked." in revoked.text
    again = await browser.send(created.text, action, {})
    assert (again.status_code, "no such invitation" in again.text) == (404, True)


async def test_the_groq_keys_and_what_is_left_are_shown_without_the_keys(
    operated: Stack, browser: OperatorBrowser
) -> None:
    key = await operated.create_key()
    assert await _chat(operated, key.secret) == 200
    page = await browser.get("/groq-keys")
    assert "Key 1" in page.text
    assert "Requests per day" in page.text
    assert "gsk_" not in page.text


async def test_the_health_of_every_part_is_shown(browser: OperatorBrowser) -> None:
    page = await browser.get("/health")
    parts = re.findall(r"<tr><td><b>([^<]+)</b></td><td[^>]*><span><span class=\"tag (\w+)\">(\w+)<", page.text)
    names = [name for name, _, _ in parts]
    assert names[:4] == ["Gateway", "Auth", "Quota", "Inference"]
    assert {"Groq", "Redis of the counters", "Database of accounts", "Database of the ledger"} <= set(names)
    assert "bad" not in {kind for _, kind, _ in parts}


async def test_forged_forms_are_refused_and_answers_carry_the_headers_of_the_console(
    operated: Stack, browser: OperatorBrowser
) -> None:
    email = await signed_up(operated)
    path = f"/accounts/{await account_id_of(operated, email)}"
    page = await browser.get(path)
    csrf = re.search(r'name="csrf_token" value="(\w+)"', page.text)
    assert csrf
    for fields, origin in (
        ({"csrf_token": ""}, browser.origin),
        ({"csrf_token": "0" * 64}, browser.origin),
        ({"csrf_token": csrf[1]}, "https://evil.example"),
    ):
        answer = await browser.client.post(f"{path}/suspend", data=fields, headers={"origin": origin})
        assert answer.status_code == 403
        assert ("OPERATOR_CONSOLE_PUBLIC_URL" in answer.text) == (origin != browser.origin)
    assert "Suspend this account" in (await browser.get(path)).text, "it was suspended"
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert page.headers["cache-control"] == "no-store"
    assert not re.search(r"<script(?![^>]*src)|\sstyle=|\son\w+=\"", page.text), "inline script or style"


async def test_pages_say_what_is_unknown_while_inference_is_down(operated: Stack, browser: OperatorBrowser) -> None:
    account_id = await account_id_of(operated, await signed_up(operated))
    operated.stop("inference")
    try:
        for path in (f"/accounts/{account_id}", "/top", "/groq-keys"):
            page = await browser.get(path)
            assert (page.status_code, "cannot be read at the moment" in page.text) == (200, True), path
        health = (await browser.get("/health")).text
        assert 'Inference</b></td><td data-label="State"><span><span class="tag bad">failed' in health
    finally:
        await operated.start_missing()


@pytest.mark.parametrize("text", ["x" * 254, "例" * 254, "<script>alert(1)</script>", "%00", "'; DROP TABLE accounts"])
async def test_odd_searches_get_a_page(browser: OperatorBrowser, text: str) -> None:
    for path in ("/accounts", "/audit"):
        for name in ("text", "account", "actor", "action", "plan", "state", "before"):
            page = await browser.client.get(path, params={name: text})
            assert page.status_code in (200, 400, 404), (path, name)
            assert "<script>alert" not in page.text
