"""The playground: what is shown is what is sent, nothing that arrived is lost, and failures can be repeated."""

import json
import re

from playwright.async_api import Browser, Locator, Page, expect

from tests.browser.user import User, user_at
from tests.e2e.stack import Stack
from tools.groq_standin import turns

_SLOW = "[[standin:slow token_ms=60]] [[standin:tokens count=200]]"
_MARKDOWN = """## Steps

1. Read **all** of it.
2. Call `main()`.

```python
print("hello")
```

| model | tokens |
|---|---:|
| a | 1 |

<img src="https://evil.example/x"> ![x](https://evil.example/y)
"""


def _message(page: Page) -> Locator:
    return page.get_by_label("Message", exact=True)


async def _send(page: Page, text: str) -> None:
    await _message(page).fill(text)
    await page.get_by_role("button", name="Send").click()


async def _conversation(page: Page) -> list[str]:
    """Return the texts that the conversation shows, without marks and messages that were not sent."""
    return list(await page.locator(".turn:not(.unsent) > .text").all_inner_texts())


async def _sent(stack: Stack) -> list[str]:
    """Return the contents of the messages of the last request to Groq."""
    return [str(one["content"]) for one in (await stack.journal())[-1]["request"]["messages"]]


async def _start(user: User) -> Page:
    await user.sign_up()
    await user.create_key()
    await user.open("/playground")
    return user.page


async def test_a_stopped_answer_is_kept_marked_and_part_of_the_conversation(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        page = await _start(user)
        await _send(page, _SLOW)
        await expect(page.locator(".turn").nth(1)).to_contain_text("one two three")
        await page.get_by_role("button", name="Stop").click()
        answer = page.locator(".turn").nth(1)
        await expect(answer.get_by_text("Stopped", exact=True)).to_be_visible()
        await expect(answer.locator("> .text")).to_contain_text("one two three")
        await expect(answer.get_by_role("link", name=re.compile("^req_"))).to_be_visible()

        await _send(page, "Go on")
        await expect(page.locator(".turn").nth(3)).to_contain_text("tokens")
        shown = await _conversation(page)
        assert [_plain(one) for one in await _sent(stack)] == [_plain(one) for one in shown[:-1]]
        assert user.complaints == []


def _plain(text: str) -> str:
    return " ".join(text.split())


async def test_an_interrupted_answer_is_kept_with_its_error_and_retried(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        page = await _start(user)
        await _send(page, "[[standin:tokens count=30]] [[standin:cut after=10]]")
        answer = page.locator(".turn").nth(1)
        await expect(answer.get_by_text("Interrupted", exact=True)).to_be_visible()
        await expect(answer.locator("> .text")).to_contain_text("one two three")
        failure = answer.get_by_role("alert")
        await expect(failure).to_contain_text("upstream_cut")
        await expect(failure.get_by_role("link", name=re.compile("^req_"))).to_be_visible()
        requests = len(await stack.journal())
        await failure.get_by_role("button", name="Retry").click()
        await expect(page.get_by_text("Interrupted", exact=True)).to_have_count(1)
        assert await page.locator(".turn").count() == 2, "the failed answer is shown twice"
        assert len(await stack.journal()) > requests


async def test_a_failed_message_is_not_part_of_the_conversation_and_keeps_the_typed_text(
    chromium: Browser, stack: Stack
) -> None:
    async with user_at(chromium, stack) as user:
        page = await _start(user)
        await _send(page, "Hello")
        await expect(page.locator(".turn").nth(1)).to_contain_text("tokens")
        await _send(page, "[[standin:context_length]] please")
        failure = page.get_by_role("alert")
        await expect(failure).to_contain_text("400 context_length_exceeded")
        await expect(failure.get_by_role("link", name=re.compile("^req_"))).to_be_visible()
        await expect(failure.get_by_role("button", name="Retry")).to_be_visible()
        await expect(_message(page)).to_have_value("[[standin:context_length]] please")

        await _send(page, "Another question")
        await expect(page.locator(".turn").nth(3)).to_contain_text("tokens")
        assert await _sent(stack) == (await _conversation(page))[:-1]
        assert "context_length" not in " ".join(await _sent(stack))


async def test_answers_are_formatted_without_scripts_or_foreign_requests(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        page = await _start(user)
        await _send(page, f"{turns.marker(turns.Turn(reasoning='First I think.', content=_MARKDOWN))} go")
        answer = page.locator(".turn").nth(1)
        await expect(answer.locator("pre code")).to_have_text('print("hello")\n')
        await expect(answer.get_by_role("heading", name="Steps")).to_be_visible()
        await expect(answer.locator("ol li strong")).to_have_text("all")
        await expect(answer.locator("td").last).to_have_text("1")
        assert await answer.locator("img").count() == 0
        await expect(answer.get_by_text("First I think.")).not_to_be_visible()
        await answer.get_by_text("Reasoning").click()
        await expect(answer.get_by_text("First I think.")).to_be_visible()
        await expect(answer.locator(".facts-line")).to_contain_text(
            re.compile(r"\d+ \+ \d+ tokens · \d+ ms, first after \d+ ms")
        )
        assert await user.faults() == []
        assert user.complaints == []


async def test_a_user_who_scrolls_up_stays_there_while_the_answer_grows(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        page = await _start(user)
        await _send(page, "[[standin:tokens count=900]]")
        await expect(page.locator(".turn").nth(1)).to_contain_text("tokens ·")
        await _send(page, _SLOW)
        await expect(page.locator(".turn").nth(3)).to_contain_text("one two three")
        talk = page.locator("#talk")
        height = await talk.evaluate("(one) => one.scrollHeight - one.clientHeight - one.scrollTop")
        assert height < 60, "the answer is not followed"
        await talk.evaluate("(one) => { one.scrollTop = 0; }")
        await expect(page.locator(".turn").nth(3)).to_contain_text(re.compile("(ten.*){3}"))
        assert await talk.evaluate("(one) => one.scrollTop") == 0
        await page.get_by_role("button", name="Stop").click()


async def test_only_chat_models_that_the_key_may_use_are_offered(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        page = user.page
        await user.sign_up()
        await user.open("/keys")
        await page.get_by_label("Name", exact=True).fill("narrow")
        await page.get_by_text("Limits for this key").click()
        await page.get_by_role("checkbox", name="openai/gpt-oss-20b", exact=True).check()
        await page.get_by_role("button", name="Create key").click()
        await user.create_key("wide")
        await user.open("/playground")
        await page.get_by_label("Key", exact=True).select_option(label=await _option(page, "wide"))
        wide = await _offered(page)
        assert "qwen/qwen3.8-27b" in wide
        assert not [name for name in wide if "whisper" in name or "orpheus" in name]
        await page.get_by_label("Model", exact=True).select_option("qwen/qwen3.8-27b")
        await page.get_by_label("Key", exact=True).select_option(label=await _option(page, "narrow"))
        # Aliases of a permitted model are permitted too.
        assert set(await _offered(page)) == {"openai/gpt-oss-20b", "llama-3.1-8b-instant"}
        assert await page.get_by_label("Model", exact=True).input_value() in await _offered(page)
        await page.get_by_label("Model", exact=True).select_option("llama-3.1-8b-instant")
        await expect(page.get_by_text("An alias: openai/gpt-oss-20b answers.")).to_be_visible()


async def _option(page: Page, name: str) -> str:
    return str(await page.locator("#key option", has_text=name).inner_text())


async def _offered(page: Page) -> list[str]:
    found: list[str] = await page.locator("#model option:not([hidden])").evaluate_all(
        "(all) => all.map((one) => one.value)"
    )
    return found


async def test_the_code_view_is_the_call_that_was_made_with_its_settings(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        page = await _start(user)
        await page.get_by_label("Temperature").fill("0.3")
        await page.get_by_label("Max tokens").fill("64")
        await page.get_by_label("System message").fill("Be brief.")
        await _send(page, 'It\'s "me"')
        await expect(page.locator(".turn").nth(1)).to_contain_text("tokens")
        await expect(page.get_by_text("The last call")).to_be_visible()
        code = await page.locator("#snippet").inner_text()
        body = json.loads(code.split("-d '", 1)[1].rsplit("'", 1)[0].replace("'\\''", "'"))
        assert (body["temperature"], body["max_completion_tokens"]) == (0.3, 64)
        request = (await stack.journal())[-1]["request"]
        assert {name: request[name] for name in ("messages", "temperature", "max_completion_tokens", "stream")} == {
            name: body[name] for name in ("messages", "temperature", "max_completion_tokens", "stream")
        }
        await _message(page).fill("Something else")
        await expect(page.get_by_text("The call that Send makes")).to_be_visible()
        await expect(page.locator("#snippet")).to_contain_text("Something else")


async def test_after_a_log_in_the_message_and_the_pages_query_are_still_there(chromium: Browser, stack: Stack) -> None:
    async with user_at(chromium, stack) as user:
        page = user.page
        email = await user.sign_up()
        await user.create_key()
        await user.open("/playground?model=qwen%2Fqwen3.8-27b")
        await expect(page.get_by_label("Model", exact=True)).to_have_value("qwen/qwen3.8-27b")
        await page.context.clear_cookies(name=re.compile("session"))
        await _send(page, "Are you there?")
        await page.wait_for_url("**/login?next=*")
        await user.log_in(email)
        await page.wait_for_url("**/playground?model=qwen%2Fqwen3.8-27b")
        await expect(_message(page)).to_have_value("Are you there?")
