"""Log-in with identity providers in the console, walked by a browser without rendering over real services."""

import re
import secrets
from collections.abc import AsyncIterator, Iterator
from html import unescape
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.console.browser import PASSWORD, Browser, forms_of
from tests.e2e.stack import Stack, running_stack
from tests.identity_providers import GitHubStandIn, OIDCStandIn, serving, settings_of

pytestmark = pytest.mark.xdist_group("console-identities")


@pytest.fixture(scope="module")
def providers() -> Iterator[tuple[OIDCStandIn, GitHubStandIn]]:
    oidc, github = OIDCStandIn(), GitHubStandIn()
    with serving(oidc.app()) as oidc.url, serving(github.app()) as github.url:
        yield oidc, github


@pytest.fixture(scope="module")
def console(providers: tuple[OIDCStandIn, GitHubStandIn]) -> Iterator[Stack]:
    settings: dict[str, Any] = settings_of(*providers) | {
        "AUTH_SIGN_UPS_PER_ADDRESS_MAX": "10000",
        "AUTH_LOG_INS_PER_ADDRESS_MAX": "10000",
    }
    with running_stack(workers=1, **settings) as running:
        for provider, name in zip(providers, ("oidc", "github"), strict=True):
            provider.redirect_uri = f"{running.base_url}/login/{name}/callback"
        yield running


@pytest.fixture
async def browser(console: Stack, providers: tuple[OIDCStandIn, GitHubStandIn]) -> AsyncIterator[Browser]:
    """Yield a new browser, and give the providers a new user."""
    oidc, github = providers
    name = secrets.token_hex(6)
    oidc.subject, oidc.email, oidc.is_email_verified, oidc.is_down = (
        f"subject-{name}",
        f"{name}@example.com",
        True,
        False,
    )
    github.user_id, github.emails = (
        secrets.randbelow(2**40),
        [{"email": f"{name}@example.com", "primary": True, "verified": True}],
    )
    async with Browser(console) as opened:
        yield opened


async def _at_provider(browser: Browser, url: str) -> str:
    """Log in at the provider, in its own cookie jar, and return the address to which it sends the browser back."""
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.get(url)
    assert response.status_code == 302, response.text
    location = response.headers["location"]
    assert location.startswith(f"{browser.origin}/login/")
    return str(location)


async def _log_in(browser: Browser, button: str, *, page: str = "/login") -> httpx.Response:
    """Press a button of the log-in page, log in at the provider, and return the page after it."""
    return await browser.get(await _at_provider(browser, await _pressed(browser, button, page=page)))


async def _pressed(browser: Browser, button: str, *, page: str = "/login") -> str:
    """Press a button of a page, and return the address of the provider to which it leads."""
    html = (await browser.get(page)).text
    link = re.search(rf'href="([^"]+)">{button}</a>', html)
    assert link, html
    response = await browser.client.get(unescape(link[1]), follow_redirects=False)
    assert response.status_code == 303
    return str(response.headers["location"])


@pytest.mark.parametrize("button", ["Continue with Example ID", "Continue with GitHub"])
async def test_a_visitor_logs_in_with_a_provider_and_returns_to_the_page(
    browser: Browser, providers: tuple[OIDCStandIn, GitHubStandIn], button: str
) -> None:
    page = await _log_in(browser, button, page="/login?next=%2Fusage%3Fkey%3Dx")

    assert (page.status_code, page.url.path, page.url.query) == (200, "/usage", b"key=x")
    assert providers[0].email in (await browser.get("/account")).text
    assert "Identity linked" in (await browser.get("/account")).text


async def test_the_state_cookie_is_for_this_host_and_not_for_scripts_and_is_deleted_afterwards(
    browser: Browser,
) -> None:
    start = await browser.client.get("/login/oidc", follow_redirects=False)
    [cookie] = [one for one in start.headers.get_list("set-cookie") if "log_in_state" in one]

    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Max-Age=600" in cookie
    assert "Domain" not in cookie
    await browser.get(await _at_provider(browser, start.headers["location"]))
    assert not [name for name in browser.client.cookies if "log_in_state" in name or "log_in_return" in name]


async def test_the_redirect_uri_does_not_follow_the_host_header(browser: Browser) -> None:
    for headers in ({"host": "attacker.example.com"}, {"x-forwarded-host": "attacker.example.com"}):
        start = await browser.client.get("/login/oidc", headers=headers, follow_redirects=False)
        assert "attacker" not in start.headers["location"]


async def test_an_answer_in_another_browser_opens_no_session(console: Stack, browser: Browser) -> None:
    """Otherwise an attacker could log a victim in to the attacker's account."""
    back = await _at_provider(browser, await _pressed(browser, "Continue with Example ID"))

    async with Browser(console) as victim:
        await _pressed(victim, "Continue with Example ID")
        refused = await victim.get(back)
        without_cookie = await victim.get(back)
    assert (refused.status_code, without_cookie.status_code) == (403, 403)
    assert "was not completed: it was not started in this browser" in unescape(refused.text)
    assert "was not started in this browser" in unescape(without_cookie.text)
    assert "Log out" not in refused.text + without_cookie.text
    assert "Log out" in (await browser.get(back)).text


async def test_an_answer_that_was_used_cannot_be_used_again_with_the_cookies_of_then(browser: Browser) -> None:
    url = await _pressed(browser, "Continue with Example ID")
    cookies = dict(browser.client.cookies)
    back = await _at_provider(browser, url)
    assert (await browser.get(back)).status_code == 200

    header = "; ".join(f"{name}={value}" for name, value in cookies.items())
    async with httpx.AsyncClient(trust_env=False) as client:
        again = await client.get(back, headers={"cookie": header, "accept": "text/html"})
    assert again.status_code == 403


@pytest.mark.parametrize("query", ["error=access_denied", "error=%3Cscript%3E&error_description=%3Cscript%3E", ""])
async def test_an_error_of_the_provider_is_shown_in_our_words(browser: Browser, query: str) -> None:
    await _pressed(browser, "Continue with Example ID")

    page = await browser.get(f"/login/oidc/callback?{query}")

    assert page.status_code == 403
    assert re.search(
        r'class="note bad" role="alert">The log-in was|class="note bad" role="alert">The provider', page.text
    )
    assert "<script>" not in page.text


async def test_a_next_page_on_another_site_is_not_opened(browser: Browser) -> None:
    start = await browser.client.get("/login/oidc?next=https%3A%2F%2Fattacker.example.com", follow_redirects=False)
    back = await browser.client.get(await _at_provider(browser, start.headers["location"]), follow_redirects=False)

    assert (back.status_code, back.headers["location"]) == (303, "/keys")


async def test_a_provider_that_is_down_is_reported_on_the_log_in_page(
    browser: Browser, providers: tuple[OIDCStandIn, GitHubStandIn]
) -> None:
    back = await _at_provider(browser, await _pressed(browser, "Continue with Example ID"))
    providers[0].is_down = True

    page = await browser.get(back)

    assert page.status_code == 503
    assert "Example ID cannot be reached at the moment." in page.text
    assert forms_of(page.text)[0].action == "/login"


async def test_an_unknown_provider_is_reported(browser: Browser) -> None:
    page = await browser.get("/login/unknown")

    assert (page.status_code, "is not set up" in page.text) == (404, True)


async def test_an_owner_links_a_provider_and_logs_in_with_it_and_unlinks_it(
    browser: Browser, console: Stack, providers: tuple[OIDCStandIn, GitHubStandIn]
) -> None:
    email = f"owner-{providers[0].email}"
    await browser.sign_up(email)

    page = await browser.submit("/account/log-in", "/account/log-in/oidc/link", {"password": PASSWORD})
    shown = re.search(r'http-equiv="refresh" content="0; url=([^"]+)"', page.text)
    assert shown, page.text
    assert urlsplit(unescape(shown[1])).path == "/authorize"
    linked = await browser.get(await _at_provider(browser, unescape(shown[1])))
    assert (linked.url.path, f"<bdi>{providers[0].email}</bdi>" in linked.text) == ("/account/log-in", True)

    async with Browser(console) as other:
        await _log_in(other, "Continue with Example ID")
        assert email in (await other.get("/account")).text

    action = re.search(r'action="(/account/log-in/identities/[^"]+)"', linked.text)
    assert action
    unlinked = await browser.submit("/account/log-in", action[1], {"password": PASSWORD})
    assert (unlinked.url.path, f"<bdi>{providers[0].email}</bdi>" in unlinked.text) == ("/account/log-in", False)


async def test_a_link_is_not_started_by_another_site_or_without_the_password(browser: Browser) -> None:
    await browser.sign_up(f"{secrets.token_hex(6)}@example.com")
    html = (await browser.get("/account/log-in")).text
    [form] = [one for one in forms_of(html) if one.action.endswith("/oidc/link")]

    from_elsewhere = await browser.client.post(
        form.action, data=form.fields, headers={"origin": "https://attacker.example.com"}
    )
    wrong = await browser.send(html, form.action, {"password": "a wrong guess"})

    assert from_elsewhere.status_code == 403
    assert (wrong.status_code, "Incorrect password." in wrong.text) == (403, True)
    assert (await browser.client.get(form.action)).status_code == 405


async def test_a_link_in_a_session_that_has_ended_leads_to_the_log_in(browser: Browser) -> None:
    await browser.sign_up(f"{secrets.token_hex(6)}@example.com")
    page = await browser.submit("/account/log-in", "/account/log-in/oidc/link", {"password": PASSWORD})
    shown = re.search(r'http-equiv="refresh" content="0; url=([^"]+)"', page.text)
    assert shown
    back = await _at_provider(browser, unescape(shown[1]))
    await browser.submit("/keys", "/logout", {})

    after = await browser.get(back)

    assert (after.status_code, after.url.path) == (200, "/login")


async def test_an_account_without_a_password_chooses_one(
    browser: Browser, console: Stack, providers: tuple[OIDCStandIn, GitHubStandIn]
) -> None:
    await _log_in(browser, "Continue with GitHub")

    await browser.submit("/account/log-in", "/account/password", {"new": PASSWORD})

    async with Browser(console) as other:
        page = await other.submit("/login", "/login", {"email": providers[0].email, "password": PASSWORD})
        assert (page.status_code, page.url.path) == (200, "/keys")
