"""Where a form may lead, and whose it is."""

import pytest
from starlette.requests import Request
from starlette.responses import Response

from services.common.errors import PermissionDenied
from services.gateway.console.visit import Visit, own_path


def visit(*, host: str = "api.example.com", scheme: str = "https", **headers: str) -> Visit:
    given = [(b"host", host.encode())] + [
        (name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()
    ]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "headers": given,
        "scheme": scheme,
        "query_string": b"",
        "server": (host, 443),
    }
    return Visit(Request(scope), "", "random bytes of a browser", None)


@pytest.mark.parametrize("path", ["/keys", "/usage?key=key_1", "/usage/requests/req_1"])
def test_a_path_of_this_site_is_followed(path: str) -> None:
    assert own_path(path) == path


@pytest.mark.parametrize(
    "path",
    ["", "keys", "//evil.example", "/\\evil.example", "https://evil.example", "/a\\b", "/a\nb", "/ä", "/" + "a" * 501],
)
def test_anything_that_a_browser_could_read_as_another_site_is_not(path: str) -> None:
    assert own_path(path) == "/keys"


def test_a_form_of_this_browser_and_this_site_is_taken() -> None:
    one = visit(origin="https://api.example.com", sec_fetch_site="same-origin")
    one.demand_own_form(one.csrf_token)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "https://api.example.com.evil"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_a_form_from_another_site_is_refused_even_with_the_right_token(headers: dict[str, str]) -> None:
    one = visit(**headers)
    with pytest.raises(PermissionDenied):
        one.demand_own_form(one.csrf_token)


def test_a_cookie_is_for_https_alone_where_the_page_came_over_it() -> None:
    for scheme, is_secure in (("https", True), ("http", False)):
        one = visit(scheme=scheme)
        one.go_out()
        cookies = one.finish(Response()).headers.getlist("set-cookie")
        assert all(("Secure" in cookie) is is_secure and "HttpOnly" in cookie for cookie in cookies)
