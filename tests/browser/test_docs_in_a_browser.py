"""The docs in a real browser: every page in both themes and at three widths, the search, the tabs and the reference."""

import re

import pytest
from playwright.async_api import Browser, Page, expect

from services.gateway.console.docs.outline import PAGES, path_of
from tests.browser.test_console_in_a_browser import LOOKS, PageChecker
from tests.browser.user import Scheme, user_at
from tests.e2e.stack import Stack

_FIRST_PAGE_BYTES_MAX = 100_000
_SHIFT_MAX = 0.001
"""Cumulative layout shift; text that moves by a fraction of a pixel is not seen."""
_SHIFTS = """() => new Promise((resolve) => {
  let sum = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) sum += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
  setTimeout(() => resolve(sum), 300);
})"""


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
async def test_no_page_of_the_docs_has_a_fault(chromium: Browser, stack: Stack, scheme: Scheme, width: int) -> None:
    async with user_at(chromium, stack, scheme=scheme, width=width) as user:
        checker = PageChecker(user, scheme, width)
        for name in PAGES:
            await user.open(path_of(name))
            assert await user.page.evaluate(_SHIFTS) < _SHIFT_MAX, name
            await checker.look(name=f"docs-{name}")
        await user.open("/docs/reference")
        await expect(user.page.get_by_text("/api/v1/chat", exact=True)).to_be_visible()
        await checker.look(name="docs-reference")
        assert checker.faults == []
        assert user.complaints == []


async def test_the_first_page_is_small(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        sizes: dict[str, int] = {}

        async def weigh(page: Page, path: str) -> int:
            sizes.clear()
            async with page.expect_event("requestfinished", lambda sent: "docs.js" in sent.url):
                await page.goto(f"{user.origin}{path}", wait_until="networkidle")
            return sum(sizes.values())

        async def add(response: object) -> None:
            sizes[response.url] = len(await response.body())  # type: ignore[attr-defined]

        user.page.on("response", add)
        assert 0 < await weigh(user.page, "/docs") < _FIRST_PAGE_BYTES_MAX


async def test_the_search_finds_an_error_code_without_a_request_per_key(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        page = user.page
        await user.open("/docs")
        sent: list[str] = []
        page.on("request", lambda request: sent.append(request.url))
        await page.keyboard.press("/")
        await expect(page.get_by_label("Search the docs")).to_be_focused()
        await page.keyboard.type("upstream_busy", delay=5)
        await expect(page.locator("#docs-count")).to_have_text("1 result")
        await page.keyboard.press("ArrowDown")
        await expect(
            page.get_by_role("link", name=re.compile("Errors: The service or the model fails"))
        ).to_be_focused()
        await page.keyboard.press("Escape")
        await expect(page.locator("#docs-results")).not_to_be_visible()
        await expect(page.get_by_label("Search the docs")).to_be_focused()
        assert [url for url in sent if "/static/" not in url] == [f"{user.origin}/docs/search.json"]
        await page.get_by_label("Search the docs").fill("idempotency keys")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Idempotency")
        await page.get_by_label("Search the docs").fill("zzz [(")
        await expect(page.locator("#docs-results")).to_have_text("Nothing found for “zzz [(”.")
        assert user.complaints == []


async def test_a_chosen_language_is_remembered_on_all_pages_and_copied(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        page = user.page
        await user.open("/docs/chat")
        tab = page.get_by_role("link", name="Python", exact=True)
        await tab.focus()
        await page.keyboard.press("Enter")
        await _shows(page, "Python", "client.chat.completions.create(")
        assert page.url.endswith("/docs/chat"), "the tab loaded the page again"
        await page.locator("figure:has(.languages)").get_by_role("button", name="Copy").click()
        assert (await page.evaluate("() => navigator.clipboard.readText()")).startswith("import os")
        await user.open("/docs/responses")
        await _shows(page, "Python", "client.responses.create(")
        assert user.complaints == []


async def _shows(page: Page, language: str, text: str) -> None:
    figure = page.locator("figure:has(.languages)").first
    await expect(figure.locator("pre:visible")).to_contain_text(text)
    await expect(figure.locator("[aria-current]")).to_have_text(language)


async def test_the_menu_on_a_phone_works_by_keyboard(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack, width=390) as user:
        page = user.page
        await user.open("/docs")
        menu = page.get_by_role("navigation", name="Docs")
        await expect(menu).not_to_be_visible()
        await page.get_by_role("button", name="Menu").focus()
        await page.keyboard.press("Enter")
        await expect(menu.get_by_role("link", name="Streaming")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(menu).not_to_be_visible()
        await page.keyboard.press("Enter")
        await menu.get_by_role("link", name="Streaming").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Streaming")


async def test_the_reference_calls_an_operation_with_a_key(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        page = user.page
        key = await stack.create_key()
        await user.open("/docs/reference")
        await page.get_by_role("button", name="Authorize").click()
        await page.get_by_label("Value").fill(key.secret)
        await page.get_by_role("button", name="Apply credentials").click()
        await page.get_by_role("button", name="Close").last.click()
        await _try(page, "/api/v1/key")
        await expect(page.locator(".live-responses-table").get_by_text('"remaining"')).to_be_visible()
        assert user.complaints == [], "the viewer breaks the content security policy, or calls another host"


async def _try(page: Page, path: str) -> None:
    await (
        page.locator(".opblock")
        .filter(has=page.get_by_text(path, exact=True))
        .locator(".opblock-summary-control")
        .click()
    )
    await page.get_by_role("button", name="Execute").click()


async def test_docs_are_readable_without_javascript(chromium: Browser, stack: Stack) -> None:
    context = await chromium.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto(f"{stack.base_url}/docs/quickstart")
    await page.get_by_role("link", name="JavaScript", exact=True).click()
    await expect(page.locator("#sample-2 pre:visible")).to_contain_text('import OpenAI from "openai";')
    await context.close()
