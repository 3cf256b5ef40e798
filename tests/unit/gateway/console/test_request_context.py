"""One request to the console: its redirect targets, its owner, and the cookies it sets."""

import pytest
from starlette.requests import Request
from starlette.responses import Response

from services.common.errors import PermissionDenied
from services.gateway.console.ports import OpenSession, Session
from services.gateway.console.request_context import RequestContext, SessionScope, context_of, local_path

_STAY = Session("ses_1", "acc_1", "ada@example.com", "free", 0, 1_000, 0, "", is_current=True, quota_account_id="acc_1")


def context(*, host: str = "api.example.com", scheme: str = "https", **headers: str) -> RequestContext:
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
    return context_of(Request(scope), None)


def _set(one: RequestContext) -> dict[str, str]:
    """Return the cookies that an answer sets, by name, with their attributes."""
    given = one.finish(Response()).headers.getlist("set-cookie")
    return {name: rest for name, _, rest in (cookie.partition("=") for cookie in given)}


@pytest.mark.parametrize("path", ["/keys", "/usage?key=key_1&from=2026-11-01", "/keys?name=" + "%C3%A9" * 300])
def test_a_redirect_to_a_path_of_this_site_keeps_its_query(path: str) -> None:
    assert local_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "keys",
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "/a\\b",
        "/a\nb",
        "/ä",
        "/" + "a" * 2_001,
    ],
)
def test_a_redirect_that_a_browser_could_read_as_another_site_is_refused(path: str) -> None:
    assert local_path(path) == "/keys"


def test_a_form_token_is_bound_to_the_session_or_to_the_browser_without_one() -> None:
    one = context(cookie="__Host-stack_session=token; __Host-stack_visitor=bytes")
    before_log_in = one.csrf_token
    one.check_any_token(before_log_in)
    one.session_scope = SessionScope(_STAY, owner=None, usage=None, refusals=None)  # type: ignore[arg-type]
    in_session = one.csrf_token

    one.check_token(in_session)
    with pytest.raises(PermissionDenied, match="logged in or out since"):
        one.check_token(before_log_in)
    one.session_scope = None
    one.check_token(in_session)  # The session has ended since, but the page is still the console's.
    one.check_token(before_log_in)


@pytest.mark.parametrize("shown", ["", "0" * 64, "é"])
def test_a_form_without_this_browsers_cookie_is_refused_before_auth_is_called(shown: str) -> None:
    one = context(cookie="__Host-stack_session=token")
    with pytest.raises(PermissionDenied):
        one.check_any_token(shown)


def test_the_browser_cookie_is_renewed_with_every_response() -> None:
    """It used to lapse after a day, and a page that was still open was "opened too long ago"."""
    cookies = _set(context(cookie="__Host-stack_visitor=bytes"))
    assert cookies["__Host-stack_visitor"].startswith("bytes; ")
    assert "Max-Age=2592000" in cookies["__Host-stack_visitor"]


@pytest.mark.parametrize(
    ("scheme", "host", "names"),
    [
        ("https", "api.example.com", {"__Host-stack_session", "__Host-stack_visitor", "__Host-stack_device"}),
        (
            "https",
            "api.example.com:8443",
            {"__Host-stack_session_8443", "__Host-stack_visitor_8443", "__Host-stack_device_8443"},
        ),
        ("http", "127.0.0.1:8080", {"stack_session_8080", "stack_visitor_8080", "stack_device_8080"}),
        ("http", "127.0.0.1:9000", {"stack_session_9000", "stack_visitor_9000", "stack_device_9000"}),
        ("http", "localhost", {"stack_session", "stack_visitor", "stack_device"}),
    ],
)
def test_cookies_of_two_stacks_on_one_host_have_different_names_and_use_the_host_prefix_over_https(
    scheme: str, host: str, names: set[str]
) -> None:
    one = context(scheme=scheme, host=host)
    one.set_session(OpenSession(_STAY, "token", "device"), now=0)
    cookies = _set(one)

    assert set(cookies) == names
    for attributes in cookies.values():
        parts = {part.strip().lower() for part in attributes.split(";")}
        assert {"httponly", "samesite=lax", "path=/"} <= parts
        assert ("secure" in parts) is (scheme == "https")
        assert not any(part.startswith("domain") for part in parts)


def test_the_device_cookie_survives_a_log_out() -> None:
    one = context(cookie="__Host-stack_session=token; __Host-stack_device=device")
    one.clear_session()
    cookies = _set(one)
    assert one.device_token == "device"
    assert "Max-Age=0" in cookies["__Host-stack_session"]
    assert "__Host-stack_device" not in cookies
