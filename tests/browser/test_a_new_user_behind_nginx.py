"""A new user on an empty stack behind the documented nginx file, with e-mail and a real browser."""

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import httpx
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope
from playwright.async_api import Page, async_playwright, expect

from tests.e2e.stack import Stack, running_stack, say
from tests.ports import free_port
from tests.proxies.proxies import HOST, ROOT, SETTINGS, Proxy, Resolved, nginx

_SHOTS = Path(os.environ.get("SCREENSHOTS", ""))
_ORIGIN = f"https://{HOST}"
_EMAIL = "Priya@Bücher.example"
_SHOWN = "priya@bücher.example"
_FIRST, _SECOND = "correct horse battery", "another good sentence"


class Mailbox:
    """What a mail server received."""

    def __init__(self) -> None:
        self.emails: list[EmailMessage] = []

    async def handle_DATA(self, server: SMTP, session: object, envelope: Envelope) -> str:
        """Accept an e-mail."""
        assert isinstance(envelope.content, bytes)
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.emails.append(message)
        return "250 OK"

    async def link(self, number: int) -> str:
        """Return the link in the e-mail of this number, once it has arrived."""
        async with asyncio.timeout(10):
            while len(self.emails) <= number:
                await asyncio.sleep(0.05)
        part = self.emails[number].get_body(("plain",))
        assert part is not None
        assert self.emails[number]["Date"] is not None
        found = re.search(rf"^{_ORIGIN}/\S+", str(part.get_content()), flags=re.MULTILINE)
        assert found, part.get_content()
        return found[0]


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    """Yield a mailbox and the port of its mail server."""
    box, port = Mailbox(), free_port()
    server = Controller(box, hostname="127.0.0.1", port=port)
    server.start()
    yield box, port
    server.stop()


@pytest.fixture
def proxied(mailbox: tuple[Mailbox, int], tmp_path: Path) -> Iterator[tuple[Stack, Proxy]]:
    """Yield a stack in an empty folder behind nginx, as documented, with mail."""
    mail = {"AUTH_SMTP_URL": f"smtp://127.0.0.1:{mailbox[1]}", "AUTH_MAIL_FROM": "stack@example.com"}
    with running_stack(**SETTINGS, **mail) as stack:  # type: ignore[arg-type]
        text = (ROOT / "deploy" / "proxies" / "nginx.conf").read_text()
        with nginx(tmp_path, stack.base_url, text) as proxy:
            yield stack, proxy


@pytest.fixture
async def page(proxied: tuple[Stack, Proxy]) -> AsyncIterator[Page]:
    """Yield a page of a browser that resolves the console's name to the proxy."""
    chromium = shutil.which("chromium")
    assert chromium, "no chromium; `make test-browser` installs it where apt may"
    options = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-background-networking",
        f"--host-resolver-rules=MAP {HOST}:443 127.0.0.1:{proxied[1].port}",
    ]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=options)
        # No browser trusts the test's authority.
        context = await browser.new_context(
            viewport={"width": 1280, "height": 800}, color_scheme="light", ignore_https_errors=True
        )
        yield await context.new_page()
        await browser.close()


async def test_from_an_empty_folder_to_the_audit_log(
    page: Page, proxied: tuple[Stack, Proxy], mailbox: tuple[Mailbox, int]
) -> None:
    scenario, box = Scenario(page), mailbox[0]
    await page.goto(_ORIGIN)
    await scenario.picture("landing")

    # Sign up and verify the address.
    await page.get_by_role("link", name="Sign up and get a key").click()
    await page.get_by_label("E-mail").fill(_EMAIL)
    await page.get_by_label("Password").fill(_FIRST)
    await scenario.picture("sign-up")
    await page.get_by_role("main").get_by_role("button", name="Sign up").click()
    await expect(page.get_by_text(f"We sent an e-mail to {_EMAIL}")).to_be_visible()
    await scenario.picture("look-into-your-mail")
    await page.goto(await box.link(0))
    await scenario.picture("email-opened")
    await page.get_by_role("button", name="Confirm e-mail").click()
    await expect(page.get_by_text(f"{_SHOWN} is confirmed")).to_be_visible()
    await scenario.picture("confirmed")

    # Log in, create a key, and call the API.
    await scenario.log_in(_FIRST)
    await scenario.picture("logged-in")
    await page.get_by_label("Name", exact=True).fill("laptop")
    await page.get_by_role("button", name="Create key").click()
    secret = await page.get_by_label("The new API key").inner_text()
    await scenario.picture("key-created")
    bearer = {"authorization": f"Bearer {secret}"}
    async with httpx.AsyncClient(base_url=_ORIGIN, transport=Resolved(proxied[1]), headers=bearer, timeout=20) as api:
        whole = await api.post("/api/v1/chat", json=say("Hello from behind nginx"))
        assert whole.status_code == 200, whole.text
        streamed = await api.post("/api/v1/chat", json=say("Hello again", stream=True))
        assert streamed.text.rstrip().endswith("[DONE]")
    await page.goto(f"{_ORIGIN}/usage")
    await expect(page.get_by_text("998")).to_be_visible()
    await scenario.picture("usage")
    await page.goto(f"{_ORIGIN}/usage/requests/{whole.headers['x-request-id']}")
    await expect(page.get_by_text("The answer is complete.")).to_be_visible()
    await scenario.picture("receipt")

    # Reset the forgotten password, in the middle of a session.
    await page.get_by_role("button", name="Log out").click()
    await page.goto(f"{_ORIGIN}/forgot")
    await page.get_by_label("E-mail").fill(_EMAIL)
    await page.get_by_role("button", name="Send link").click()
    await expect(page.get_by_text("we sent it an e-mail")).to_be_visible()
    await scenario.picture("reset-asked-for")
    await page.goto(await box.link(1))
    await page.get_by_label("New password").fill(_SECOND)
    await scenario.picture("new-password")
    await page.get_by_role("button", name="Change password").click()
    await expect(page.get_by_text("has been changed, and all sessions have been ended")).to_be_visible()
    await scenario.picture("password-changed")
    await page.get_by_label("E-mail").fill(_EMAIL)
    await page.get_by_label("Password").fill(_FIRST)
    await page.get_by_role("main").get_by_role("button", name="Log in").click()
    await expect(page.get_by_text("Incorrect e-mail or password")).to_be_visible()
    await scenario.picture("old-password-refused")
    await scenario.log_in(_SECOND)

    # The events, as shown to the account's owner.
    await page.goto(f"{_ORIGIN}/account")
    log = page.get_by_role("region", name="Audit log")
    rows = await log.get_by_role("row").all_inner_texts()
    await scenario.picture("audit-log")
    reported = [row.split("\t")[0].strip().lower() for row in reversed(rows[1:])]
    assert reported == [
        "account created",
        "confirmation e-mail sent",
        "e-mail address confirmed",
        "logged in",
        "api key created",
        "session ended",
        "password reset link created",
        "password reset with a link",
        "logged in",
    ]
    names = {cookie["name"] for cookie in await page.context.cookies()}
    assert names == {"__Host-stack_session", "__Host-stack_visitor", "__Host-stack_device"}


class Scenario:
    """Saves a numbered screenshot of each step in SCREENSHOTS, if set."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._step = 0

    async def picture(self, name: str) -> None:
        """Save a screenshot."""
        self._step += 1
        if str(_SHOTS) != ".":
            await self.page.screenshot(path=_SHOTS / f"new-user-{self._step:02}-{name}.png", full_page=True)

    async def log_in(self, password: str) -> None:
        """Fill in the log-in form."""
        await self.page.get_by_label("E-mail").fill(_EMAIL)
        await self.page.get_by_label("Password").fill(password)
        await self.page.get_by_role("main").get_by_role("button", name="Log in").click()
        await self.page.wait_for_url("**/keys")
