"""The console's security headers, and the page shown for an internal error."""

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from services.common.web.headers import SecurityHeaders

DEFECT = b"<!doctype html><title>That went wrong</title>"


async def _page(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("a page", headers={"cache-control": "public"})(scope, receive, send)


async def _no_page(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("no page", status_code=404)(scope, receive, send)


async def _broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("a secret of the server")


async def _get(app: ASGIApp, path: str = "/keys", *, hsts_seconds: int = 0) -> httpx.Response:
    console = SecurityHeaders(app, hsts_seconds=hsts_seconds, defect_page=DEFECT)
    transport = httpx.ASGITransport(console)
    async with httpx.AsyncClient(transport=transport, base_url="https://api.example.com") as client:
        return await client.get(path)


async def test_hsts_is_sent_only_if_the_operator_enables_it() -> None:
    assert (await _get(_page, hsts_seconds=600)).headers["strict-transport-security"] == "max-age=600"
    assert "strict-transport-security" not in (await _get(_page)).headers


async def test_the_policy_allows_only_files_of_the_same_origin() -> None:
    policy = (await _get(_page)).headers["content-security-policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))

    assert set(rules.values()) == {"'none'", "'self'"}
    assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'"
    assert rules["form-action"] == "'self'"


async def test_an_internal_error_is_a_page_without_details_and_with_the_same_headers() -> None:
    answer = await _get(_broken, hsts_seconds=600)

    assert (answer.status_code, answer.content) == (500, DEFECT)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert {"content-security-policy", "x-frame-options", "strict-transport-security"} <= set(answer.headers)


@pytest.mark.parametrize(
    ("app", "path", "expected"),
    [
        (_page, "/keys", "no-store"),
        (_page, "/keys?v=1", "no-store"),
        (_page, "/static/console.css", "public"),
        (_no_page, "/static/console.css?v=0a1b", "no-store"),
    ],
)
async def test_only_responses_that_say_so_are_cached_by_browsers(app: ASGIApp, path: str, expected: str) -> None:
    assert (await _get(app, path)).headers.get_list("cache-control") == [expected]
