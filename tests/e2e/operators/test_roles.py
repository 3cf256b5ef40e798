"""Which page is shown to whom: every page of both consoles, to each kind of visitor."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import pytest

from services.gateway.console import app as gateway_app
from services.operator_console import app as operator_app
from tests.e2e.console.browser import Browser
from tests.e2e.operators.operator import OperatorBrowser, account_id_of, operator, set_role, signed_up
from tests.e2e.stack import Stack

pytestmark = pytest.mark.xdist_group("operators")
_ACCOUNT = "acc_00000000000000000000000000"
_VISITORS = ("nobody", "user", "operator without TOTP", "operator")
_PUBLIC = {"/login", "/login/code", "/logout"}
_OPERATORS_PAGES = {
    *("/", "/accounts", "/accounts/{id}", "/accounts/{id}/plan", "/accounts/{id}/suspend", "/accounts/{id}/resume"),
    *("/accounts/{id}/sessions/end", "/plans", "/plans/{name}", "/invites", "/invites/{id}/revoke", "/top"),
    *("/groq-keys", "/audit", "/health"),
}
_OWNERS_PREFIXES = ("/keys", "/usage", "/plan", "/playground", "/account")
_GOES_TO_LOG_IN = re.compile(r"/login(\?|$)")


def _pages(source: ModuleType) -> list[tuple[str, bool]]:
    """Return the paths of a console's routes, as its source declares them, and whether each needs a session."""
    assert source.__file__
    found = re.findall(r'views\.(public|private)\(\s*f?"([^"]+)"', Path(source.__file__).read_text())
    found += [("private", "/account/log-in")] if "views.private(methods" in Path(source.__file__).read_text() else []
    plain = [(path.replace("{methods}", "/account/log-in"), kind == "private") for kind, path in found]
    return [(path.replace("{{", "{").replace("}}", "}"), is_private) for path, is_private in plain]


class Visitors:
    """A browser of each kind of visitor at the operators' console, and at the users' console."""

    def __init__(self, stack: Stack) -> None:
        self.operators = {name: OperatorBrowser(stack) for name in _VISITORS}
        self.owners = {name: Browser(stack) for name in _VISITORS}


@pytest.fixture
async def visitors(operated: Stack) -> AsyncIterator[Visitors]:
    visitors = Visitors(operated)
    user, plain, ada = await signed_up(operated), await signed_up(operated), await operator(operated)
    await set_role(operated, plain)
    await visitors.owners["user"].submit("/login", "/login", {"email": user, "password": "correct horse battery"})
    await visitors.owners["operator without TOTP"].submit(
        "/login", "/login", {"email": plain, "password": "correct horse battery"}
    )
    assert (await visitors.operators["user"].enter_password(user)).status_code == 403
    assert (await visitors.operators["operator without TOTP"].enter_password(plain)).status_code == 409
    await visitors.operators["operator"].log_in(ada)
    # Cookies do not carry a session from one console to the other, whatever their name.
    for name in ("user", "operator without TOTP"):
        owner, browser = visitors.owners[name], visitors.operators[name]
        token = owner.client.cookies[owner.session_cookie]
        browser.client.cookies.set(browser.session_cookie, token)
    ada_token = visitors.operators["operator"].client.cookies[visitors.operators["operator"].session_cookie]
    visitors.owners["operator"].client.cookies.set(visitors.owners["operator"].session_cookie, ada_token)
    yield visitors
    for one in (*visitors.operators.values(), *visitors.owners.values()):
        await one.client.aclose()
    for email in (plain, ada.email):
        await set_role(operated, email, is_operator=False)


async def _outcome(browser: Browser, path: str) -> str:
    """Return whether a page is shown, or which answer a visitor gets; a form is sent with its token."""
    address = path.replace("{id}", _ACCOUNT).replace("{name}", "free").replace("{provider}", "oidc")
    answer = await browser.client.get(address)
    if answer.status_code == 405:
        csrf = re.search(r'name="csrf_token" value="(\w+)"', (await browser.get("/login")).text)
        data = {"csrf_token": csrf[1] if csrf else ""}
        answer = await browser.client.post(address, data=data, headers={"origin": browser.origin})
    if _GOES_TO_LOG_IN.match(answer.headers.get("location", "")):
        return "log in"
    # A form of the users' console shows the log-in page in place.
    return "log in" if 'action="/login"' in answer.text and path not in _PUBLIC else "shown"


def test_the_pages_of_the_operators_console_are_those_of_the_table() -> None:
    pages = _pages(operator_app)
    assert {path for path, _ in pages} == _OPERATORS_PAGES | _PUBLIC
    assert {path for path, is_private in pages if is_private} == _OPERATORS_PAGES


@pytest.mark.long
async def test_every_operators_page_is_for_operators_with_totp_only(visitors: Visitors) -> None:
    wrong = []
    for path in sorted(_OPERATORS_PAGES):
        for name, browser in visitors.operators.items():
            expected = "shown" if name == "operator" else "log in"
            if (outcome := await _outcome(browser, path)) != expected:
                wrong.append((path, name, outcome))
    assert wrong == []


@pytest.mark.long
async def test_every_own_page_of_the_users_console_is_for_its_users_only(visitors: Visitors) -> None:
    """An operator's session is none there, and needs none: operators are users with accounts of their own."""
    pages = [path for path, is_private in _pages(gateway_app) if is_private]
    assert {f"/{path.split('/')[1].partition('.')[0]}" for path in pages} == set(_OWNERS_PREFIXES)
    wrong = []
    for path in pages:
        for name, browser in visitors.owners.items():
            expected = "shown" if name in ("user", "operator without TOTP") else "log in"
            if (outcome := await _outcome(browser, path)) != expected:
                wrong.append((path, name, outcome))
    assert wrong == []


async def test_no_page_of_operators_exists_in_the_users_console(operated: Stack, visitors: Visitors) -> None:
    account_id = await account_id_of(operated, await signed_up(operated))
    for path in (
        "/accounts",
        f"/accounts/{account_id}",
        "/plans",
        "/invites",
        "/top",
        "/groq-keys",
        "/audit",
        "/health",
    ):
        for browser in visitors.owners.values():
            assert (await browser.get(path)).status_code == 404, path
