"""What each page of the console must do with long text, forms, outages, settings and history."""

import asyncio
import re
import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Request, Response, expect

from services.common.rpc.channel import open_channel
from stack.auth.v1 import keys_pb2, keys_pb2_grpc
from tests.browser.history import owned_by, write_history
from tests.browser.user import PASSWORD, User, user_at
from tests.e2e.stack import Stack, running_stack

WIDTHS = (1280, 820, 390)
_LONGEST = ("W" * 100, "\u6f22" * 100, "\u0634" * 100, "\U0001f389" * 100)
"""Names of the maximum length: unbroken, Chinese, right to left, emoji."""

# Controls that no part of the page shows, because they are beyond the window or an element that hides its overflow.
_HIDDEN_CONTROLS = """() => {
  const isShown = (one) => {
    const { left, right } = one.getBoundingClientRect();
    for (let box = one.parentElement; box; box = box.parentElement) {
      const { left: from, right: to } = box.getBoundingClientRect();
      if (getComputedStyle(box).overflowX !== "visible" && (left < from - 1 || right > to + 1)) return false;
    }
    return left >= -1 && right <= innerWidth + 1;
  };
  return [...document.querySelectorAll("a.button, button, summary, input, select, textarea, header a")]
    .filter((one) => one.checkVisibility() && !one.closest(".skip") && one.type !== "hidden" && !isShown(one))
    .map((one) => one.outerHTML.slice(0, 120));
}"""


@pytest.mark.parametrize("width", WIDTHS)
async def test_no_input_moves_an_action_out_of_sight(chromium: Browser, stack: Stack, width: int) -> None:
    async with user_at(chromium, stack, width=width) as user:
        email = f"{secrets.token_hex(5)}{'w' * 54}@{'m' * 63}.{'m' * 63}.example.com"
        await user.sign_up(email)
        for name in _LONGEST:
            await user.create_key(name)
        await user.page.get_by_label("Name", exact=True).fill("models")
        await user.page.get_by_text("Limits for this key").click()
        await user.page.get_by_label("Other names or patterns").fill(", ".join(f"{n}{'m' * 254}*" for n in range(9)))
        await user.page.get_by_role("button", name="Create key").click()
        await expect(user.page.get_by_label("The new API key")).to_be_visible()
        key_id = owned_by(stack, email).key_ids[0]
        long_models = owned_by(stack, email).key_ids[-1]
        own_pages = ("/keys", f"/keys/{key_id}", f"/keys/{long_models}", "/usage", f"/usage?key={key_id}")
        for path in (*own_pages, "/playground", "/plan", "/account", "/docs", "/"):
            await user.open(path)
            assert await user.page.evaluate(_HIDDEN_CONTROLS) == [], path
            assert await user.page.evaluate("document.documentElement.scrollWidth") <= width, path
        await user.open("/keys")
        for action in ("Rotate", "Revoke"):
            await user.page.get_by_role("button", name=action, exact=True).first.click()
            assert await user.page.evaluate(_HIDDEN_CONTROLS) == [], action
            await user.page.keyboard.press("Escape")


async def test_no_reload_or_back_button_repeats_a_form(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        page, posted = user.page, list[str]()
        page.on("request", lambda sent: posted.append(_path(sent)) if sent.method == "POST" else None)
        await user.sign_up()
        secret = await user.create_key()
        await page.reload()
        await expect(page.get_by_role("heading", name="Create a key")).to_be_visible()
        assert secret not in await page.content(), "a reload shows the key again"

        await page.get_by_role("button", name="Rotate").click()
        await page.get_by_role("button", name="Rotate key").click()
        await expect(page.get_by_label("The new API key")).to_be_visible()
        await page.reload()
        await page.get_by_role("button", name="Revoke", exact=True).last.click()
        await page.get_by_role("button", name="Revoke key: laptop").click()
        await expect(page.get_by_role("status")).to_contain_text("is revoked")
        await page.reload()
        await expect(page.get_by_role("status")).to_have_count(0)

        await user.open("/account")
        await page.get_by_label("Current password").first.fill(PASSWORD)
        await page.get_by_label("New password").fill("another good password")
        await page.get_by_role("button", name="Change password").click()
        await expect(page.get_by_role("status")).to_contain_text("Your password has been changed")
        await page.reload()
        await page.go_back()
        await page.go_forward()
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_role("status")).to_contain_text("You are logged out.")
        await page.go_back()
        await page.go_forward()

        changes = ["/signup", "/keys", "/keys/…/rotate", "/keys/…/revoke", "/account/password", "/logout"]
        assert posted == changes


def _path(sent: Request) -> str:
    return re.sub(r"key_\w+", "…", urlsplit(sent.url).path)


async def test_a_wrong_password_on_delete_is_shown_where_the_user_looks(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        page = user.page
        await user.sign_up()
        await user.open("/account")
        await page.get_by_text("Delete my account", exact=True).click()
        await page.locator("#delete-account").get_by_label("Current password").fill("not the password")
        await page.get_by_role("button", name="Permanently delete my account").click()
        await expect(page.get_by_role("alert")).to_be_in_viewport()
        await expect(page.get_by_role("button", name="Permanently delete my account")).to_be_in_viewport()


@pytest.mark.parametrize("zoom", ["0.5", "0.67", "0.8", "1", "1.25", "2"])
async def test_the_new_key_shows_its_underscores_at_every_zoom(chromium: Browser, stack: Stack, zoom: str) -> None:
    async with user_at(chromium, stack) as user:
        await user.sign_up()
        await user.create_key()
        await user.page.evaluate(f"document.documentElement.style.zoom = {zoom}")
        # An underscore is below the baseline, where a box of a fixed height cut it off.
        room = await user.page.get_by_label("The new API key").evaluate(
            "(one) => [parseFloat(getComputedStyle(one).lineHeight) / parseFloat(getComputedStyle(one).fontSize),"
            " one.scrollHeight - one.clientHeight, getComputedStyle(one).overflowY]"
        )
        assert room[0] >= 1.5
        assert room[1] <= 0
        assert room[2] == "visible"


async def test_the_audit_log_names_keys(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        await user.sign_up()
        await user.create_key("build agent")
        await user.open("/account")
        row = user.page.get_by_role("region", name="Audit log").get_by_role("row", name="API key created")
        await expect(row).to_contain_text("build agent")


# Outlines that an ancestor cuts off. Outlines are drawn outside of the element unless their offset is negative.
_CUT_OUTLINE = """() => {
  const one = document.activeElement;
  if (one === document.body) return "";
  const style = getComputedStyle(one);
  const beyond = parseFloat(style.outlineWidth) + parseFloat(style.outlineOffset);
  const { left, right, top, bottom } = one.getBoundingClientRect();
  for (let box = one.parentElement; box && box !== document.body; box = box.parentElement) {
    const { overflowX, overflowY } = getComputedStyle(box);
    const edge = box.getBoundingClientRect();
    const isCut = (overflowX !== "visible" && (left - beyond < edge.left - 1 || right + beyond > edge.right + 1))
      || (overflowY !== "visible" && (top - beyond < edge.top - 1 || bottom + beyond > edge.bottom + 1));
    if (isCut) return `${one.outerHTML.slice(0, 100)} in ${box.outerHTML.slice(0, 60)}`;
  }
  return "";
}"""


@pytest.mark.parametrize("width", [1280, 390])
async def test_focus_rings_are_whole(chromium: Browser, stack: Stack, width: int) -> None:
    async with user_at(chromium, stack, width=width) as user:
        email = await user.sign_up()
        await user.create_key()
        write_history(stack, owned_by(stack, email), per_day=3)
        for path in ("/keys", "/usage", "/playground", "/plan", "/account", "/docs", "/"):
            await user.open(path)
            for _ in range(45):
                await user.page.keyboard.press("Tab")
                assert await user.page.evaluate(_CUT_OUTLINE) == "", path


async def test_a_key_is_renamed_limited_paused_and_resumed_on_its_page(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        page, email = user.page, await user.sign_up()
        secret = await user.create_key("old name")
        write_history(stack, owned_by(stack, email), per_day=4)
        await user.open("/keys")
        await page.get_by_role("link", name="old name").click()
        await expect(page.get_by_role("heading", name="Requests per day")).to_be_visible()
        await page.get_by_label("Name", exact=True).fill("new name")
        await page.get_by_label("Requests per day", exact=True).fill("2,000")
        await page.get_by_role("button", name="Save").click()
        await expect(page.get_by_role("alert")).to_contain_text("at most 1,000 requests a day")
        await expect(page.get_by_role("alert")).to_be_in_viewport()
        await expect(page.get_by_label("Name", exact=True)).to_have_value("new name")
        await page.get_by_label("Requests per day", exact=True).fill("500")
        await page.get_by_label("Tokens per day", exact=True).fill("100000")
        await page.get_by_label("Expires", exact=True).fill("2099-12-31")
        await page.get_by_role("checkbox", name="openai/gpt-oss-20b", exact=True).check()
        await page.get_by_role("button", name="Save").click()
        await expect(page.get_by_role("status")).to_contain_text("The settings of “new name” are saved.")
        await expect(page.get_by_text("In force: 500 requests per day, 100,000 tokens per day.")).to_be_visible()
        await expect(page.get_by_role("checkbox", name="openai/gpt-oss-20b", exact=True)).to_be_checked()
        assert (await user.call(secret, "hi", model="openai/gpt-oss-20b")).status_code == 200
        assert (await user.call(secret, "hi", model="qwen/qwen3.8-27b")).status_code == 403

        await page.get_by_role("button", name="Pause").click()
        await expect(page.get_by_role("status")).to_contain_text("“new name” is paused.")
        await _until(user, secret, 401)
        refused = await user.call(secret, "hi", model="openai/gpt-oss-20b")
        assert "This API key is paused" in refused.json()["error"]["message"]
        await user.open("/keys")
        await expect(page.get_by_role("row", name="new name")).to_contain_text("paused")
        await page.get_by_role("link", name="new name").click()
        await page.get_by_role("button", name="Resume").click()
        await _until(user, secret, 200)
        await user.open("/account")
        log = await page.get_by_role("region", name="Audit log").inner_text()
        for action in ("renamed", "paused", "resumed", "expiry changed", "models changed", "limit changed"):
            assert f"API key {action}" in log


async def _until(user: User, secret: str, status: int) -> None:
    """Call until the status changes, which must take less than a second."""
    async with asyncio.timeout(1.5):
        while (await user.call(secret, "hi", model="openai/gpt-oss-20b")).status_code != status:
            await asyncio.sleep(0.05)


async def test_a_leaked_secret_is_found_and_its_key_revoked(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as other, user_at(chromium, stack) as user:
        await other.sign_up()
        foreign = await other.create_key("foreign")
        page = user.page
        await user.sign_up()
        secrets_by_name = {name: await user.create_key(name) for name in ("first", "second")}
        for refused in (foreign, "sk_stk_nonsense"):
            await page.get_by_label("Secret").fill(refused)
            await page.get_by_role("button", name="Find and revoke").click()
            await expect(page.get_by_role("alert")).to_contain_text("None of your keys has this secret")
            await expect(page.get_by_role("alert")).to_be_in_viewport()
            assert refused not in await page.content()
        await page.get_by_label("Secret").fill(secrets_by_name["first"])
        await page.get_by_role("button", name="Find and revoke").click()
        await expect(page.get_by_role("status")).to_contain_text("“first” is revoked.")
        await _until(user, secrets_by_name["first"], 401)
        assert (await user.call(secrets_by_name["second"], "hi")).status_code == 200
        assert (await other.call(foreign, "hi")).status_code == 200


async def test_the_models_page_shows_what_can_be_called_and_leads_to_the_playground(
    chromium: Browser, stack: Stack
) -> None:
    async with user_at(chromium, stack) as user:
        page = user.page
        await user.open("/docs/models")
        card = page.locator(".model", has=page.get_by_role("heading", name="openai/gpt-oss-120b"))
        await expect(card).to_contain_text("131,072 tokens")
        await expect(card).to_contain_text("65,536 tokens")
        await expect(card).to_contain_text("$0.15 sent, $0.60 received")
        for ability in ("Tools", "Structured output", "Reasoning"):
            await expect(card).to_contain_text(ability)
        alias = page.locator(".model", has=page.get_by_role("heading", name="llama-3.1-8b-instant"))
        await expect(alias).to_contain_text("openai/gpt-oss-20b answers")
        await expect(alias).to_contain_text("default")
        await expect(page.locator(".model", has_text="whisper")).to_have_count(0)
        await card.get_by_text("Code").click()
        secret = await _key_of_a_new_user(chromium, stack)
        command = (await card.locator("pre code").inner_text()).replace("$STACK_API_KEY", secret)
        done = await asyncio.to_thread(
            subprocess.run, ["sh", "-c", command], capture_output=True, text=True, timeout=20
        )
        assert '"openai/gpt-oss-120b"' in done.stdout
        await user.sign_up()
        await user.create_key()
        await user.open("/docs/models")
        await page.get_by_role("link", name="Try openai/gpt-oss-120b").click()
        await expect(page.get_by_label("Model", exact=True)).to_have_value("openai/gpt-oss-120b")


async def _key_of_a_new_user(chromium: Browser, stack: Stack) -> str:
    async with user_at(chromium, stack) as user:
        await user.sign_up()
        return await user.create_key()


@pytest.mark.parametrize("width", [1280, 390])
async def test_a_request_opens_beside_the_list(chromium: Browser, stack: Stack, width: int) -> None:
    async with user_at(chromium, stack, width=width) as user:
        page = user.page
        await user.sign_up()
        secret = await user.create_key()
        answered = await user.call(secret, "hi", model="llama-3.1-8b-instant")
        failed = await user.call(secret, "[[standin:503]]")
        await user.open("/usage")
        row = page.get_by_role("link", name=f"Request {failed.headers['x-request-id']}")
        await row.focus()
        await page.keyboard.press("Enter")
        panel = page.get_by_role("dialog", name="Request")
        await expect(panel).to_contain_text("upstream_unavailable")
        await expect(panel.get_by_role("heading", name="Request")).to_be_focused()
        assert "/usage/requests" not in page.url
        await panel.locator("figure", has_text="For a bug report").get_by_role("button", name="Copy").click()
        copied = await page.evaluate("() => navigator.clipboard.readText()")
        assert f"Request: {failed.headers['x-request-id']}" in copied
        assert f"Status: {failed.status_code} upstream_unavailable" in copied
        assert "Charged: no" in copied
        assert secret not in copied
        await page.keyboard.press("Escape")
        await expect(panel).not_to_be_visible()
        await expect(row).to_be_focused()

        await page.get_by_role("link", name=f"Request {answered.headers['x-request-id']}").click()
        await expect(panel).to_contain_text("answered by openai/gpt-oss-20b")
        await expect(panel).to_contain_text("waiting for the model: ")
        await panel.get_by_role("link", name="Open the receipt").click()
        await page.wait_for_url(f"**/usage/requests/{answered.headers['x-request-id']}")
        await expect(page.get_by_role("heading", name="Timeline")).to_be_visible()
        assert user.complaints == []


@pytest.mark.parametrize("path", ["/", "/docs", "/login"])
async def test_the_first_page_is_small_and_does_not_shift(chromium: Browser, stack: Stack, path: str) -> None:
    async with user_at(chromium, stack) as user:
        sizes = list[int]()

        async def measure(response: Response) -> None:
            sizes.append(len(await response.body()))

        user.page.on("response", measure)
        await user.page.add_init_script(_SHIFTS)
        await user.open(path)
        await user.page.wait_for_load_state("networkidle")
        assert len(sizes) >= 3
        assert sum(sizes) < 100_000
        assert await user.page.evaluate("() => shifts") == 0


_SHIFTS = """
  self.shifts = 0;
  new PerformanceObserver((list) => { for (const one of list.getEntries()) shifts += one.value; })
    .observe({ type: "layout-shift", buffered: true });
"""


@pytest.fixture(name="own_stack", scope="module")
def _own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Yield a stack of an operator with a name, a logo, a contact and terms, whose services can be stopped."""
    logo = tmp_path_factory.mktemp("logo") / "acme.svg"
    logo.write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><rect width="1" height="1"/></svg>')
    with running_stack(
        GATEWAY_CONSOLE_NAME="Acme AI",
        GATEWAY_CONSOLE_LOGO=str(logo),
        GATEWAY_CONSOLE_CONTACT="help@acme.example",
        GATEWAY_CONSOLE_TERMS="https://acme.example/terms",
        INFERENCE_DEFAULT_MODEL="qwen/qwen3.8-27b",
        AUTH_SIGN_UPS_PER_ADDRESS_MAX="1000",
    ) as running:
        yield running


@pytest.fixture(name="acme")
async def _acme(chromium: Browser, own_stack: Stack) -> AsyncIterator[User]:
    """Yield a user of that stack."""
    async with user_at(chromium, own_stack) as user:
        yield user


async def test_name_logo_contact_terms_and_default_model_come_from_settings(acme: User) -> None:
    page = acme.page
    for path in ("/", "/docs", "/login", "/signup", "/nowhere"):
        await acme.open(path)
        assert "Stack 3.0" not in await page.content(), path
        await expect(page.get_by_role("banner").get_by_text("Acme AI")).to_be_visible()
        await expect(page.get_by_role("link", name="Terms", exact=True)).to_have_attribute(
            "href", "https://acme.example/terms"
        )
        await expect(page.get_by_role("contentinfo").get_by_role("link", name="Contact")).to_have_attribute(
            "href", "mailto:help@acme.example"
        )
        assert await page.locator("header img").evaluate("(one) => one.complete && one.naturalWidth > 0"), path
    await acme.open("/signup")
    await expect(page.get_by_text("By signing up you accept the terms of use")).to_be_visible()
    await acme.sign_up()
    await acme.create_key()
    await acme.open("/playground")
    await expect(page.get_by_label("Model", exact=True)).to_have_value("qwen/qwen3.8-27b")
    await acme.open("/docs")
    await expect(page.get_by_role("row", name="Default model")).to_contain_text("qwen/qwen3.8-27b")
    assert [one for one in acme.complaints if "404" not in one] == []


async def test_pages_say_what_is_unknown_and_show_what_is_known(acme: User, own_stack: Stack) -> None:
    page = acme.page
    email = await acme.sign_up()
    await acme.create_key()
    write_history(own_stack, owned_by(own_stack, email), per_day=5)
    own_stack.kill("quota")
    try:
        await acme.open("/usage")
        await expect(page.get_by_text("Today's counts cannot be read at the moment.")).to_be_visible()
        await expect(page.get_by_role("heading", name="Requests per day")).to_be_visible()
        await expect(page.get_by_text("No active API keys")).to_have_count(0)
        await acme.open("/keys")
        await expect(page.get_by_text("How much the keys were used cannot be read")).to_be_visible()
        await expect(page.get_by_role("row", name="laptop")).to_contain_text("active")
        await expect(page.get_by_role("row", name="laptop")).not_to_contain_text("0 of")
    finally:
        await own_stack.start_missing()
    own_stack.kill("inference")
    try:
        await acme.open("/usage")
        await expect(page.get_by_text("The usage records cannot be read at the moment")).to_be_visible()
        await expect(page.get_by_text("No requests yet")).to_have_count(0)
        await expect(page.get_by_text("Not counted")).to_have_count(0)
        await acme.open("/keys")
        await expect(page.get_by_role("row", name="laptop")).not_to_contain_text("never")
    finally:
        await own_stack.start_missing()
    own_stack.kill("auth")
    try:
        for path, heading in (("/", "Fast language models"), ("/docs", "Acme AI API")):
            await acme.open(path)
            await expect(page.get_by_role("heading", name=heading)).to_be_visible()
        await acme.open("/keys")
        await expect(page.get_by_text("Something went wrong on our side")).to_be_visible()
    finally:
        await own_stack.start_missing()


async def test_the_charts_have_one_colour_per_model_and_follow_every_filter(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        email = await user.sign_up()
        for name in ("laptop", "server"):
            await user.create_key(name)
        owned = owned_by(stack, email)
        count = write_history(stack, owned, per_day=30)
        await user.open("/usage")
        colours = await _legends(user)
        assert len(colours) == 9
        assert colours["other"] == "series-8"
        assert await _total(user) == count
        filters = [f"key={key_id}" for key_id in owned.key_ids]
        assert sum([await _total(user, f"/usage?{one}") for one in filters]) == count
        outcomes = ("answered", "client_left", "refused", "upstream_failed", "cut", "timed_out")
        assert sum([await _total(user, f"/usage?outcome={one}") for one in outcomes]) == count
        surfaces = ("chat", "responses", "messages", "completions")
        assert sum([await _total(user, f"/usage?surface={one}") for one in surfaces]) == count
        assert await _total(user, "/usage?from=2020-01-01&to=2020-01-02") == 0
        await user.open(f"/usage?key={owned.key_ids[0]}&surface=messages&outcome=answered")
        assert (await _legends(user)).items() <= colours.items(), "a filter changes colours"
        listed = await user.page.get_by_role("region", name="Requests").get_by_role("row").all_inner_texts()
        assert all("Messages" in row and "Answered" in row for row in listed[1:])


async def _legends(user: User) -> dict[str, str]:
    """Return the colour of each model, which must be the same in both charts."""
    found: list[tuple[str, str]] = await user.page.evaluate(
        '() => [...document.querySelectorAll(".legend li")].map((one) =>'
        ' [one.textContent, one.querySelector("rect").className.baseVal])'
    )
    assert len(dict(found)) == len({tuple(pair) for pair in found}), f"a model has two colours: {found}"
    return dict(found)


async def _total(user: User, path: str = "") -> int:
    """Return the requests that the chart shows, which must be those of the totals."""
    if path:
        await user.open(path)
    figures = [await user.page.locator("dl.figures dd.figure").nth(number).inner_text() for number in range(2)]
    label = (
        await user.page.locator("svg.chart.wide").first.get_attribute("aria-label")
        if await user.page.locator("svg.chart.wide").count()
        else ": 0 in total"
    )
    total = sum(int(one.replace(",", "")) for one in figures)
    assert label is not None
    assert label.endswith(f": {total:,} in total")
    return total


async def test_a_used_up_key_says_so_and_a_failed_request_says_why(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        page, email = user.page, await user.sign_up()
        secret = await user.create_key()
        failed = await user.call(secret, "[[standin:context_length]]", model="llama-3.1-8b-instant")
        assert failed.status_code == 400
        await user.open(f"/usage/requests/{failed.headers['x-request-id']}")
        facts = page.locator(".card", has_text="What your program received")
        await expect(facts).to_contain_text("400")
        await expect(facts).to_contain_text("context_length_exceeded")
        await expect(facts).to_contain_text("longer than the model's context of 131,072 tokens")
        await expect(page.get_by_text("answered by openai/gpt-oss-20b").first).to_be_visible()

        async with open_channel(stack.settings.auth_listen) as channel:
            limit = keys_pb2.SetKeyLimitRequest(key_id=owned_by(stack, email).key_ids[0], daily_limit=1)
            await keys_pb2_grpc.KeyServiceStub(channel).SetKeyLimit(limit, metadata=stack.admin_metadata, timeout=5)
        await user.open("/keys")
        await expect(page.get_by_role("row", name="laptop")).to_contain_text("active")
        assert (await user.call(secret, "hi")).status_code == 200
        await user.open("/keys")
        await expect(page.get_by_role("row", name="laptop")).to_contain_text("used up")
        await expect(page.get_by_role("row", name="laptop")).to_contain_text("Resets at 00:00 UTC")


async def test_a_key_of_a_used_up_account_says_so(acme: User, own_stack: Stack) -> None:
    await own_stack.set_plan("free", daily_limit=2, account_daily_limit=3)
    try:
        await acme.sign_up()
        first, second = [await acme.create_key(name) for name in ("first", "second")]
        statuses = [(await acme.call(secret)).status_code for secret in (first, first, second, second)]
        assert statuses == [200, 200, 200, 429]
        await acme.open("/keys")
        row = acme.page.get_by_role("row", name="second")
        await expect(row).to_contain_text("1 of 2")
        await expect(row).to_contain_text("used up")
        await expect(row).to_contain_text("Requests per day, account. Resets at 00:00 UTC")
    finally:
        await own_stack.set_plan("free", daily_limit=1_000, account_daily_limit=5_000)


async def test_aliases_are_stated_in_docs_and_usage(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        page = user.page
        await user.open("/docs/model-names")
        aliases = page.get_by_role("region", name="Aliases, table 2")
        row = aliases.get_by_role("row", name="llama-3.1-8b-instant")
        await expect(row).to_contain_text("openai/gpt-oss-20b")
        await user.sign_up()
        secret = await user.create_key()
        await user.call(secret, "hi", model="llama-3.1-8b-instant")
        await user.open("/usage")
        await expect(page.get_by_text("→ openai/gpt-oss-20b")).to_be_visible()
