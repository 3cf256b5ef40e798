"""Sign-up over real services: known addresses, addresses in several scripts, with and without mail."""

import re
import secrets
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.console.browser import PASSWORD, Browser
from tests.e2e.stack import Stack, running_stack
from tests.ports import free_port


@pytest.fixture
def with_mail() -> Iterator[Stack]:
    """Yield a stack whose mail server does not listen: e-mails wait, and pages do not claim otherwise."""
    with running_stack(AUTH_SMTP_URL=f"smtp://127.0.0.1:{free_port()}") as running:
        yield running


async def _page(stack: Stack, email: str) -> httpx.Response:
    async with Browser(stack) as browser:
        return await browser.submit("/signup", "/signup", {"email": email, "password": PASSWORD})


async def test_without_mail_a_known_address_is_reported_as_such(stack: Stack) -> None:
    """It used to be answered with 500, and set off the critical alert."""
    email = f"{secrets.token_hex(6)}@example.com"
    assert (await _page(stack, email)).status_code == 200
    known = await _page(stack, email)
    assert known.status_code == 409
    assert f"{email} already has an account" in known.text
    assert f'value="{email}"' in known.text, "the typed text is lost"


async def test_with_mail_a_known_address_gets_the_same_page_as_a_new_one(with_mail: Stack) -> None:
    pages = [(await _page(with_mail, "ada@example.com")) for _ in range(2)]
    assert [page.status_code for page in pages] == [200, 200]
    texts = [_without_tokens(page.text.split("<main", 1)[1]) for page in pages]
    assert "We sent an e-mail to <b>ada@example.com</b>" in texts[0]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("email", ["жанна@пример.рф", "प्रिया@उदाहरण.भारत", "andre\u0301@bu\u0308cher.example"])
async def test_an_address_in_any_script_can_sign_up_and_is_shown_as_typed(stack: Stack, email: str) -> None:
    async with Browser(stack) as browser:
        signed_up = await browser.submit("/signup", "/signup", {"email": email, "password": PASSWORD})
        assert signed_up.status_code == 200, signed_up.text
        page = (await browser.get("/account")).text
        assert "xn--" not in page
        assert email.split("@")[0][0] in page
    async with Browser(stack) as browser:
        await browser.submit("/login", "/login", {"email": email, "password": PASSWORD})
        assert "Log out" in (await browser.get("/account")).text


def _without_tokens(text: str) -> str:
    return re.sub(r'name="csrf_token" value="\w+"', "", text)
