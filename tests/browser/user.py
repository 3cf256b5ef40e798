"""A user with a browser: operates the console, and records every fault of its pages."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import axe_playwright_python
import httpx
from playwright.async_api import Browser, Page

from tests.e2e.stack import Stack, say

Scheme = Literal["light", "dark"]
PASSWORD = "correct horse battery"
_AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
# WCAG 2.2 requires 24 px (2.5.8, AA); 40 is comfortable for a thumb. Links within text are exempt.
_SMALL = """() => [...document.querySelectorAll("button, summary, select, textarea, input, a.button, nav a, footer a")]
  .filter((one) => one.checkVisibility() && !["hidden", "checkbox"].includes(one.type))
  .map((one) => [one.getBoundingClientRect().height, one.outerHTML.slice(0, 100)])
  .filter(([height]) => height < (innerWidth < 600 ? 40 : 32))
  .map(([height, html]) => `${height} px: ${html}`)"""
_SERIOUS = ("serious", "critical")


@dataclass
class User:
    """A user at a page."""

    page: Page
    origin: str
    complaints: list[str] = field(default_factory=list)
    """Errors of the console, and requests to other hosts."""

    async def open(self, path: str) -> None:
        """Open a page."""
        await self.page.goto(f"{self.origin}{path}")

    async def sign_up(self, email: str = "") -> str:
        """Create an account, and return its e-mail."""
        email = email or f"{secrets.token_hex(5)}@example.com"
        await self.open("/signup")
        await self.page.get_by_label("E-mail").fill(email)
        await self.page.get_by_label("Password").fill(PASSWORD)
        await self.page.get_by_role("main").get_by_role("button", name="Sign up").click()
        await self.page.wait_for_url("**/keys")
        return email

    async def log_in(self, email: str) -> None:
        """Fill in the log-in form that is open."""
        await self.page.get_by_label("E-mail").fill(email)
        await self.page.get_by_label("Password").fill(PASSWORD)
        await self.page.get_by_role("main").get_by_role("button", name="Log in").click()

    async def create_key(self, name: str = "laptop") -> str:
        """Create a key, and return what is shown."""
        await self.open("/keys")
        await self.page.get_by_label("Name", exact=True).fill(name)
        await self.page.get_by_role("button", name="Create key").click()
        return str(await self.page.get_by_label("The new API key").inner_text())

    async def call(self, secret: str, text: str = "hi", **members: object) -> httpx.Response:
        """Call the API with a key."""
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            headers = {"authorization": f"Bearer {secret}"}
            return await client.post(f"{self.origin}/api/v1/chat", headers=headers, json=say(text, **members))

    async def faults(self) -> list[str]:
        """Return the accessibility violations that axe-core finds on the page."""
        await self.page.evaluate(_AXE)
        found = await self.page.evaluate("() => axe.run()")
        return [
            f"{self.page.url}: {one['id']}: {one['help']}: {[node['html'][:120] for node in one['nodes'][:3]]}"
            for one in found["violations"]
            if one["impact"] in _SERIOUS
        ]

    async def small_targets(self) -> list[str]:
        """Return the controls of the page that are too small for touch, with their heights in pixels."""
        found: list[str] = await self.page.evaluate(_SMALL)
        return found


@asynccontextmanager
async def user_at(
    chromium: Browser,
    stack: Stack,
    *,
    scheme: Scheme = "light",
    width: int = 1280,
    height: int = 800,
    origin: str = "",
) -> AsyncIterator[User]:
    """Yield a user with a separate browser, at the first gateway or at `origin`."""
    context = await chromium.new_context(
        color_scheme=scheme,
        viewport={"width": width, "height": height},
        permissions=["clipboard-read", "clipboard-write"],
    )
    page = await context.new_page()
    origin = origin or stack.gateways[0]
    user = User(page, origin)
    host = urlsplit(origin).netloc
    page.on("console", lambda said: user.complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: user.complaints.append(str(error)))
    page.on("request", lambda sent: user.complaints.append(sent.url) if urlsplit(sent.url).netloc != host else None)
    yield user
    await context.close()
