"""However a connection's bytes are split, the requests are the same: each with its own body, and none out of a body."""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from httptools import HttpParserCallbackError
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Scope

from services.gateway.http_server.limits import Limits
from services.gateway.http_server.parsing import Rejected, RequestParser

_OFFERS = st.sampled_from(
    [
        b"",
        b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
        b"Upgrade: websocket\r\nConnection: keep-alive, upgrade\r\n",
        b"upgrade: h2c\r\n",
    ]
)
_BODIES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n", b"0\r\n\r\n", b"\r\n\r\n", b"x" * 9_000, b"{" * 70_000]
    ),
)


@dataclass
class Recorder:
    """Records requests."""

    seen: list[tuple[str, str, bytes]] = field(default_factory=list)
    scope: dict[str, Any] = field(default_factory=dict)
    body: bytes = b""

    def on_head(self, scope: Scope, *, keep_alive: bool, expects_continue: bool) -> None:
        assert keep_alive
        self.scope, self.body = dict(scope), b""

    def on_body_part(self, part: bytes) -> None:
        self.body += part

    def on_end(self) -> None:
        self.seen.append((self.scope["method"], self.scope["path"], self.body))


def _parser() -> tuple[RequestParser, Recorder]:
    recorder = Recorder()
    return RequestParser(recorder, Limits(), lambda: {"http_version": "1.1"}), recorder


@st.composite
def _requests(draw: st.DrawFn) -> tuple[bytes, tuple[str, str, bytes]]:
    """Return a request as bytes, and its expected result."""
    path = draw(st.sampled_from(["/a", "/v1/chat/completions", "/" + "b" * 300]))
    head = b"%b HTTP/1.1\r\nhost: a\r\n" + draw(_OFFERS)
    if draw(st.booleans()):
        return head % f"GET {path}".encode() + b"\r\n", ("GET", path, b"")
    body = draw(_BODIES)
    head = head % f"POST {path}".encode()
    if draw(st.booleans()):
        return head + b"content-length: %d\r\n\r\n" % len(body) + body, ("POST", path, body)
    size = draw(st.integers(1, max(1, len(body))))
    chunks = b"".join(
        b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in (body[at : at + size] for at in range(0, len(body), size))
    )
    trailer = draw(st.sampled_from([b"", b"x-sum: 1\r\n"]))
    return head + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailer + b"\r\n", ("POST", path, body)


@pytest.mark.long
@settings(max_examples=200, deadline=None)
@given(st.lists(_requests(), min_size=1, max_size=6), st.lists(st.integers(1, 500), min_size=1, max_size=20))
def test_requests_are_the_same_however_their_bytes_are_split(
    requests: list[tuple[bytes, tuple[str, str, bytes]]], sizes: list[int]
) -> None:
    sent = b"".join(raw for raw, _ in requests)
    parser, recorder = _parser()
    at, number = 0, 0
    while at < len(sent):
        size = sizes[number % len(sizes)]
        assert parser.feed(sent[at : at + size], lambda: True) == b""
        at, number = at + size, number + 1
    assert recorder.seen == [what for _, what in requests]
    assert parser.is_between


@settings(max_examples=100, deadline=None)
@given(st.lists(_requests(), min_size=2, max_size=6))
def test_bytes_after_the_current_request_may_wait(requests: list[tuple[bytes, tuple[str, str, bytes]]]) -> None:
    """Parsing may stop after any piece, and resumes where it stopped."""
    rest = b"".join(raw for raw, _ in requests)
    parser, recorder = _parser()
    while rest:
        count = len(recorder.seen)
        rest = parser.feed(rest, lambda count=count: len(recorder.seen) == count)  # type: ignore[misc]
    assert recorder.seen == [what for _, what in requests]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(1, 40), min_size=1, max_size=9))
def test_any_bytes_are_parsed_or_rejected(sent: bytes, sizes: list[int]) -> None:
    parser, _ = _parser()
    data = b"POST /a HTTP/1.1\r\nhost: a\r\n" + sent
    with suppress(Rejected):
        for number, at in enumerate(range(0, len(data), 7)):
            parser.feed(data[at : at + min(7, sizes[number % len(sizes)])], lambda: True)


def test_an_internal_error_is_not_reported_as_a_fault_of_the_request() -> None:
    class Broken(Recorder):
        def on_end(self) -> None:
            raise ZeroDivisionError

    parser = RequestParser(Broken(), Limits(), lambda: {"http_version": "1.1"})
    with pytest.raises(HttpParserCallbackError) as raised:
        parser.feed(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", lambda: True)
    assert isinstance(raised.value.__context__, ZeroDivisionError)
