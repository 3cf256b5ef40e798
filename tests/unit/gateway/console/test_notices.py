"""Notices reach the next page of the same browser only, and only once."""

import pytest
from starlette.requests import Request
from starlette.responses import Response

from services.common.web.notices import SECONDS_MAX, open_notice, seal_notice
from services.gateway.console.ports import OpenSession, Session
from services.gateway.console.request_context import RequestContext, SessionScope, context_of

_SESSION = Session("ses_1", "acc_1", "ada@example.com", "free", 0, 1_000, 0, "", is_current=True, quota_account_id="a")
_COOKIE = "__Host-stack_notice"


def _context(**cookies: str) -> RequestContext:
    cookie = "; ".join(f"__Host-stack_{name}={value}" for name, value in cookies.items())
    headers = [(b"host", b"api.example.com"), (b"cookie", cookie.encode())]
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "scheme": "https", "headers": headers}
    return context_of(Request(scope | {"server": ("api.example.com", 443)}), None)


def _sent(context: RequestContext) -> str:
    """Return the cookie of the notice that a response sets."""
    cookies = context.finish(Response()).headers.getlist("set-cookie")
    return next(cookie.partition("=")[2].partition(";")[0].strip('"') for cookie in cookies if _COOKIE in cookie)


def test_a_notice_is_shown_to_the_browser_that_sent_the_form_and_deleted() -> None:
    sender = _context(visitor="visitor")
    sender.notify(now=0, message="Done: “laptop” 🎉", secret="sk_stk_1")
    cookie = _sent(sender)

    reader = _context(visitor="visitor", notice=cookie)
    assert reader.take_notice("message", now=1) == "Done: “laptop” 🎉"
    assert _sent(reader) == "", "a reload would show it again"
    assert "sk_stk_1" not in cookie
    assert _context(visitor="other", notice=cookie).take_notice("message", now=1) == ""


def test_a_notice_of_a_log_in_belongs_to_the_new_session_and_one_of_a_log_out_to_the_visitor() -> None:
    entering = _context(visitor="visitor")
    entering.set_session(OpenSession(_SESSION, "token", "device"), now=0)
    entering.notify(now=0, message="in")
    leaving = _context(visitor="visitor", session="token")
    leaving.session_scope = SessionScope(_SESSION, owner=None, usage=None, refusals=None)  # type: ignore[arg-type]
    leaving.clear_session()
    leaving.notify(now=0, message="out")

    assert _context(session="token", notice=_sent(entering)).take_notice("message", now=1) == "in"
    assert _context(visitor="visitor", notice=_sent(leaving)).take_notice("message", now=1) == "out"


def test_a_notice_that_the_page_does_not_show_is_kept() -> None:
    sender = _context(visitor="visitor")
    sender.notify(now=0, email="ada@example.com")
    reader = _context(visitor="visitor", notice=_sent(sender))

    assert reader.take_notice("message", now=1) == ""
    assert reader.notice(now=1) == {"email": "ada@example.com"}
    assert _COOKIE not in str(reader.finish(Response()).headers.getlist("set-cookie"))


@pytest.mark.parametrize("text", ["", "x", "gAAAA", pytest.param("=" * 2_000, id="long")])
def test_a_cookie_that_the_console_did_not_write_is_ignored(text: str) -> None:
    assert open_notice(text, "token", "", now=0) == {}
    assert open_notice(seal_notice({"message": "x"}, "other", now=0), "token", "", now=0) == {}


def test_a_notice_expires_and_one_of_the_future_is_ignored() -> None:
    sealed = seal_notice({"message": "hello"}, "token", now=10_000)

    assert open_notice(sealed, "token", now=10_000 + SECONDS_MAX) == {"message": "hello"}
    assert open_notice(sealed, "token", now=10_001 + SECONDS_MAX) == {}
    assert open_notice(sealed, "token", now=0) == {}
