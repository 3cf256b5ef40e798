"""A browser without rendering: keeps cookies, fills in forms, follows redirects on its own host only."""

import re
from collections.abc import Mapping
from html import unescape
from html.parser import HTMLParser

import httpx

from tests.e2e.stack import Stack

PASSWORD = "correct horse battery"
HTML = {"accept": "text/html,application/xhtml+xml"}


class Form:
    """A form of a page."""

    def __init__(self, action: str, method: str) -> None:
        self.action = action
        self.method = method
        self.fields: dict[str, str] = {}


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(given.get("action", "").partition("#")[0], given.get("method", "get")))
        elif given.get("type") == "checkbox" and "checked" not in given:
            return
        elif tag in ("input", "select", "textarea") and self.forms and "name" in given:
            self.forms[-1].fields[given["name"]] = given.get("value", "")


def forms_of(html: str) -> list[Form]:
    """Return a page's forms, in order."""
    parser = _Forms()
    parser.feed(html)
    return parser.forms


def secret_of(html: str) -> str:
    """Return the API key shown on a page."""
    found = re.search(r'<code id="secret"[^>]*>(sk_stk_[^<]+)</code>', html)
    assert found, "the page shows no new key"
    return unescape(found[1])


class Browser:
    """One user's browser."""

    @property
    def session_cookie(self) -> str:
        """Name of the cookie that holds the session's token at this address."""
        return f"stack_session_{self.origin.rpartition(':')[2]}"

    def __init__(self, stack: Stack, *, gateway: int = 0) -> None:
        self.origin = stack.gateways[gateway]
        self.client = httpx.AsyncClient(base_url=self.origin, trust_env=False, timeout=20, headers=HTML)

    async def __aenter__(self) -> "Browser":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    async def get(self, path: str) -> httpx.Response:
        """Open a page, and follow its redirects."""
        return await self.client.get(path, follow_redirects=True)

    async def submit(self, page: str, action: str, fields: Mapping[str, str], *, follow: bool = True) -> httpx.Response:
        """Fill in the form of a page that is posted to `action`, and send it."""
        html = (await self.get(page)).text
        return await self.send(html, action, fields, follow=follow)

    async def send(self, html: str, action: str, fields: Mapping[str, str], *, follow: bool = True) -> httpx.Response:
        """Send a form of a page that was already opened."""
        found = [form for form in forms_of(html) if form.action == action]
        assert found, f"no form to {action} among {[form.action for form in forms_of(html)]}"
        data = {**found[0].fields, **fields}
        return await self.client.post(action, data=data, headers={"origin": self.origin}, follow_redirects=follow)

    async def sign_up(self, email: str) -> httpx.Response:
        """Create an account."""
        return await self.submit("/signup", "/signup", {"email": email, "password": PASSWORD})
