"""The console in a real browser, from sign-up to a key's end."""

import os
import re
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, expect

from tests.browser.person import Person, Scheme, person_at
from tests.e2e.stack import Stack, say

_SHOTS = Path(os.environ.get("SCREENSHOTS", ""))
PAGES = ("/", "/docs", "/login", "/signup", "/forgot", "/nowhere")
OWN_PAGES = ("/keys", "/usage", "/playground", "/account")
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
LOOKS = [(scheme, width) for scheme in SCHEMES for width in (1280, 390)]


async def _call(person: Person, secret: str, text: str = "hi", **members: object) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        headers = {"authorization": f"Bearer {secret}"}
        return await client.post(f"{person.origin}/api/v1/chat", headers=headers, json=say(text, **members))


async def test_from_sign_up_to_a_key_that_is_copied_used_counted_and_revoked(chromium: Browser, stack: Stack) -> None:
    async with person_at(chromium, stack) as person:
        page = person.page
        await person.sign_up()
        shown = await person.create_key()
        await page.get_by_role("button", name="Copy").click()
        await expect(page.get_by_role("button", name="Copied")).to_be_visible()
        secret = await page.evaluate("() => navigator.clipboard.readText()")
        assert secret == shown, "what was copied is not the key"

        assert (await _call(person, secret)).status_code == 200
        await person.open("/keys")
        await expect(page.get_by_role("row", name="laptop")).to_contain_text("1 of 1,000")
        await person.open("/usage")
        await expect(page.get_by_text("999")).to_be_visible()
        await page.get_by_role("link", name=re.compile("^…")).click()
        await expect(page.get_by_text("The model answered in full.")).to_be_visible()

        await person.open("/keys")
        await page.get_by_text("Revoke", exact=True).click()
        await page.get_by_role("button", name="Revoke “laptop” for good").click()
        await page.wait_for_url("**/keys")
        assert (await _call(person, secret)).status_code == 401
        assert person.complaints == []


async def test_the_whole_way_works_with_the_keyboard_alone(chromium: Browser, stack: Stack) -> None:
    async with person_at(chromium, stack) as person:
        page = person.page
        await person.sign_up()
        await person.open("/keys")
        await page.get_by_label("Name", exact=True).focus()
        await page.keyboard.type("by keyboard")
        await page.keyboard.press("Enter")
        await expect(page.get_by_label("The new API key")).to_be_visible()
        await person.open("/keys")
        await page.get_by_text("Revoke", exact=True).focus()
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("1 key that ended")).to_be_visible()


async def test_the_playground_streams_and_shows_the_same_as_code(chromium: Browser, stack: Stack) -> None:
    async with person_at(chromium, stack) as person:
        page = person.page
        await person.sign_up()
        await person.create_key()
        await person.open("/playground")
        text = "[[standin:slow token_ms=40]] [[standin:tokens count=50]]"
        await page.get_by_label("Message", exact=True).fill(text)
        for language, sign in (
            ("Python", "from openai import OpenAI"),
            ("JavaScript", "new OpenAI("),
            ("curl", "curl "),
        ):
            await page.get_by_role("tab", name=language).click()
            await expect(page.locator("#snippet")).to_contain_text(sign)
            await expect(page.locator("#snippet")).to_contain_text("standin:slow")
        await page.get_by_role("button", name="Send").click()
        answer = page.locator(".turn").nth(1).locator("span")
        lengths = set()
        while not await page.get_by_text("999 left today").is_visible():
            lengths.add(len(await answer.inner_text()))
            await page.wait_for_timeout(50)
        assert len(lengths) > 5, f"the answer did not come piece by piece: {lengths}"
        await page.get_by_role("link", name=re.compile("^req_")).click()
        await expect(page.get_by_text("The model answered in full.")).to_be_visible()
        assert person.complaints == []


async def test_the_charts_show_what_the_ledger_says(chromium: Browser, stack: Stack) -> None:
    async with person_at(chromium, stack) as person:
        await person.sign_up()
        secret = await person.create_key()
        answers = [await _call(person, secret, f"number {number}") for number in range(4)]
        tokens = sum(answer.json()["usage"]["total_tokens"] for answer in answers)

        await person.open("/usage")

        requests, used = [await one.get_attribute("aria-label") for one in await person.page.locator("svg.chart").all()]
        assert requests is not None
        assert used is not None
        assert requests.endswith(": 4 in all")
        assert used.endswith(f": {tokens:,} in all")


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
async def test_no_page_has_a_serious_accessibility_fault_an_error_or_a_foreign_request(
    chromium: Browser, stack: Stack, scheme: Scheme, width: int
) -> None:
    async with person_at(chromium, stack, scheme=scheme, width=width) as person:
        faults = [fault for path in PAGES for fault in await _looked_at(person, path, scheme, width)]
        await person.sign_up()
        faults += await _looked_at(person, "/keys", scheme, width, name="keys-empty")
        secret = await person.create_key()
        faults += await _looked_at(person, "", scheme, width, name="key-created")
        ids = [(await _call(person, secret, f"n {n}")).headers["x-request-id"] for n in range(5)]
        ids.append((await _call(person, secret, "[[standin:error status=500]]")).headers["x-request-id"])
        for path in (*OWN_PAGES, f"/usage/requests/{ids[-1]}"):
            faults += await _looked_at(person, path, scheme, width)
        assert faults == []
        assert [one for one in person.complaints if "404" not in one] == []


async def _looked_at(person: Person, path: str, scheme: Scheme, width: int, *, name: str = "") -> list[str]:
    """Open a page, keep a picture of it where SCREENSHOTS says so, and return its faults."""
    if path:
        await person.open(path)
    wide = await person.page.evaluate("() => document.documentElement.scrollWidth")
    told = name or re.sub(r"req_\w+", "id", path.strip("/")).replace("/", "-") or "landing"
    if str(_SHOTS) != ".":
        await person.page.screenshot(path=_SHOTS / f"{told}-{scheme}-{width}.png", full_page=True)
    sideways = [f"{path}: has to be scrolled sideways ({wide} px)"] if wide > width else []
    return [*sideways, *await person.faults()]
