"""Attacks on web pages, tried on every page, form and parameter of the console."""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from urllib.parse import quote, urlsplit

import httpx
import pytest
from markupsafe import escape

from tests.e2e.console.browser import HTML, PASSWORD, Browser, forms_of, secret_of
from tests.e2e.stack import Stack, running_stack, say

SCRIPT = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{7*191}}"
"""`1337` in a page is the answer of a template engine."""
PAGES = ["/", "/docs", "/login", "/signup", "/forgot", "/verify", "/reset"]
OWN_PAGES = ["/keys", "/usage", "/usage.csv", "/usage/requests", "/playground", "/account"]
FORMS = [
    *("/signup", "/login", "/logout", "/verify", "/verify/send", "/forgot", "/reset", "/keys", "/account/password"),
    *("/account/delete", "/account/sessions/ses_1/end", "/keys/key_1/rotate", "/keys/key_1/revoke", "/playground/chat"),
]
ELSEWHERE = ["//evil.example", "https://evil.example", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)"]
ELSEWHERE += ["/%0d%0aSet-Cookie:x=1", "/\t/evil.example", "/a\\..\\evil", "http:evil.example", " //evil.example"]


@pytest.fixture
def email() -> str:
    """Return a new address, since an account allows only ten log-ins in a quarter of an hour."""
    return f"{secrets.token_hex(6)}@example.com"


@pytest.fixture
async def new_browser(stack: Stack) -> AsyncIterator[Browser]:
    async with Browser(stack) as browser:
        yield browser


@pytest.fixture
async def owner(stack: Stack) -> AsyncIterator[Browser]:
    async with Browser(stack) as browser:
        await browser.sign_up(f"{secrets.token_hex(6)}@example.com")
        yield browser


@pytest.mark.parametrize("path", FORMS)
async def test_a_form_without_its_token_or_from_another_site_is_refused(owner: Browser, path: str) -> None:
    csrf = re.search(r'name="csrf_token" value="(\w+)"', (await owner.get("/keys")).text)
    assert csrf
    header = {"x-csrf-token": csrf[1]}
    tries = [
        ({"csrf_token": ""}, {"origin": owner.origin}),
        ({"csrf_token": "0" * 64}, {"origin": owner.origin, "x-csrf-token": "0" * 64}),
        ({"csrf_token": csrf[1]}, {"origin": "https://evil.example", **header}),
        ({"csrf_token": csrf[1]}, {"origin": "null", **header}),
        ({"csrf_token": csrf[1]}, {"sec-fetch-site": "cross-site", **header}),
        ({"csrf_token": csrf[1]}, {"sec-fetch-site": "same-site", **header}),
    ]
    for fields, headers in tries:
        answer = await owner.client.post(path, data=fields, headers=headers)
        assert answer.status_code == 403, f"{path} accepted a form with {fields}, {headers}"
    assert (await owner.get("/keys")).status_code == 200, "the session has ended"


async def test_one_browsers_form_token_is_invalid_in_another(stack: Stack, owner: Browser) -> None:
    token = next(form.fields["csrf_token"] for form in forms_of((await owner.get("/keys")).text))
    async with Browser(stack) as other:
        await other.sign_up(f"{secrets.token_hex(6)}@example.com")
        data = {"csrf_token": token, "name": "stolen"}
        assert (await other.client.post("/keys", data=data, headers={"origin": other.origin})).status_code == 403


@pytest.mark.parametrize("path", [*PAGES, *OWN_PAGES, "/usage/requests/x", "/nowhere"])
async def test_query_parameters_are_escaped(owner: Browser, path: str) -> None:
    names = ("token", "next", "key", "outcome", "from", "to", "before", "id", "email", "x")
    query = "&".join(f"{name}={quote(SCRIPT)}" for name in names)
    for url in (f"{path}?{query}", f"{path}/{quote(SCRIPT, safe='')}"):
        answer = await owner.get(url)
        assert answer.status_code < 500
        assert "<script>alert" not in answer.text
        assert "<img src=x" not in answer.text
        assert "1337" not in answer.text


async def test_the_tested_query_parameters_are_shown_on_the_page(new_browser: Browser) -> None:
    """Without this, the test above would pass on pages that ignore their parameters."""
    for path in ("/reset", "/verify", "/signup"):
        assert escape(SCRIPT) in (await new_browser.get(f"{path}?token={quote(SCRIPT)}")).text, path


async def test_form_fields_are_escaped(owner: Browser) -> None:
    made = await owner.submit("/keys", "/keys", {"name": SCRIPT, "models": SCRIPT})
    pages = [made, await owner.get("/keys")]
    named = await owner.submit("/keys", "/keys", {"name": SCRIPT[:100]})
    assert escape(SCRIPT[:100]) in (await owner.get("/keys")).text, "the name is not shown, so nothing is tested"
    pages += [named, *[await owner.get(path) for path in OWN_PAGES]]
    for page in pages:
        assert "<script>alert" not in page.text
        assert "<img src=x" not in page.text


async def test_a_models_name_is_escaped_in_charts_tables_and_receipts(owner: Browser) -> None:
    secret = secret_of((await owner.submit("/keys", "/keys", {"name": "laptop"})).text)
    headers = {"authorization": f"Bearer {secret}"}
    answer = await owner.client.post("/api/v1/chat", headers=headers, json=say("hi", model=SCRIPT))

    for path in ("/usage", f"/usage/requests/{answer.headers['x-request-id']}"):
        page = (await owner.get(path)).text
        assert escape(SCRIPT) in page, f"{path} does not show the model"
        assert "<script>alert" not in page
        assert "<img src=x" not in page


async def test_objects_of_another_account_cannot_be_changed_by_their_ids(stack: Stack, owner: Browser) -> None:
    await owner.submit("/keys", "/keys", {"name": "laptop"})
    key_id = re.findall(r"/keys/(key_\w+)/revoke", (await owner.get("/keys")).text)[0]
    async with Browser(stack) as other:
        await other.sign_up(f"{secrets.token_hex(6)}@example.com")
        token = next(form.fields["csrf_token"] for form in forms_of((await other.get("/keys")).text))
        headers = {"origin": other.origin, "x-csrf-token": token, "stack-key-id": key_id}
        form = {"csrf_token": token, "grace": "0"}
        for action in ("rotate", "revoke"):
            answer = await other.client.post(f"/keys/{key_id}/{action}", data=form, headers=headers)
            assert answer.status_code == 404, action
        assert (await other.client.post("/playground/chat", json=say("hi"), headers=headers)).status_code == 404
        assert "laptop" not in (await other.get(f"/usage?key={key_id}")).text
        assert "laptop" not in (await other.get(f"/playground?key={key_id}")).text
    assert re.search(r">0\s*<span class=\"muted\">of 1,000", (await owner.get("/keys")).text), (
        "the key was used or deleted"
    )


@pytest.mark.parametrize("page", ["/signup", "/login", "/forgot", "/verify", "/reset"])
async def test_a_refused_form_shows_its_fields_escaped(new_browser: Browser, page: str) -> None:
    html = (await new_browser.get(f"{page}?token={quote(SCRIPT)}")).text
    for form in forms_of(html):
        fields = dict.fromkeys(form.fields, SCRIPT) | {"csrf_token": form.fields["csrf_token"]}
        answer = await new_browser.send(html, form.action, fields)
        assert 400 <= answer.status_code < 500, f"{form.action}: {answer.status_code}"
        assert "<script>alert" not in answer.text


@pytest.mark.parametrize("target", ELSEWHERE)
async def test_no_log_in_redirects_to_another_site(stack: Stack, new_browser: Browser, email: str, target: str) -> None:
    await new_browser.sign_up(email)
    for method in ("in the address", "in the form"):
        async with Browser(stack) as browser:
            page = f"/login?next={quote(target)}" if method == "in the address" else "/login"
            fields = {"email": email, "password": PASSWORD} | ({"next": target} if method == "in the form" else {})
            answer = await browser.submit(page, "/login", fields, follow=False)
            assert answer.status_code == 303
            location = answer.headers["location"]
            assert not urlsplit(location).netloc, f"redirected to {location}"
            assert re.match(r"^/[a-z%]", location), f"redirected to {location}"
            assert "x" not in answer.cookies, "a header was injected"
            again = await browser.client.get(page, follow_redirects=False)
            assert again.status_code == 303, "a user who is logged in is redirected"
            assert re.match(r"^/[a-z%]", again.headers["location"])


async def test_a_session_planted_before_the_log_in_is_not_used_afterwards(stack: Stack) -> None:
    mallory, victim = (f"{secrets.token_hex(6)}@example.com" for _ in range(2))
    async with Browser(stack) as attacker, Browser(stack) as browser:
        await attacker.sign_up(mallory)
        planted = attacker.client.cookies[attacker.session_cookie]
        async with Browser(stack) as elsewhere:
            await elsewhere.sign_up(victim)
        browser.client.cookies.set(browser.session_cookie, planted, domain="127.0.0.1")
        assert mallory in (await browser.get("/account")).text, "nothing was planted"
        token = forms_of((await browser.get("/account")).text)[0].fields["csrf_token"]
        form = {"csrf_token": token, "email": victim, "password": PASSWORD}
        await browser.client.post("/login", data=form, headers={"origin": browser.origin})
        assert browser.client.cookies.get(browser.session_cookie, domain="127.0.0.1") not in (planted, None)
        assert victim in (await browser.get("/account")).text
        assert "/login" in str((await attacker.get("/account")).url)


async def test_the_session_cookie_cannot_be_read_by_scripts_or_sent_by_other_sites(new_browser: Browser) -> None:
    html = (await new_browser.get("/signup")).text
    fields = {"email": f"{secrets.token_hex(6)}@example.com", "password": PASSWORD}
    answer = await new_browser.send(html, "/signup", fields, follow=False)
    cookies = [one for one in answer.headers.get_list("set-cookie") if one.startswith(f"{new_browser.session_cookie}=")]

    assert len(cookies) == 1
    attributes = {part.strip().lower() for part in cookies[0].split(";")[1:]}
    assert {"httponly", "samesite=lax", "path=/"} <= attributes
    assert "secure" not in attributes, "over plain HTTP a browser would drop it"


async def test_a_session_is_not_accepted_as_a_key_nor_a_key_as_a_session(owner: Browser) -> None:
    secret = secret_of((await owner.submit("/keys", "/keys", {"name": "laptop"})).text)
    session = owner.client.cookies[owner.session_cookie]

    for path in ("/api/v1/models", "/api/v1/key", "/api/v1/usage"):
        assert (await owner.client.get(path)).status_code == 401, "the cookie was accepted as a key"
        shown = await owner.client.get(path, headers={"authorization": f"Bearer {session}"})
        assert shown.status_code == 401, "a session's token was accepted as a key"
    for path in OWN_PAGES:
        async with httpx.AsyncClient(base_url=owner.origin, trust_env=False) as client:
            for headers in ({"authorization": f"Bearer {secret}"}, {"cookie": f"{owner.session_cookie}={secret}"}):
                answer = await client.get(path, headers={**HTML, **headers})
                assert (answer.status_code, answer.headers["location"][:6]) == (303, "/login")


@pytest.mark.parametrize("path", [*PAGES, *OWN_PAGES, "/static/console.css", "/nowhere"])
async def test_every_response_forbids_frames_inline_scripts_and_foreign_sources(owner: Browser, path: str) -> None:
    answer = await owner.get(path)

    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    if path in OWN_PAGES:
        assert answer.headers["cache-control"] == "no-store"
    assert " style=" not in answer.text
    assert not re.search(r"<script(?! src=)|\son\w+=", answer.text)


async def test_incomplete_forms_lock_out_no_user(new_browser: Browser) -> None:
    """Each would hold one of its client's slots in the console for as long as that client likes."""
    host, port = urlsplit(new_browser.origin).hostname, urlsplit(new_browser.origin).port
    head = "POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 99"
    stuck = [await asyncio.open_connection(host, port) for _ in range(40)]
    try:
        for _, writer in stuck:
            writer.write(f"{head}\r\n\r\nemail=".encode())
            await writer.drain()
        async with asyncio.timeout(5):
            assert [(await new_browser.get("/login")).status_code for _ in range(5)] == [200] * 5
    finally:
        for _, writer in stuck:
            writer.close()


async def test_only_content_named_by_its_digest_is_cached_for_ever(new_browser: Browser) -> None:
    """Whatever `v=` said, wrong content and even a 404 used to be cached for a year."""
    named = re.findall(r'"(/static/[a-z.]+\?v=\w+)"', (await new_browser.get("/")).text)
    assert len(named) >= 3
    expected = {path: (await new_browser.get(path)).headers["cache-control"] for path in named}
    assert set(expected.values()) == {"public, max-age=31536000, immutable"}
    for path in ("/static/console.css", "/static/console.css?v=", f"{named[0]}0", "/static/console.css?v=0a1b"):
        assert (await new_browser.get(path)).headers["cache-control"] == "no-cache"
    for path in ("/static/none.css?v=0a1b", "/static/none.css"):
        missing = await new_browser.get(path)
        assert (missing.status_code, missing.headers["cache-control"]) == (404, "no-store")


@pytest.mark.parametrize(
    "path",
    [
        *("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/%2e%2e%2f%2e%2e%2fserver.py"),
        *(
            "/static//etc/passwd",
            "/static/",
            "/templates/base.html",
            "/.git/config",
            "/static/%00",
            "/%2e%2e/%2e%2e/etc/passwd",
        ),
        *(
            "/keys/../account/delete",
            "/keys/%2e%2e/revoke",
            "/usage/requests/..%2f..%2fkeys",
            "/keys/",
            "/KEYS",
        ),
    ],
)
async def test_no_path_escapes_the_served_folder(owner: Browser, path: str) -> None:
    answer = await owner.client.get(path, headers=HTML, follow_redirects=False)

    assert answer.status_code in (400, 404, 405), f"{path}: {answer.status_code}"
    assert "root:" not in answer.text
    assert "import" not in answer.text


async def test_files_overlong_forms_and_other_content_types_are_refused(owner: Browser) -> None:
    html = (await owner.get("/keys")).text
    token = next(form.fields["csrf_token"] for form in forms_of(html))
    origin = {"origin": owner.origin}

    answers = [
        await owner.client.post("/keys", data={"csrf_token": token}, files={"name": b"x"}, headers=origin),
        await owner.client.post("/keys", json={"csrf_token": token, "name": "x"}, headers=origin),
        await owner.client.post("/keys", data={"csrf_token": token, "name": "x" * 100_000}, headers=origin),
        await owner.client.post("/keys", data={f"f{n}": "x" for n in range(500)}, headers=origin),
    ]

    assert [answer.status_code for answer in answers] == [400, 400, 413, 400]
    assert all("text/html" in answer.headers["content-type"] for answer in answers)


@pytest.fixture
def strict_stack() -> Iterator[Stack]:
    """Yield a stack whose operator enforces HTTPS."""
    with running_stack(GATEWAY_HSTS_SECONDS="600") as running:
        yield running


async def test_hsts_is_sent_where_the_setting_enables_it(stack: Stack, strict_stack: Stack) -> None:
    for running, expected in ((stack, None), (strict_stack, "max-age=600")):
        async with Browser(running) as browser:
            assert (await browser.get("/")).headers.get("strict-transport-security") == expected


async def test_with_auth_down_a_page_says_so_and_sessions_are_kept(own_stack: Stack) -> None:
    async with Browser(own_stack) as browser:
        await browser.sign_up("ada@example.com")
        own_stack.kill("auth")
        away = await browser.get("/keys")
        assert away.status_code == 503
        assert "Something went wrong on our side" in away.text
        assert 'href="/login"' not in away.text, "a logged-in user is asked to log in"
        own_stack.start("auth")
        await own_stack.until_ready("auth")
        async with asyncio.timeout(5):
            while (await browser.get("/keys")).status_code == 503:
                await asyncio.sleep(0.05)
        assert "Create a key" in (await browser.get("/keys")).text
