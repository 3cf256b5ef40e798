"""Identity providers and the second factor in a real browser, in both themes at three widths."""

import base64
import secrets
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from services.auth.totp.codes import Secret
from tests.browser.test_console_in_a_browser import LOOKS
from tests.browser.user import PASSWORD, Scheme, User, user_at
from tests.e2e.stack import Stack, running_stack
from tests.identity_providers import GitHubStandIn, OIDCStandIn, serving, settings_of


@pytest.fixture(scope="module")
def provider() -> Iterator[OIDCStandIn]:
    """Yield an OpenID Connect provider, whose user consents at once."""
    oidc = OIDCStandIn()
    with serving(oidc.app()) as oidc.url:
        yield oidc


@pytest.fixture(scope="module")
def console(provider: OIDCStandIn) -> Iterator[Stack]:
    """Yield a stack that offers the provider and GitHub."""
    github = GitHubStandIn()
    with serving(github.app()) as github.url:
        settings: dict[str, Any] = settings_of(provider, github) | {"AUTH_SIGN_UPS_PER_ADDRESS_MAX": "10000"}
        with running_stack(workers=1, **settings) as running:
            provider.redirect_uri = f"{running.base_url}/login/oidc/callback"
            yield running


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
async def test_log_in_with_a_provider_and_a_second_factor(
    chromium: Browser, console: Stack, provider: OIDCStandIn, scheme: Scheme, width: int
) -> None:
    name = secrets.token_hex(6)
    provider.subject, provider.email = f"subject-{name}", f"{name}@example.com"
    async with user_at(chromium, console, scheme=scheme, width=width) as user:
        await user.open("/login")
        await _check(user)
        await user.page.get_by_role("link", name="Continue with Example ID").click()
        await user.page.wait_for_url("**/keys")
        await _choose_password(user)

        secret = await _turn_on(user)

        await user.page.context.clear_cookies()
        await user.open("/login")
        await user.log_in(provider.email)
        await user.page.wait_for_url("**/login/code**")
        await _check(user)
        await user.page.get_by_label("Code").fill(_code(secret, 1))
        await user.page.keyboard.press("Enter")
        await user.page.wait_for_url("**/keys")
        assert [one for one in user.complaints if not one.startswith(provider.url)] == []


async def _choose_password(user: User) -> None:
    await user.open("/account/log-in")
    await _check(user)
    await user.page.get_by_label("New password").fill(PASSWORD)
    await user.page.get_by_role("button", name="Choose password").click()


async def _turn_on(user: User) -> Secret:
    """Turn on the second factor, look at each page on the way, and return the secret."""
    page = user.page
    await user.open("/account/log-in")
    await page.get_by_text("Unlink", exact=True).click()
    await _check(user)
    await page.locator("#enrol-password").fill(PASSWORD)
    await page.get_by_role("button", name="Set up").click()
    await expect(page.get_by_role("img", name="QR code")).to_be_visible()
    await _check(user)
    secret = Secret(base64.b32decode(await page.locator("p:has-text('Key:') code").inner_text()))
    await page.get_by_label("2. Enter the code").fill(_code(secret, 0))
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Recovery codes")).to_be_visible()
    await _check(user)
    await page.get_by_role("link", name="I have saved them").click()
    await expect(page.get_by_text("10 recovery codes left.")).to_be_visible()
    await page.get_by_text("New recovery codes", exact=True).click()
    await page.get_by_text("Turn off", exact=True).first.click()
    await _check(user)
    return secret


async def _check(user: User) -> None:
    """Check that the page is accessible and fits its width."""
    assert await user.faults() == []
    assert await user.small_targets() == []
    assert await user.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def _code(secret: Secret, used: int) -> str:
    """Return the first or second of two codes that auth accepts, even if a step ends in ten seconds."""
    return secret.code(int(time.time() + 10) // 30 - 1 + used).decode()
