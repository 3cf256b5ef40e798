"""The console in a real browser, from sign-up to the revocation of a key."""

import asyncio
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.browser.user import Scheme, User, user_at
from tests.clients.node import npm
from tests.e2e.stack import Stack

_SHOTS = Path(os.environ.get("SCREENSHOTS", ""))
PAGES = ("/", "/docs", "/docs/models", "/login", "/signup", "/forgot", "/reset", "/verify")
EMPTY_PAGES = ("/keys", "/usage", "/playground")
OWN_PAGES = ("/keys", "/usage", "/playground", "/account")
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
LOOKS: list[tuple[Scheme, int]] = [(scheme, width) for scheme in SCHEMES for width in (1280, 820, 390)]


async def test_from_sign_up_to_a_key_that_is_copied_used_counted_and_revoked(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        page = user.page
        await user.sign_up()
        shown = await user.create_key()
        await page.locator(".secret").get_by_role("button", name="Copy").click()
        await expect(page.get_by_role("button", name="Copied")).to_be_visible()
        secret = await page.evaluate("() => navigator.clipboard.readText()")
        assert secret == shown, "the copied text is not the key"

        assert (await user.call(secret)).status_code == 200
        await user.open("/keys")
        await expect(page.get_by_role("row", name="laptop")).to_contain_text("1 of 1,000")
        await user.open("/usage")
        await expect(page.get_by_text("999")).to_be_visible()
        await page.get_by_role("link", name=re.compile("^Request req_")).click()
        await expect(page.get_by_text("The answer is complete.")).to_be_visible()

        await user.open("/keys")
        await page.get_by_role("button", name="Revoke", exact=True).click()
        await page.get_by_role("button", name="Revoke key: laptop").click()
        await expect(page.get_by_role("status")).to_contain_text("“laptop” is revoked.")
        assert (await user.call(secret)).status_code == 401
        assert user.complaints == []


async def test_the_whole_console_works_with_the_keyboard_alone(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        page = user.page
        await user.sign_up()
        await user.open("/keys")
        await page.get_by_label("Name", exact=True).focus()
        await page.keyboard.type("by keyboard")
        await page.keyboard.press("Enter")
        await expect(page.get_by_label("The new API key")).to_be_visible()
        await user.open("/keys")
        await page.get_by_role("button", name="Revoke", exact=True).focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("dialog", name="Revoke “by keyboard”")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog")).not_to_be_visible()
        await expect(page.get_by_role("button", name="Revoke", exact=True)).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("button", name="Revoke key: by keyboard")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("1 revoked or expired key")).to_be_visible()


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("is_stream", [True, False])
async def test_the_code_of_the_playground_runs_as_shown_and_sends_the_same_request(
    chromium: Browser, stack: Stack, api: str, is_stream: bool
) -> None:
    assert not npm.problem(), npm.problem()
    commands = {"Python": [sys.executable, "-"], "JavaScript": [npm.node(), "--input-type=module", "-"], "curl": ["sh"]}
    async with user_at(chromium, stack) as user:
        page = user.page
        await user.sign_up()
        environment = {**os.environ, "STACK_API_KEY": await user.create_key()}
        await user.open("/playground")
        await page.get_by_label("System message").fill("Be brief.")
        await page.get_by_label("Stream the answer").set_checked(is_stream)
        await page.get_by_label("API", exact=True).select_option(api)
        await _send(user, "Hello", left=999)
        text = 'It\'s "me"\n\\o/ ü 🎉 `$HOME` ${1} [[standin:tokens count=7]]'
        await page.get_by_label("Message", exact=True).fill(text)
        for language, command in commands.items():
            await page.get_by_role("tab", name=language).click()
            code = await page.locator("#snippet").inner_text()
            assert bool(re.search('store"?[=:] ?[Ff]alse', code)) == (api == "responses"), (
                "the playground stores nothing"
            )
            done = await asyncio.to_thread(
                subprocess.run,
                command,
                input=code,
                cwd=npm.FOLDER,
                env=environment,
                capture_output=True,
                text=True,
                timeout=30,
            )
            assert done.returncode == 0, done.stderr
            assert "five" in done.stdout
        await _send(user, text, left=999 - len(commands) - 1)

        *by_code, by_page = [one["request"] for one in (await stack.journal())[-len(commands) - 1 :]]
        assert [message["role"] for message in by_page["messages"]] == ["system", "user", "assistant", "user"]
        assert by_page["messages"][-1]["content"] == text
        # The playground asks for the count of tokens, which streams of responses always have.
        assert by_code == [by_page] * len(commands)
        assert user.complaints == []


async def _send(user: User, text: str, *, left: int) -> None:
    await user.page.get_by_label("Message", exact=True).fill(text)
    await user.page.get_by_role("button", name="Send").click()
    await expect(user.page.get_by_text(f"{left} left today")).to_be_visible()


async def test_the_playground_streams_and_shows_the_same_request_as_code(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        page = user.page
        await user.sign_up()
        await user.create_key()
        await user.open("/playground")
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
        await page.keyboard.press("ArrowRight")
        await expect(page.get_by_role("tab", name="Python")).to_be_focused()
        await expect(page.locator("#snippet")).to_contain_text("from openai import OpenAI")
        await page.get_by_role("button", name="Send").click()
        answer = page.locator(".turn").nth(1).locator(".text").last
        lengths = set()
        while not await page.get_by_text("999 left today").is_visible():
            lengths.add(len(await answer.inner_text()))
            await page.wait_for_timeout(50)
        assert len(lengths) > 5, f"the answer was not streamed: {lengths}"
        await page.get_by_role("link", name=re.compile("^req_")).click()
        await expect(page.get_by_text("The answer is complete.")).to_be_visible()
        assert user.complaints == []


async def test_the_charts_show_the_ledgers_counts(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        await user.sign_up()
        secret = await user.create_key()
        answers = [await user.call(secret, f"number {number}") for number in range(4)]
        tokens = sum(answer.json()["usage"]["total_tokens"] for answer in answers)

        await user.open("/usage")

        requests, used, errors = [
            await one.get_attribute("aria-label") for one in await user.page.locator("svg.chart:visible").all()
        ]
        assert requests is not None
        assert used is not None
        assert errors is not None
        assert requests.endswith(": 4 in total")
        assert errors.endswith(": 0 in total")
        assert used.endswith(f": {tokens:,} in total")


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
async def test_no_page_has_a_serious_accessibility_fault_an_error_or_a_foreign_request(
    chromium: Browser, stack: Stack, scheme: Scheme, width: int
) -> None:
    async with user_at(chromium, stack, scheme=scheme, width=width) as user:
        checker = PageChecker(user, scheme, width)
        for path in PAGES:
            await checker.look(path)
        await user.sign_up()
        for path in EMPTY_PAGES:
            await checker.look(path, name=f"{path[1:]}-empty")
        await checker.look_at_a_keys_life()
        await checker.look_at_refusals()
        assert checker.faults == []
        assert [one for one in user.complaints if "403" not in one and "404" not in one] == []


@dataclass
class PageChecker:
    """Opens pages, saves a screenshot of each in SCREENSHOTS, if set, and records their faults."""

    user: User
    scheme: Scheme
    width: int
    faults: list[str] = field(default_factory=list)

    async def look(self, path: str = "", *, name: str = "") -> None:
        """Check a page, or the one that is open."""
        if path:
            await self.user.open(path)
        reported = name or path.strip("/").replace("/", "-") or "landing"
        if str(_SHOTS) != ".":
            await self.user.page.screenshot(path=_SHOTS / f"{reported}-{self.scheme}-{self.width}.png", full_page=True)
        wide = await self.user.page.evaluate("() => document.documentElement.scrollWidth")
        self.faults += [f"{reported}: has to be scrolled sideways ({wide} px)"] if wide > self.width else []
        self.faults += await self.user.faults()
        self.faults += [f"{reported}: too small to touch: {one}" for one in await self.user.small_targets()]

    async def look_at_a_keys_life(self) -> None:
        """Check the pages for creating a key and using it."""
        user = self.user
        secret = await user.create_key()
        await self.look(name="key-created")
        models = ("llama-3.1-8b-instant", "openai/gpt-oss-120b", "openai/gpt-oss-20b")
        answered = [await user.call(secret, f"n {n}", model=models[n % 3]) for n in range(7)]
        refused = await user.call(secret, "[[standin:error status=500]]")
        for path in OWN_PAGES:
            await self.look(path)
        await self.look(f"/usage/requests/{answered[0].headers['x-request-id']}", name="receipt-answered")
        await self.look(f"/usage/requests/{refused.headers['x-request-id']}", name="receipt-refused")
        await user.open("/keys")
        await user.page.get_by_role("link", name="laptop").click()
        await expect(user.page.get_by_role("heading", name="Settings")).to_be_visible()
        await self.look(name="key")
        await user.open("/usage")
        await user.page.locator("[data-panel]").first.click()
        await expect(user.page.get_by_role("dialog", name="Request")).to_be_visible()
        await self.look(name="usage-request-panel")
        for path in ("/keys", "/usage", "/account", "/docs/models"):
            await user.open(path)
            await user.page.evaluate(
                "() => { for (const one of document.querySelectorAll('details')) one.open = true; }"
            )
            await self.look(name=f"{path[1:].replace('/', '-')}-unfolded")
        await user.open("/playground")
        await user.page.get_by_label("Message", exact=True).fill("Hello, who are you?")
        await user.page.get_by_role("button", name="Send").click()
        await expect(user.page.get_by_text("left today")).to_be_visible()
        await self.look(name="playground-answered")

    async def look_at_refusals(self) -> None:
        """Check the error pages."""
        await self.look("/usage/requests/req_01ARZ3NDEKTSV4RRFFQ69G5FAV", name="receipt-none")
        await self.look("/nowhere", name="error-404")
        await self.look("/static/defect.html", name="error-500")
        await self.user.open("/keys")
        forge = "() => { for (const one of document.getElementsByName('csrf_token')) one.value = 'forged'; }"
        await self.user.page.evaluate(forge)
        await self.user.page.get_by_role("button", name="Log out").click()
        await expect(self.user.page.get_by_text("This page does not belong to your current session")).to_be_visible()
        await self.look(name="error-403")


_LONG_NAMES = ("W" * 100, "build-agent/" + "x" * 60 + " of the team in the other building")


@pytest.mark.parametrize("width", [1280, 390])
async def test_long_names_do_not_overflow_their_containers(chromium: Browser, stack: Stack, width: int) -> None:
    """Earlier, a long name without a blank overflowed its card, and pushed the actions out of the table."""
    async with user_at(chromium, stack, width=width) as user:
        checker = PageChecker(user, "light", width)
        await user.sign_up()
        for name in _LONG_NAMES:
            secret = await user.create_key(name)
            await checker.look(name="long-key-created")
        answered = await user.call(secret)
        # A request that names an unknown model is in the list with that name.
        refused = await user.call(secret, model="W" * 100)
        assert refused.status_code == 404
        await user.open("/usage")
        key_id = await user.page.get_by_label("Key", exact=True).locator("option").nth(1).get_attribute("value")
        receipts = [f"/usage/requests/{one.headers['x-request-id']}" for one in (answered, refused)]
        for path in ("/keys", "/usage", f"/usage?key={key_id}", *receipts, "/playground", "/account"):
            await checker.look(path, name=f"long-{re.sub('[^a-z]+', '-', path)[:20]}")
            checker.faults += [f"{path}: sticks out: {one}" for one in await user.page.evaluate(_STICKING_OUT)]
        assert checker.faults == []


_STICKING_OUT = """() =>
  [...document.querySelectorAll("main .card, main .scroll, main .field, main .head, main td, main p, h1")]
  .filter((one) => one.checkVisibility() && one.scrollWidth > one.clientWidth + 1)
  .map((one) => `${one.scrollWidth} > ${one.clientWidth} px: ${one.outerHTML.slice(0, 80)}`)"""


async def test_the_keyboard_focus_is_always_visible(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        await user.sign_up()
        await user.create_key()
        for path in OWN_PAGES:
            await user.open(path)
            for _ in range(20):
                await user.page.keyboard.press("Tab")
                reported = await user.page.evaluate(_FOCUS)
                assert reported == "seen", f"{path}: no outline around {reported}"


_FOCUS = """() => {
  const one = document.activeElement;
  const style = getComputedStyle(one);
  const isSeen = one === document.body || (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2);
  return isSeen ? "seen" : one.outerHTML.slice(0, 120);
}"""
