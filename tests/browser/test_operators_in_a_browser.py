"""The operators' console in a real browser, with accounts that have thirty days of usage, in both themes and widths."""

import os
import secrets
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.async_api import Browser as Chromium

from services.common.rpc.channel import open_channel
from stack.auth.v1 import accounts_pb2
from stack.auth.v1.accounts_pb2_grpc import AccountServiceStub
from tests.browser.history import owned_by, write_history
from tests.browser.user import PASSWORD, Scheme, User, user_at
from tests.e2e.console.browser import Browser
from tests.e2e.operators.operator import Owner, account_id_of, operator
from tests.e2e.stack import Stack, running_stack, say

_LONG_NAME = "k" * 100
_LONG_EMAIL = f"{'a' * 50}.{secrets.token_hex(4)}@{'b' * 60}.example.com"
_SCHEMES: tuple[Scheme, ...] = ("light", "dark")
_WIDTHS = (390, 820, 1280)
_OVERFLOW = """() => Math.max(
  ...[document.documentElement, ...(innerWidth < 500 ? document.querySelectorAll(".scroll") : [])].map(
    (one) => one.scrollWidth - one.clientWidth))"""
"""How far the page, or a table on a phone, is wider than its space."""


@dataclass
class Service:
    """A stack with accounts, and an operator."""

    stack: Stack
    ada: Owner
    account_id: str
    """An account with a long address, a long key name, and usage."""

    @property
    def pages(self) -> dict[str, str]:
        """Every page by a name for its screenshot."""
        return {
            "accounts": "/accounts",
            "account": f"/accounts/{self.account_id}",
            "plans": "/plans",
            "plan": "/plans/free",
            "invites": "/invites",
            "top": "/top?days=30&by=cost",
            "groq-keys": "/groq-keys",
            "audit": "/audit",
            "health": "/health",
            "none": "/accounts?text=nobody",
            "error": "/nowhere",
        }


@pytest.fixture(scope="module")
def operated() -> Iterator[Stack]:
    with running_stack(
        operator_console=True, INFERENCE_KEY_COOLDOWN_SECONDS_MAX="0", AUTH_SIGN_UPS_PER_ADDRESS_MAX="100000"
    ) as running:
        yield running


_services: dict[Stack, Service] = {}


@pytest.fixture
async def service(operated: Stack) -> Service:
    """Fill the stack once."""
    if operated not in _services:
        _services[operated] = await _filled(operated)
    return _services[operated]


async def _filled(stack: Stack) -> Service:
    emails = [_LONG_EMAIL, *(f"{name}@example.com" for name in ("bea", "carl", "dora", "emil"))]
    for number, email in enumerate(emails):
        async with Browser(stack) as browser:
            await browser.sign_up(email)
            for name in (_LONG_NAME, "laptop"):
                await browser.submit("/keys", "/keys", {"name": name})
        write_history(stack, owned_by(stack, email), per_day=20 + 30 * number)
    key = await stack.create_key()
    async with Browser(stack) as browser:
        headers = {"authorization": f"Bearer {key.secret}"}
        assert (await browser.client.post("/api/v1/chat", headers=headers, json=say("hi"))).status_code == 200
    async with open_channel(stack.socket("auth")) as channel:
        accounts, metadata = AccountServiceStub(channel), stack.admin_metadata
        suspending = accounts_pb2.SuspendAccountRequest(account="dora@example.com", reason="sends spam")
        await accounts.SuspendAccount(suspending, metadata=metadata, timeout=5)
        await accounts.DeleteAccount(
            accounts_pb2.DeleteAccountRequest(account="emil@example.com"), metadata=metadata, timeout=5
        )
        for _ in range(2):
            await accounts.CreateInvite(accounts_pb2.CreateInviteRequest(), metadata=metadata, timeout=5)
    return Service(stack, await operator(stack), await account_id_of(stack, _LONG_EMAIL))


async def _log_in(user: User, ada: Owner) -> None:
    await user.open("/login")
    await user.page.get_by_label("E-mail").fill(ada.email)
    await user.page.get_by_label("Password").fill(PASSWORD)
    await user.page.get_by_role("button", name="Continue").click()
    await user.page.get_by_label("Code").fill(ada.code())
    await user.page.get_by_role("button", name="Log in").click()
    await user.page.wait_for_url("**/accounts")


async def _look(user: User, name: str, *, scheme: Scheme, width: int) -> list[str]:
    """Save a screenshot of the page, and return its faults."""
    if folder := os.environ.get("SCREENSHOTS"):
        await user.page.screenshot(path=f"{folder}/operators-{name}-{width}-{scheme}.png", full_page=True)
    overflow = await user.page.evaluate(_OVERFLOW)
    wide = [f"{name}: {overflow} px wider than the screen"] if overflow > 0 else []
    small = [f"{name}: {one}" for one in await user.small_targets()]
    return [*await user.faults(), *wide, *small]


async def test_every_page_is_accessible_and_fits_in_both_themes_and_three_widths(
    chromium: Chromium, service: Service
) -> None:
    origin, faults = service.stack.settings.operator_console_url, list[str]()
    async with AsyncExitStack() as stack:
        user = await stack.enter_async_context(user_at(chromium, service.stack, origin=origin))
        for name, path in (("login", "/login"),):
            await user.open(path)
            faults += await _look(user, name, scheme="light", width=1280)
        await _log_in(user, service.ada)
        cookies: Any = await user.page.context.cookies()
        for scheme in _SCHEMES:
            for width in _WIDTHS:
                seen = await stack.enter_async_context(
                    user_at(chromium, service.stack, origin=origin, scheme=scheme, width=width)
                )
                await seen.page.context.add_cookies(cookies)
                for name, path in service.pages.items():
                    await seen.open(path)
                    faults += await _look(seen, name, scheme=scheme, width=width)
                faults += [one for one in seen.complaints if "404" not in one]
    assert faults == []


async def test_an_operator_suspends_an_account_by_keyboard_alone_and_a_reload_repeats_nothing(
    chromium: Chromium, service: Service
) -> None:
    origin = service.stack.settings.operator_console_url
    account_id = await account_id_of(service.stack, "carl@example.com")
    async with user_at(chromium, service.stack, origin=origin) as user:
        await _log_in(user, service.ada)
        await user.open(f"/accounts/{account_id}")
        await user.page.get_by_text("Suspend this account").focus()
        await user.page.keyboard.press("Enter")
        await user.page.keyboard.press("Tab")
        await user.page.keyboard.type("sends spam")
        await user.page.keyboard.press("Tab")
        await user.page.keyboard.press("Enter")
        await user.page.get_by_role("status").filter(has_text="is suspended").wait_for()
        await user.page.reload()
        assert await user.page.get_by_role("status").count() == 0
        await user.page.get_by_role("button", name="Resume account").press("Enter")
        await user.page.get_by_role("status").filter(has_text="is active again").wait_for()
        await user.page.go_back()
        await user.page.reload()
        assert await user.page.get_by_text("Suspend this account").count() == 1
        assert user.complaints == []
