"""The second factor in the console, walked by a browser without rendering over real services."""

import base64
import re
import secrets
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from services.auth.totp.codes import Secret
from tests.e2e.console.browser import PASSWORD, Browser, forms_of
from tests.e2e.stack import Stack

_METHODS = "/account/log-in"


@pytest.fixture
async def owner(stack: Stack) -> AsyncIterator[Browser]:
    """Yield a browser of a newly signed-up user."""
    async with Browser(stack) as browser:
        assert (await browser.sign_up(_email())).status_code == 200
        yield browser


def _email() -> str:
    return f"{secrets.token_hex(6)}@example.com"


def _code(secret: Secret, used: int = 0) -> str:
    """Return the first or second of two codes that auth accepts, even if a step ends in ten seconds."""
    return secret.code(int(time.time() + 10) // 30 - 1 + used).decode()


async def _enabled(browser: Browser) -> tuple[Secret, list[str]]:
    """Turn on the second factor, and return its secret and the recovery codes."""
    page = await browser.submit(_METHODS, f"{_METHODS}/totp/enrol", {"password": PASSWORD})
    shown = re.search(r"Key: <code>([A-Z2-7]{32})</code>", page.text)
    assert shown, page.text
    assert "<svg" in page.text
    secret = Secret(base64.b32decode(shown[1]))
    wrong = await browser.send(page.text, f"{_METHODS}/totp/enable", {"code": "000000"})
    assert (wrong.status_code, shown[1] in wrong.text, "Incorrect code" in wrong.text) == (403, True, True)
    codes = await browser.send(wrong.text, f"{_METHODS}/totp/enable", {"code": _code(secret)})
    return secret, re.findall(r"<li><code>([A-Z2-7-]{14})</code></li>", codes.text)


async def _log_in(browser: Browser, email: str, *, page: str = "/login") -> httpx.Response:
    return await browser.submit(page, "/login", {"email": email, "password": PASSWORD})


async def _email_of(browser: Browser) -> str:
    found = re.search(r"<dt>E-mail</dt><dd>([^<]+)</dd>", (await browser.get("/account")).text)
    assert found
    return found[1]


async def test_an_owner_turns_the_second_factor_on_and_logs_in_with_a_code(stack: Stack, owner: Browser) -> None:
    secret, codes = await _enabled(owner)
    email = await _email_of(owner)
    assert len(codes) == 10

    async with Browser(stack) as other:
        page = await _log_in(other, email, page="/login?next=%2Fusage")
        assert (page.url.path, "Enter a code" in page.text) == ("/login/code", True)
        assert (await other.get("/keys")).url.path == "/login", "the password alone opens no page"
        wrong = await other.submit("/login/code", "/login/code", {"code": "000000"})
        assert (wrong.status_code, "Incorrect code" in wrong.text) == (403, True)
        opened = await other.submit("/login/code", "/login/code", {"code": _code(secret, 1)})
        assert (opened.status_code, opened.url.path) == (200, "/usage")
        assert not [name for name in other.client.cookies if "pending" in name]


async def test_a_recovery_code_works_once_and_new_ones_replace_the_old(stack: Stack, owner: Browser) -> None:
    secret, codes = await _enabled(owner)
    email = await _email_of(owner)
    async with Browser(stack) as other:
        await _log_in(other, email)
        assert (await other.submit("/login/code", "/login/code", {"code": codes[0].lower()})).url.path == "/keys"
    assert "9 recovery codes left" in (await owner.get(_METHODS)).text

    fields = {"password": PASSWORD, "code": _code(secret, 1)}
    page = await owner.submit(_METHODS, f"{_METHODS}/totp/recovery-codes", fields)

    assert len(re.findall(r"<li><code>[A-Z2-7-]{14}</code></li>", page.text)) == 10
    async with Browser(stack) as other:
        await _log_in(other, email)
        assert (await other.submit("/login/code", "/login/code", {"code": codes[1]})).status_code == 403


async def test_an_owner_turns_the_second_factor_off(stack: Stack, owner: Browser) -> None:
    _, codes = await _enabled(owner)
    email = await _email_of(owner)

    wrong = await owner.submit(_METHODS, f"{_METHODS}/totp/disable", {"password": PASSWORD, "code": "000000"})
    assert wrong.status_code == 403
    page = await owner.submit(_METHODS, f"{_METHODS}/totp/disable", {"password": PASSWORD, "code": codes[0]})

    assert (page.url.path, f"{_METHODS}/totp/enrol" in page.text) == (_METHODS, True)
    async with Browser(stack) as other:
        assert (await _log_in(other, email)).url.path == "/keys"
    account = (await owner.get("/account")).text
    for label in ("Second factor turned on", "Recovery code used", "Second factor turned off"):
        assert label in account


async def test_the_code_page_without_a_log_in_leads_to_the_log_in(owner: Browser, stack: Stack) -> None:
    async with Browser(stack) as visitor:
        assert (await visitor.get("/login/code")).url.path == "/login"
        page = (await visitor.get("/login")).text
        fields = {**forms_of(page)[0].fields, "code": "000000"}
        answer = await visitor.client.post("/login/code", data=fields, headers={"origin": visitor.origin})
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")


async def test_the_secret_is_not_shown_without_the_password(owner: Browser) -> None:
    page = await owner.submit(_METHODS, f"{_METHODS}/totp/enrol", {"password": "a wrong guess"})

    assert (page.status_code, "Incorrect password." in page.text, "<svg width" in page.text) == (403, True, False)
    assert (await owner.client.get(f"{_METHODS}/totp/enrol")).status_code == 405
