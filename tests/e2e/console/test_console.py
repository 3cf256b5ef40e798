"""A user's session in the console, over real services."""

import csv
import io
import re
import secrets
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.e2e.console.browser import PASSWORD, Browser, secret_of
from tests.e2e.stack import Stack, say


def an_email() -> str:
    """Return an unused e-mail address."""
    return f"{secrets.token_hex(6)}@example.com"


@pytest.fixture
async def browser(stack: Stack) -> AsyncIterator[Browser]:
    """Yield a browser of a new visitor."""
    async with Browser(stack) as browser:
        yield browser


@pytest.fixture
async def owner(browser: Browser) -> Browser:
    """Yield a browser of a newly signed-up user."""
    assert (await browser.sign_up(an_email())).status_code == 200
    return browser


async def _call(browser: Browser, secret: str, **members: object) -> httpx.Response:
    headers = {"authorization": f"Bearer {secret}", "accept": "application/json"}
    return await browser.client.post("/api/v1/chat", headers=headers, json=say("hi", **members))


async def test_from_sign_up_to_the_first_answer_and_the_revocation_of_the_key(owner: Browser) -> None:
    empty = (await owner.get("/keys")).text
    assert "Three steps to your first answer" in empty
    made = await owner.submit("/keys", "/keys", {"name": "laptop"})
    secret = secret_of(made.text)
    assert secret not in (await owner.get("/keys")).text, "the key is shown twice"

    answer = await _call(owner, secret)
    assert answer.status_code == 200
    request_id = answer.headers["x-request-id"]

    usage = (await owner.get("/usage")).text
    assert request_id in usage
    assert "999" in usage
    receipt = await owner.get(f"/usage/requests/{request_id}")
    assert "The answer is complete." in receipt.text
    cost = re.search(r'<dt>Cost</dt><dd class="figure">\$(0\.\d+)</dd>', receipt.text)
    assert cost, "the receipt has no cost"
    assert f'<dt>Cost</dt><dd class="figure">${cost[1]}</dd>' in usage, "the only request is the sum"
    assert usage.count(f'data-label="Cost" class="n">${cost[1]}</td>') == 3, (
        "of the model, of the day, and of the request"
    )
    listed = (await owner.get("/keys")).text
    assert re.search(r">1\s*<span class=\"muted\">of 1,000", listed), "the list does not show today's use"

    action = next(iter(re.findall(r'action="(/keys/key_\w+/revoke)"', listed)))
    assert (await owner.send(listed, action, {})).status_code == 200
    revoked_at = time.monotonic()
    while (await _call(owner, secret)).status_code == 200:
        assert time.monotonic() - revoked_at < 1
    assert (await _call(owner, secret)).status_code == 401


async def test_a_rotated_key_and_its_successor_both_work(owner: Browser) -> None:
    first = secret_of((await owner.submit("/keys", "/keys", {"name": "laptop"})).text)
    listed = (await owner.get("/keys")).text
    action = next(iter(re.findall(r'action="(/keys/key_\w+/rotate)"', listed)))

    second = secret_of((await owner.send(listed, action, {"grace": "3600"})).text)

    assert [(await _call(owner, one)).status_code for one in (first, second)] == [200, 200]
    assert "expires soon" in (await owner.get("/keys")).text


async def test_a_key_for_one_model_refuses_others(owner: Browser) -> None:
    fields = {"name": "only", "models": "openai/gpt-oss-*"}
    secret = secret_of((await owner.submit("/keys", "/keys", fields)).text)

    assert (await _call(owner, secret, model="openai/gpt-oss-20b")).status_code == 200
    refused = await _call(owner, secret, model="qwen/qwen3-32b")
    assert refused.status_code in (403, 404)


async def test_the_playground_uses_the_same_pipeline_and_is_counted(owner: Browser) -> None:
    await owner.submit("/keys", "/keys", {"name": "laptop"})
    page = (await owner.get("/playground")).text
    csrf = re.search(r'data-csrf="(\w+)"', page)
    key = re.search(r'<option value="(key_\w+)"', page)
    assert csrf
    assert key
    headers = {"x-csrf-token": csrf[1], "stack-key-id": key[1], "origin": owner.origin}

    answer = await owner.client.post("/playground/chat", headers=headers, json=say("hi", stream=True))

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.rstrip().endswith("data: [DONE]")
    assert answer.headers["x-ratelimit-remaining-requests"] == "999"
    receipt = (await owner.get(f"/usage/requests/{answer.headers['x-request-id']}")).text
    assert "Answered" in receipt
    assert "<dt>API</dt><dd>Chat Completions</dd>" in receipt
    without = await owner.client.post("/playground/chat", headers={"stack-key-id": key[1]}, json=say("hi"))
    assert without.status_code == 403


async def test_the_csv_contains_the_ledgers_rows(owner: Browser) -> None:
    secret = secret_of((await owner.submit("/keys", "/keys", {"name": "laptop"})).text)
    ids = [(await _call(owner, secret)).headers["x-request-id"] for _ in range(3)]

    rows = list(csv.DictReader(io.StringIO((await owner.get("/usage.csv")).text)))

    assert [row["request_id"] for row in rows] == sorted(ids, reverse=True)
    assert {(row["outcome"], row["surface"]) for row in rows} == {("answered", "chat")}
    assert all(int(row["total_tokens"]) > 0 for row in rows)
    assert all(0 < float(row["cost_usd"]) < 0.01 for row in rows)
    assert list(csv.DictReader(io.StringIO((await owner.get("/usage.csv?outcome=cut")).text))) == []


async def test_a_failed_request_shows_why_it_was_not_counted(owner: Browser) -> None:
    secret = secret_of((await owner.submit("/keys", "/keys", {"name": "laptop"})).text)
    headers = {"authorization": f"Bearer {secret}", "accept": "application/json"}
    failed = await owner.client.post("/api/v1/chat", headers=headers, json=say("[[standin:error status=400]]"))
    assert failed.status_code == 400

    page = (await owner.get(f"/usage/requests/{failed.headers['x-request-id']}")).text

    assert "not counted" in page
    assert "The request was not counted because" in page


async def test_another_owners_request_looks_like_an_unknown_one(stack: Stack, owner: Browser) -> None:
    secret = secret_of((await owner.submit("/keys", "/keys", {"name": "laptop"})).text)
    request_id = (await _call(owner, secret)).headers["x-request-id"]
    async with Browser(stack) as other:
        await other.sign_up(an_email())
        seen = await other.get(f"/usage/requests/{request_id}")
        never = await other.get("/usage/requests/req_01ARZ3NDEKTSV4RRFFQ69G5FAV")

    assert (seen.status_code, never.status_code) == (404, 404)
    assert seen.text.replace(request_id, "") == never.text.replace("req_01ARZ3NDEKTSV4RRFFQ69G5FAV", "")


async def test_a_new_password_keeps_this_session_ends_others_and_is_logged(stack: Stack, owner: Browser) -> None:
    email = re.findall(r">([0-9a-f]{12}@example\.com)<", (await owner.get("/account")).text)[0]
    async with Browser(stack, gateway=1) as elsewhere:
        fields = {"email": email, "password": PASSWORD}
        assert "API keys" in (await elsewhere.submit("/login", "/login", fields)).text
        change = {"current": PASSWORD, "new": "another good password"}
        page = await owner.submit("/account", "/account/password", change)
        assert "Your password has been changed" in page.text
        assert "Password changed" in page.text
        assert str((await elsewhere.get("/keys")).url).endswith("/login?next=%2Fkeys")
        assert "Incorrect e-mail or password." in (await elsewhere.submit("/login", "/login", fields)).text


async def test_a_deleted_account_is_gone(owner: Browser) -> None:
    secret = secret_of((await owner.submit("/keys", "/keys", {"name": "laptop"})).text)
    refused = await owner.submit("/account", "/account/delete", {"password": "not the password"})
    assert refused.status_code == 403

    gone = await owner.submit("/account", "/account/delete", {"password": PASSWORD})

    assert "Your account has been deleted" in gone.text
    assert (await _call(owner, secret)).status_code == 401
    assert "/login" in str((await owner.get("/keys")).url)


@pytest.mark.parametrize("path", ["/", "/docs", "/login", "/signup", "/forgot", "/verify", "/reset", "/nowhere"])
async def test_public_pages_open_and_show_the_host_of_the_request(browser: Browser, path: str) -> None:
    page = await browser.get(path)

    assert page.status_code == (404 if path == "/nowhere" else 200)
    assert page.text.startswith("<!doctype html>")
    if path == "/docs":
        assert f"{browser.origin}/api/v1/chat" in page.text


async def test_api_clients_get_json_for_unknown_paths(browser: Browser) -> None:
    answer = await browser.client.get("/nowhere", headers={"accept": "application/json"})

    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "invalid_request_error")
    assert (await browser.client.get("/api/v1/nowhere")).json()["error"]["type"] == "invalid_request_error"


async def test_no_cell_of_the_csv_is_a_formula(owner: Browser) -> None:
    secret = secret_of((await owner.submit("/keys", "/keys", {"name": "laptop"})).text)
    formula = '=HYPERLINK("https://evil.example","open me")'
    await _call(owner, secret, model=formula)

    text = (await owner.get("/usage.csv")).text

    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["model"] for row in rows] == [f"'{formula}"]
    assert not [cell for row in rows for cell in row.values() if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]


async def test_an_error_page_shows_who_is_logged_in(browser: Browser) -> None:
    assert 'href="/login"' in (await browser.get("/nowhere")).text
    await browser.sign_up(an_email())

    page = (await browser.get("/nowhere")).text

    assert "Go to your API keys" in page
    assert 'href="/login"' not in page
    await browser.submit("/nowhere", "/logout", {})
    assert 'href="/login"' in (await browser.get("/nowhere")).text


async def test_a_page_of_an_ended_session_offers_log_in_and_sign_up(stack: Stack, owner: Browser) -> None:
    token = owner.client.cookies[owner.session_cookie]
    await owner.submit("/account", "/logout", {})
    async with Browser(stack) as stale:
        stale.client.cookies.set(stale.session_cookie, token, domain="127.0.0.1")

        page = (await stale.get("/")).text

        assert 'href="/login"' in page
        assert "Log out" not in page


async def test_requests_can_be_filtered_by_key_outcome_and_day(owner: Browser) -> None:
    for name in ("laptop", "server"):
        secret = secret_of((await owner.submit("/keys", "/keys", {"name": name})).text)
        await _call(owner, secret)
    await owner.client.post(
        "/api/v1/chat", headers={"authorization": f"Bearer {secret}"}, json=say("[[standin:error status=400]]")
    )
    await owner.client.post("/v1/responses", headers={"authorization": f"Bearer {secret}"}, json={"input": "hi"})
    page = (await owner.get("/usage")).text
    assert '<small class="muted">Responses</small>' in page
    ids = dict(re.findall(r'<option value="(key_\w{26})">(\w+) ', page))

    async def shown(query: str) -> int:
        return len(re.findall(r"/usage/requests/req_\w+", (await owner.get(f"/usage?{query}")).text))

    by_key = [await shown(f"key={key_id}") for key_id, name in sorted(ids.items(), key=lambda pair: pair[1])]
    assert by_key == [1, 3]
    surfaces = ("chat", "responses", "messages", "unheard-of")
    assert [await shown(f"surface={surface}") for surface in surfaces] == [3, 1, 0, 4]
    assert await shown("surface=chat&outcome=refused") == 1
    assert [await shown(f"outcome={outcome}") for outcome in ("answered", "refused", "cut")] == [3, 1, 0]
    assert [await shown(query) for query in ("to=2020-01-01", "from=2020-01-01", "from=soon")] == [0, 4, 4]
    assert "No requests match this filter" in (await owner.get("/usage?to=2020-01-01")).text


async def test_the_countdown_ends_at_the_next_midnight_utc(owner: Browser) -> None:
    page = (await owner.get("/usage")).text

    until = int(re.findall(r'data-until="(\d+)"', page)[0])
    assert until % 86_400 == 0
    assert 0 < until - time.time() <= 86_400
    assert re.search(r'data-until="\d+">\d\d:\d\d:\d\d<', page), "without scripts it shows nothing"
