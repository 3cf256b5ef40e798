"""Saves screenshots of the console, with thirty days of usage, for the README: `make screenshots`."""

import argparse
import asyncio
import shutil
from pathlib import Path

from playwright.async_api import Page, async_playwright

from tests.browser.history import owned_by, write_history
from tests.browser.user import User, user_at
from tests.e2e.stack import Stack, running_stack
from tools.groq_standin import turns

_KEYS = ("laptop", "ci-pipeline", "production backend")
_ANSWER = """A **leaky bucket** limits how fast requests leave a queue:

1. Each request adds water to the bucket.
2. The bucket leaks at a constant rate.
3. A full bucket refuses new requests.

```python
level = max(0, level - rate * (now - last)) + 1
if level > capacity:
    raise TooManyRequests
```
"""
_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]


async def _save(folder: Path, stack: Stack) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=_OPTIONS)
        async with user_at(browser, stack, height=860) as user:
            await _prepare(user, stack)
            await _pages(user, folder)
        await browser.close()


async def _prepare(user: User, stack: Stack) -> None:
    email = await user.sign_up("ada@example.com")
    for name in _KEYS:
        await user.create_key(name)
    write_history(stack, owned_by(stack, email), per_day=80)


async def _pages(user: User, folder: Path) -> None:
    page = user.page
    await user.open("/keys")
    await _shoot(page, folder, "keys")
    await page.get_by_role("link", name="production backend").click()
    await _shoot(page, folder, "key")
    await user.open("/usage")
    await page.locator(".figures").first.evaluate("(one) => scrollTo(0, one.getBoundingClientRect().top - 24)")
    await _shoot(page, folder, "usage")
    await user.open("/docs/models#openai/gpt-oss-120b")
    await _shoot(page, folder, "models")
    await user.open("/playground?model=openai%2Fgpt-oss-120b")
    played = turns.marker(turns.Turn(reasoning="A short definition, then code.", content=_ANSWER))
    await page.route(
        "**/playground/chat", lambda route: route.continue_(post_data=_with_marker(route.request.post_data, played))
    )
    await page.get_by_label("Message", exact=True).fill("What is a leaky bucket?")
    await page.get_by_role("button", name="Send").click()
    await page.locator(".formatted").wait_for()
    await _shoot(page, folder, "playground")


def _with_marker(body: str | None, marker: str) -> str:
    """Return a chat whose last message makes the stand-in play an answer, which the page does not show."""
    return (body or "").replace("What is a leaky bucket?", f"{marker} What is a leaky bucket?")


async def _shoot(page: Page, folder: Path, name: str) -> None:
    await page.evaluate("() => document.activeElement?.blur()")
    await page.screenshot(path=folder / f"console-{name}.png")


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    with running_stack(AUTH_SIGN_UPS_PER_ADDRESS_MAX="1000") as stack:
        asyncio.run(_save(folder, stack))


if __name__ == "__main__":
    main()
