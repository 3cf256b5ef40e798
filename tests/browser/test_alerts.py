"""The form on the account page with which owners choose their alerts."""

import pytest
from playwright.async_api import Browser, expect

from tests.browser.user import Scheme, user_at
from tests.e2e.stack import Stack

_TEXT = "A limit is used up"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 820, 390])
async def test_an_owner_chooses_alerts_by_keyboard_and_the_page_is_accessible(
    chromium: Browser, stack: Stack, width: int, scheme: Scheme
) -> None:
    async with user_at(chromium, stack, width=width, scheme=scheme) as user:
        page = user.page
        await user.sign_up()
        await user.open("/account")
        by_mail = page.get_by_label(f"By e-mail: {_TEXT}")
        to_webhook = page.get_by_label(f"To the webhook: {_TEXT}")
        await expect(by_mail).to_be_checked()
        await expect(to_webhook).not_to_be_checked()
        await expect(page.locator("#alerts")).to_contain_text("This service sends no e-mails")
        await expect(page.locator("#alerts")).to_contain_text("You have no webhook")

        await by_mail.focus()
        await page.keyboard.press("Space")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Space")
        await page.get_by_role("button", name="Save alerts").focus()
        await page.keyboard.press("Enter")

        await expect(page.get_by_text("Your alerts have been saved.")).to_be_visible()
        await page.reload()
        await expect(by_mail).not_to_be_checked()
        await expect(to_webhook).to_be_checked()
        await expect(page.get_by_label("By e-mail: 80 % of a limit is used")).to_be_checked()
        await expect(page.get_by_role("row", name="Alerts changed").first).to_be_visible()
        assert await user.faults() == []
        assert await user.small_targets() == []
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        assert user.complaints == []


async def test_the_page_about_alerts_leads_from_the_account_page(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        await user.sign_up()
        await user.open("/account")
        await user.page.locator("#alerts").get_by_role("link", name="Set one").click()
        await expect(user.page.get_by_role("heading", name="Alerts", exact=True).first).to_be_visible()
        assert await user.faults() == []
