"""Heads are bounded in size, number of fields and time, however they arrive, and refused in the API's envelope."""

import resource
import time
from typing import Any, cast

import psutil
import pytest

from services.gateway.http_server.limits import Limits
from tests.integration.gateway_http.server import Client, Response, get, post, serving

_BRIEF = Limits(head_seconds=1.0, silent_seconds=1.0, keep_alive_seconds=1.0, body_idle_seconds=1.0)
_LIMIT = 65_536


def _assert_rejected(response: Response, status: int, code: str) -> None:
    assert response.status == status
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert response.headers["connection"] == "close"
    error: dict[str, Any] = response.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code


def _read_while_sending(client: Client, part: bytes, *, count: int) -> Response:
    """Send until the server refuses."""
    try:
        for _ in range(count):
            client.send(part)
    except (BrokenPipeError, ConnectionResetError):
        pass
    return client.read()


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        pytest.param(get("/", f"x: {'a' * _LIMIT}"), 431, "request_headers_too_large", id="one large field"),
        pytest.param(
            get("/", *(f"x{number}: {'a' * 2000}" for number in range(40))), 431, "request_headers_too_large", id="sum"
        ),
        pytest.param(
            get("/", *(f"x{number}: a" for number in range(100))), 431, "request_headers_too_large", id="count"
        ),
        pytest.param(get(f"/{'a' * _LIMIT}"), 414, "uri_too_long", id="target"),
        pytest.param(b"\r\n" * _LIMIT, 431, "request_headers_too_large", id="line ends"),
        pytest.param(b"GET / HTTP/1.1\r\nbad field: 1\r\n\r\n", 400, "malformed_request", id="malformed field"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: a\r\n folded: 1\r\n\r\n", 400, "malformed_request", id="folded"),
        pytest.param(b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n", 400, "malformed_request", id="target not ASCII"),
        pytest.param(b"nonsense\r\n\r\n", 400, "malformed_request", id="nonsense"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "malformed_request", id="TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed_request", id="HTTP/2 preface"),
        pytest.param(b"GET / HTTP/2.0\r\nhost: a\r\n\r\n", 505, "http_version_not_supported", id="version"),
        pytest.param(
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            400,
            "malformed_request",
            id="two framings",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %b12\r\n\r\n" % (b"0" * 4_299),
            400,
            "malformed_request",
            id="length of more digits than Python reads",
        ),
        pytest.param(b"GET / HTTP/1.1\r\nx: 1\r\n\r\n", 400, "malformed_request", id="no host"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: a\r\nHost: a\r\n\r\n", 400, "malformed_request", id="two hosts"),
        pytest.param(b"GET / HTTP/1.0\r\nhost: a\r\nHost: b\r\n\r\n", 400, "malformed_request", id="1.0 two hosts"),
        *(
            pytest.param(
                b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: %b\r\n\r\n0\r\n\r\n" % codings,
                501,
                "unsupported_transfer_encoding",
                id=f"codings {codings.decode()}",
            )
            for codings in (b"gzip, chunked", b"identity", b"xchunked")
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "malformed_request",
            id="two codings",
        ),
        pytest.param(
            b"POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
            400,
            "malformed_request",
            id="1.0 chunked",
        ),
    ],
)
def test_an_invalid_head_is_refused_in_the_envelope(request_: bytes, status: int, code: str) -> None:
    with serving() as server:
        for parts in ([request_], [request_[:1000], request_[1000:]]):
            with server.connect() as client:
                client.send(*filter(None, parts))
                _assert_rejected(client.read(), status, code)
                assert client.is_closed()
        assert server.app.started == []


def test_an_internal_error_during_parsing_is_answered_and_closes_only_its_connection() -> None:
    broken = Limits(fields_max=cast(int, None))
    with serving(broken) as server:
        for _ in range(2):
            with server.connect() as client:
                client.send(get("/a"))
                _assert_rejected(client.read(), 500, "internal_error")
                assert client.is_closed()
        assert server.app.started == []


def test_a_head_within_the_limits_is_answered_in_one_piece_and_byte_by_byte() -> None:
    request = get("/a", *(f"x{number}: {'a' * 640}" for number in range(99)))
    assert 60_000 < len(request) < _LIMIT
    with serving() as server, server.connect() as client:
        client.send(request * 2)
        assert [client.read().status for _ in range(2)] == [200, 200]
        client.send(*(request[start : start + 7] for start in range(0, len(request), 7)))
        assert len(client.read().json["headers"]) == 100


def test_a_rejection_has_cors_headers_for_the_calling_page() -> None:
    with serving(origins=("https://app.example",)) as server:
        for origin, allowed in (("https://app.example", "https://app.example"), ("https://evil.example", None)):
            with server.connect() as client:
                client.send(b"GET / HTTP/1.1\r\norigin: %b\r\nx: 1\r\nbad field: 1\r\n\r\n" % origin.encode())
                assert client.read().headers.get("access-control-allow-origin") == allowed
    with serving() as server, server.connect() as client:
        client.send(get("/", "origin: https://app.example", f"x: {'a' * _LIMIT}"))
        assert client.read().headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("part", [b"a" * 65_536, b"x: a\r\n" * 10_000], ids=["value", "fields"])
def test_an_endless_head_costs_no_more_memory_and_time_than_the_limit(part: bytes) -> None:
    before, began = psutil.Process().memory_info().rss, time.process_time()
    with serving() as server, server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nx: ")
        assert _read_while_sending(client, part, count=1_600).status == 431
    assert psutil.Process().memory_info().rss - before < 20 * 2**20
    assert time.process_time() - began < 5


def test_a_head_in_many_small_pieces_is_not_copied_for_each_of_them() -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    with serving() as server, server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nx: ")
        assert _read_while_sending(client, b"a" * 8, count=20_000).status == 431
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - usage.ru_utime < 5


@pytest.mark.long
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"", None, id="silent"),
        pytest.param(b"GET /", 408, id="in the request line"),
        pytest.param(b"GET / HTTP/1.1\r\nx: 1\r\n", 408, id="in the head"),
        pytest.param(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc", 408, id="in the body"),
    ],
)
def test_a_request_that_does_not_arrive_in_time_is_ended(sent: bytes, status: int | None) -> None:
    with serving(_BRIEF) as server, server.connect() as client:
        client.send(*filter(None, [sent]))
        began = time.monotonic()
        if status:
            _assert_rejected(client.read(), status, "request_timeout")
        assert client.is_closed()
        assert 0.9 < time.monotonic() - began < 5


def test_a_slow_head_is_ended_even_if_each_byte_comes_in_time() -> None:
    with serving(_BRIEF) as server, server.connect() as client:
        response = None
        client.socket.settimeout(0.2)
        for one in get("/", "x: " + "a" * 500):
            client.send(bytes([one]))
            try:
                response = client.read()
                break
            except TimeoutError:
                continue
        assert response is not None
        assert response.status == 408


@pytest.mark.long
def test_an_idle_connection_is_closed_after_its_time_and_not_before() -> None:
    with serving(_BRIEF) as server, server.connect() as client:
        for _ in range(3):
            client.send(get("/"))
            assert client.read().status == 200
            time.sleep(0.5)
        assert client.is_closed()


_CHUNKED = b"POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "part"),
    [
        pytest.param(b"1;", b"a" * 65_536, id="extension without an end"),
        pytest.param(b"0\r\n", b"x: " + b"a" * 1000 + b"\r\n", id="trailers"),
        pytest.param(b"0\r\nx: ", b"a" * 65_536, id="trailer without an end"),
        pytest.param(b"0\r\n", b"x: a\r\n" * 20, id="many trailers"),
        pytest.param(b"1\r\na\r\n", b"1;" + b"b" * 1000 + b"\r\na\r\n", id="extensions"),
    ],
)
def test_trailers_and_extensions_have_the_same_bounds(head: bytes, part: bytes) -> None:
    with serving() as server, server.connect() as client:
        client.send(_CHUNKED + head)
        _assert_rejected(_read_while_sending(client, part, count=500), 431, "request_headers_too_large")
        assert client.is_closed()
        assert server.app.seen == []


def test_trailers_are_read_and_dropped_and_small_chunks_are_accepted() -> None:
    with serving() as server, server.connect() as client:
        client.send(_CHUNKED + b"1\r\na\r\n" * 100_000 + b"0\r\nauthorization: evil\r\n\r\n" + post("/b", b"x"))
        first = client.read().json
        assert first["bytes"] == 100_000
        assert "authorization" not in first["headers"]
        assert client.read().json["path"] == "/b"


def test_a_malformed_body_is_refused_and_the_application_is_notified() -> None:
    with serving() as server, server.connect() as client:
        client.send(_CHUNKED + b"nonsense\r\n")
        _assert_rejected(client.read(), 400, "malformed_request")
        assert server.app.seen == []
