"""The usage page in a browser: ranges, filters, deep links, CSV, the live list, outages, and accessibility."""

import asyncio
import csv
import io
import re
import time
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.async_api import Browser, Locator, expect

from tests.browser.history import Owned, owned_by, write_history, write_requests
from tests.browser.test_console_in_a_browser import LOOKS, PageChecker
from tests.browser.user import Scheme, User, user_at
from tests.e2e.stack import Stack, running_stack

_DAY = 86_400
_ROW = re.compile("^Request req_")


async def _owner(user: User, stack: Stack) -> tuple[Owned, list[str]]:
    """Sign up, create two keys, and return their ids and secrets."""
    email = await user.sign_up()
    secrets = [await user.create_key(name) for name in ("laptop", "server")]
    return owned_by(stack, email), secrets


async def _figure(user: User, name: str) -> str:
    figure = user.page.locator("dl.figures > div", has=user.page.get_by_text(name, exact=True))
    return str(await figure.locator(".figure").first.inner_text())


async def _counts(user: User) -> tuple[int, int, int]:
    """Return the requests of the figures, of the first chart and of the breakdown, which must be the same."""
    figures = [int((await _figure(user, name)).replace(",", "")) for name in ("Requests", "Not counted")]
    label = await user.page.locator("svg.chart.wide").first.get_attribute("aria-label")
    assert label is not None
    cells = await user.page.locator(".dense td:first-child:has(.swatch) + td").all_inner_texts()
    return sum(figures), int(label.split()[-3].replace(",", "")), sum(int(cell.replace(",", "")) for cell in cells)


async def _listed(user: User) -> list[str]:
    """Return the ids of the requests of the page that is open, and of its older ones."""
    ids: list[str] = []
    while True:
        rows = user.page.get_by_role("link", name=_ROW)
        ids += [str(await row.get_attribute("aria-label")).removeprefix("Request ") for row in await rows.all()]
        older = user.page.get_by_role("link", name="Older requests")
        if not await older.count():
            return ids
        await older.click()


async def _downloaded(user: User) -> list[dict[str, str]]:
    async with user.page.expect_download() as download:
        await user.page.get_by_role("link", name="Download as CSV").click()
    path = await (await download.value).path()
    text = await asyncio.to_thread(path.read_text)
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize(
    ("name", "unit", "seconds"),
    [("1 hour", "5 minutes", 3_300), ("24 hours", "hour", 82_800), ("7 days", "day", 6 * _DAY), ("30 days", "day", 0)],
)
async def test_each_range_has_the_same_requests_in_figures_charts_breakdown_list_and_csv(
    chromium: Browser, stack: Stack, name: str, unit: str, seconds: int
) -> None:
    async with user_at(chromium, stack) as user:
        owned, _ = await _owner(user, stack)
        now = time.time()
        inside = [now - (seconds or 29 * _DAY) * share for share in (0.0, 0.3, 0.6, 0.99)]
        write_requests(stack, owned, [*inside, *(now - age for age in (40 * _DAY, 32 * _DAY, 8.5 * _DAY, 26 * 3_600))])
        await user.open("/usage")
        await user.page.get_by_role("navigation", name="Range").get_by_role("link", name=name).click()
        await expect(user.page.get_by_role("heading", name=f"Requests per {unit}")).to_be_visible()
        expected = {"1 hour": 4, "24 hours": 4, "7 days": 5, "30 days": 6}[name]
        assert await _counts(user) == (expected, expected, expected)
        ids = [row["request_id"] for row in await _downloaded(user)]
        assert len(ids) == expected
        assert await _listed(user) == ids
        assert user.complaints == []


async def test_a_custom_range_has_its_days(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        owned, _ = await _owner(user, stack)
        midnight = time.time() // _DAY * _DAY
        # Before the beginning of today; all but the last are on the two days, some in their first or last seconds.
        ages = (3 * _DAY, 2 * _DAY + 1, 2 * _DAY - 1, 1.5 * _DAY, _DAY + 1, 1)
        write_requests(stack, owned, [midnight - age for age in ages])
        first, last = (time.strftime("%Y-%m-%d", time.gmtime(midnight - age * _DAY)) for age in (3, 2))
        await user.open("/usage?range=1h&by=outcome")
        await user.page.get_by_label("From").fill(first)
        await user.page.get_by_label("To", exact=True).fill(last)
        await user.page.get_by_role("button", name="Filter").click()
        query = parse_qs(urlsplit(user.page.url).query)
        assert (query["from"], query["to"], query["by"]) == ([first], [last], ["outcome"])
        await expect(user.page.get_by_role("heading", name="Requests per hour")).to_be_visible()
        assert await _counts(user) == (5, 5, 5)
        assert len(await _listed(user)) == 5
        await user.page.get_by_role("navigation", name="Range").get_by_role("link", name="7 days").click()
        assert await _counts(user) == (6, 6, 6)


async def test_every_filter_applies_to_figures_charts_breakdown_list_and_csv(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        owned, _ = await _owner(user, stack)
        count = write_history(stack, owned, per_day=6)
        await user.open("/usage")
        rows = await _downloaded(user)
        assert len(rows) == count
        columns = {"model": "model", "key": "key_id", "surface": "surface", "outcome": "outcome"}
        for name, column in columns.items():
            value = rows[0][column]
            await user.open("/usage")
            await user.page.locator(f"select#{name}").select_option(value)
            await user.page.get_by_role("button", name="Filter").click()
            matching = [row for row in rows if row[column] == value]
            assert await _counts(user) == (len(matching),) * 3, name
            assert await _downloaded(user) == matching
            assert await _listed(user) == [row["request_id"] for row in matching]
        failed = {"refused", "upstream_failed", "cut", "timed_out"}
        await user.open("/usage")
        assert await _figure(user, "Errors") == str(sum(row["outcome"] in failed for row in rows))
        tokens = sum(int(row["total_tokens"]) for row in rows)
        assert await _figure(user, "Tokens") == f"{tokens:,}"


async def test_a_deep_link_restores_the_page_and_a_row_of_the_breakdown_filters(
    chromium: Browser, stack: Stack
) -> None:
    async with user_at(chromium, stack) as user:
        page = user.page
        owned, _ = await _owner(user, stack)
        write_history(stack, owned, per_day=20)
        link = f"/usage?range=7d&key={owned.key_ids[1]}&outcome=answered&by=surface&live=off"
        await user.open(link)
        await expect(page.locator("select#key")).to_have_value(owned.key_ids[1])
        await expect(page.locator("select#outcome")).to_have_value("answered")
        await expect(page.get_by_role("link", name="By API")).to_have_attribute("aria-current", "true")
        await expect(page.get_by_role("link", name="7 days")).to_have_attribute("aria-current", "true")
        await expect(page.get_by_role("heading", name="By API")).to_be_visible()
        await expect(page.get_by_text("Paused")).to_be_visible()
        await page.get_by_role("button", name="Filter").click()
        kept = {name: text for name, [text] in parse_qs(urlsplit(page.url).query).items()}
        assert kept == {name: text for name, [text] in parse_qs(urlsplit(link).query).items()}
        await page.get_by_role("region", name="Usage by API").get_by_role("link", name="Messages").click()
        await expect(page.locator("select#surface")).to_have_value("messages")
        assert "range=7d" in page.url
        listed = await page.get_by_role("region", name="Requests").get_by_role("row").all_inner_texts()
        assert len(listed) > 1
        assert all("Messages" in row and "Answered" in row for row in listed[1:])
        await user.open("/usage?range=2h&outcome=fine")
        await expect(page.get_by_text("`range` must be one of")).to_be_visible()
        await expect(page.get_by_text("“fine” is not one of")).to_be_visible()


async def test_models_keep_their_colours_in_all_ranges_and_charts(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        owned, _ = await _owner(user, stack)
        write_history(stack, owned, per_day=60)
        colours: dict[str, str] = {}
        for path in ("/usage", "/usage?range=7d", "/usage?range=24h", "/usage?range=7d&outcome=answered"):
            await user.open(path)
            found: list[list[str]] = await user.page.evaluate(
                '() => [...document.querySelectorAll(".legend li, .swatch")].map((one) =>'
                ' [one.textContent.trim(), one.querySelector("rect").className.baseVal])'
            )
            frequent = [name for name, colour in found if name in colours or (path == "/usage" and colour[-1] != "8")]
            for name, colour in found:
                if name in frequent:
                    assert colours.setdefault(name, colour) == colour, (path, name)
        assert len(colours) == 8


async def test_a_request_appears_in_the_list_when_it_ends(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        page = user.page
        await _owner(user, stack)
        secret = await user.create_key("live")
        await user.open("/usage?range=1h&outcome=answered")
        await expect(page.get_by_text("No requests match this filter")).to_be_visible()
        await expect(page.get_by_role("status").get_by_text("Live")).to_be_visible()
        failed = await user.call(secret, "[[standin:503]]")
        answered = await user.call(secret)
        row = page.get_by_role("link", name=f"Request {answered.headers['x-request-id']}")
        await expect(row).to_be_visible(timeout=8_000)
        await expect(page.get_by_text("No requests match this filter")).to_have_count(0)
        second = await user.call(secret)
        await expect(page.get_by_role("link", name=f"Request {second.headers['x-request-id']}")).to_be_visible()
        ids = [str(await one.get_attribute("aria-label")) for one in await page.get_by_role("link", name=_ROW).all()]
        assert ids == [f"Request {one.headers['x-request-id']}" for one in (second, answered)]
        assert failed.headers["x-request-id"] not in await page.content()
        await row.focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("dialog", name="Request")).to_contain_text("live")
        assert user.complaints == []


async def test_the_live_list_is_paused_and_resumed_with_the_keyboard(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        page = user.page
        await _owner(user, stack)
        secret = await user.create_key("live")
        await user.open("/usage")
        button = page.get_by_role("button", name="Pause")
        await button.focus()
        await page.keyboard.press("Space")
        await expect(button).to_have_attribute("aria-pressed", "true")
        await expect(page.get_by_role("status").get_by_text("Paused")).to_be_visible()
        assert page.url.endswith("/usage?live=off")
        answered = await user.call(secret)
        row = page.get_by_role("link", name=f"Request {answered.headers['x-request-id']}")
        await page.wait_for_timeout(3_000)
        await expect(row).to_have_count(0)
        await page.keyboard.press("Enter")
        await expect(row).to_be_visible(timeout=8_000)
        assert page.url.endswith("/usage")


async def test_the_live_list_says_when_the_session_has_ended(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        await user.sign_up()
        await user.open("/usage")
        other = await user.page.context.new_page()
        await other.goto(f"{user.origin}/account")
        await other.get_by_role("button", name="Log out").click()
        await user.page.bring_to_front()
        await expect(user.page.get_by_text("Your session has ended. Log in again.")).to_be_visible(timeout=12_000)


async def test_without_javascript_the_page_works_except_for_the_live_list(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        owned, _ = await _owner(user, stack)
        count = write_history(stack, owned, per_day=2)
        context = await chromium.new_context(
            java_script_enabled=False, storage_state=await user.page.context.storage_state()
        )
        page = await context.new_page()
        await page.goto(f"{user.origin}/usage")
        await expect(page.get_by_role("button", name="Pause")).not_to_be_visible()
        await page.locator("select#key").select_option(owned.key_ids[0])
        await page.get_by_role("button", name="Filter").click()
        await page.get_by_role("navigation", name="Break down by").get_by_role("link", name="By key").click()
        cells = await page.get_by_role("region", name="Usage by Key").get_by_role("row").all_inner_texts()
        assert len(cells) == 2
        assert 0 < int(cells[1].split("\t")[1]) < count
        await context.close()


async def test_the_page_works_with_the_keyboard_alone(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        page = user.page
        owned, _ = await _owner(user, stack)
        write_history(stack, owned, per_day=3)
        await user.open("/usage")
        await _tab_to(user, page.get_by_role("navigation", name="Range").get_by_role("link", name="7 days"))
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/usage?range=7d")
        await _tab_to(user, page.locator("select#outcome"))
        await page.keyboard.type("Answered")
        await page.keyboard.press("Tab")
        await _tab_to(user, page.get_by_role("button", name="Filter"))
        await page.keyboard.press("Enter")
        await page.wait_for_url("**outcome=answered**")
        await _tab_to(user, page.get_by_role("link", name="By outcome"))
        await page.keyboard.press("Enter")
        await page.wait_for_url("**by=outcome**")
        await _tab_to(user, page.locator("summary", has_text="Show as a table"))
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("region", name="Usage by day")).to_be_visible()
        await _tab_to(user, page.get_by_role("link", name=_ROW).first)
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("dialog", name="Request")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog")).not_to_be_visible()


async def _tab_to(user: User, target: Locator) -> None:
    for _ in range(80):
        if await target.evaluate("(one) => one === document.activeElement"):
            return
        await user.page.keyboard.press("Tab")
    pytest.fail("the keyboard does not reach it")


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
async def test_the_page_has_no_fault_in_any_state(chromium: Browser, stack: Stack, scheme: Scheme, width: int) -> None:
    async with user_at(chromium, stack, scheme=scheme, width=width) as user:
        checker = PageChecker(user, scheme, width)
        owned, secrets = await _owner(user, stack)
        write_history(stack, owned, per_day=60)
        states = ("range=1h", "range=24h&by=outcome", "range=7d&by=key", "", "outcome=cut&model=x", "range=2h")
        for state in states:
            await checker.look(f"/usage?{state}", name=f"usage-{state or '30d'}")
        await user.open("/usage?range=24h")
        await user.page.get_by_text("Show as a table").click()
        await user.call(secrets[0])
        await expect(user.page.locator("tr.new")).to_have_count(1, timeout=8_000)
        await checker.look(name="usage-live")
        assert checker.faults == []
        assert user.complaints == []


@pytest.fixture(name="own_stack", scope="module")
def _own_stack() -> Iterator[Stack]:
    """Yield a stack whose services can be stopped."""
    with running_stack(AUTH_SIGN_UPS_PER_ADDRESS_MAX="1000", GRACE_SECONDS="20", DRAIN_SECONDS="0") as running:
        yield running


async def test_while_the_ledger_is_down_the_page_says_so_and_the_list_continues_afterwards(
    chromium: Browser, own_stack: Stack
) -> None:
    async with user_at(chromium, own_stack) as user:
        page = user.page
        owned, secrets = await _owner(user, own_stack)
        write_history(own_stack, owned, per_day=2)
        await user.open("/usage?range=7d")
        await expect(page.get_by_role("status").get_by_text("Live")).to_be_visible()
        own_stack.kill("inference")
        try:
            await expect(page.get_by_text("Not live: the usage records cannot be read")).to_be_visible(timeout=10_000)
            other = await page.context.new_page()
            await other.goto(f"{user.origin}/usage?range=7d&model=openai%2Fgpt-oss-20b")
            await expect(other.get_by_text("The usage records cannot be read at the moment")).to_be_visible()
            await expect(other.locator("select#model")).to_have_value("openai/gpt-oss-20b")
            for missing in ("Not counted", "No requests", "0 in total"):
                await expect(other.get_by_text(missing)).to_have_count(0)
            await other.close()
        finally:
            await own_stack.start_missing()
        await page.bring_to_front()
        answered = await _until_answered(user, secrets[0])
        await expect(page.get_by_role("link", name=f"Request {answered}")).to_be_visible(timeout=15_000)


async def test_the_list_connects_again_to_a_gateway_that_was_restarted(chromium: Browser, own_stack: Stack) -> None:
    async with user_at(chromium, own_stack) as user:
        page = user.page
        _, secrets = await _owner(user, own_stack)
        await user.open("/usage")
        await expect(page.get_by_role("status").get_by_text("Live")).to_be_visible()
        assert own_stack.stop("gateway-1") == 0, "it waits for the live list"
        await expect(page.get_by_role("status").get_by_text("Connecting…")).to_be_visible(timeout=8_000)
        await own_stack.start_missing()
        answered = await _until_answered(user, secrets[0])
        await expect(page.get_by_role("link", name=f"Request {answered}")).to_be_visible(timeout=25_000)


async def _until_answered(user: User, secret: str) -> str:
    """Call until the services are connected again, and return the id of the answered request."""
    for _ in range(50):
        answer = await user.call(secret)
        if answer.status_code == 200:
            return str(answer.headers["x-request-id"])
        await user.page.wait_for_timeout(200)
    pytest.fail("no answer")
