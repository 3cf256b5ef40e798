"""The section of refused requests, at all widths and in both themes."""

import itertools
import os
from pathlib import Path
from typing import cast

import pytest
from playwright.async_api import Browser, expect

from tests.browser.history import owned_by, write_history
from tests.browser.user import Scheme, User, user_at
from tests.e2e.stack import Stack

_SHOTS = os.environ.get("SCREENSHOTS", "")
_SECONDS_MAX = 5


async def _refused(user: User, stack: Stack) -> str:
    """Sign up, send requests of two keys that are refused, and return the path of the first key's page."""
    email = await user.sign_up()
    secrets = [await user.create_key(name) for name in ("laptop", "W" * 100)]
    owned = owned_by(stack, email)
    write_history(stack, owned)
    for secret, count in zip(secrets, (7, 2), strict=True):
        for _ in range(count):
            assert (await user.call(secret, temperature=9)).status_code == 400
        assert (await user.call(secret, messages="x" * 5_000_000)).status_code == 413
        assert (await user.call(secret, model=7)).status_code == 400
    return f"/keys/{owned.key_ids[0]}"


async def _shown(user: User, path: str, total: int) -> None:
    """Open a page until it shows the number of all refusals."""
    section = user.page.locator("#refused")
    for _ in range(_SECONDS_MAX):
        await user.open(path)
        if await section.get_by_text(f"{total} in 24 hours").count():
            return
        await user.page.wait_for_timeout(1_000)
    raise AssertionError(f"{path} does not show {total}: {await section.inner_text()}")


@pytest.mark.parametrize(("width", "scheme"), [*itertools.product((1280, 820, 390), ("light", "dark"))])
async def test_refused_requests_are_shown_and_explained(
    chromium: Browser, stack: Stack, width: int, scheme: str
) -> None:
    async with user_at(chromium, stack, width=width, scheme=cast(Scheme, scheme)) as user:
        page, path = user.page, await _refused(user, stack)
        for where, total in ((path, 9), ("/usage", 13)):
            await _shown(user, where, total)
            assert await user.faults() == [], where
            assert await user.small_targets() == [], where
            assert await page.evaluate("document.documentElement.scrollWidth") <= width, where
            if _SHOTS:
                name = f"refused-{width}-{scheme}{where.replace('/', '-')[:6]}.png"
                await page.screenshot(path=Path(_SHOTS) / name, full_page=True)
        row = page.get_by_role("row", name="400 decimal_above_max_value")
        await expect(row).to_contain_text("Use a number within the range in the message.")
        await row.get_by_role("link", name="laptop").click()
        await expect(page.get_by_role("heading", name="Refused requests")).to_be_in_viewport()

        link = page.get_by_role("link", name="413 request_too_large")
        await link.focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="The request does not arrive")).to_be_in_viewport()
        assert user.complaints == []
