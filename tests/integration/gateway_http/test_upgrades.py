"""An offer to upgrade is ignored (RFC 9110, 7.8): what follows its head is the body of the request."""

import json
import shutil
import subprocess

import pytest

from tests.integration.gateway_http.server import get, post, serving

_H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
_SMUGGLED = get("/smuggled")
"""A body that looks like a request."""
_CHUNKED = (
    b"POST /a HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: h2c\r\ntransfer-encoding: chunked\r\n\r\n"
    b"%x\r\n%b\r\n0\r\n\r\n" % (len(_SMUGGLED), _SMUGGLED)
)


@pytest.mark.parametrize(
    "offer", [_H2C, ("Connection: upgrade", "Upgrade: websocket"), ("Connection: close, Upgrade", "Upgrade: h2c")]
)
def test_the_body_after_an_upgrade_offer_belongs_to_the_request_however_it_is_split(offer: tuple[str, ...]) -> None:
    request = post("/a", _SMUGGLED, *offer)
    with serving() as server:
        for cut in range(1, len(request)):
            with server.connect() as client:
                client.send(request[:cut], request[cut:])
                assert client.read().json["bytes"] == len(_SMUGGLED), cut
        assert server.app.seen == [("POST", "/a", _SMUGGLED)] * (len(request) - 1)


def test_a_chunked_body_after_an_upgrade_offer_belongs_to_the_request_byte_by_byte() -> None:
    with serving() as server, server.connect() as client:
        client.send(_CHUNKED)
        assert client.read().status == 200
        client.send(*(bytes([one]) for one in _CHUNKED))
        assert client.read().status == 200
        assert server.app.seen == [("POST", "/a", _SMUGGLED)] * 2


def test_requests_after_one_with_an_upgrade_offer_are_answered_in_order() -> None:
    with serving() as server, server.connect() as client:
        client.send(post("/a", _SMUGGLED, *_H2C) + get("/b", *_H2C) + post("/c", b"c") + post("/d", b"d", *_H2C))
        assert [client.read().json["path"] for _ in range(4)] == ["/a", "/b", "/c", "/d"]
        assert "/smuggled" not in server.app.started


def test_the_other_fields_of_an_upgrade_offer_arrive_unchanged() -> None:
    with serving() as server, server.connect() as client:
        client.send(post("/a?q=1", b"x", *_H2C, "X-One: a, b", "X-One: c"))
        headers = client.read().json["headers"]
    assert headers["http2-settings"] == "AAMAAABkAAQAAP__"
    assert headers["x-one"] == "c"


def test_an_upgrade_offer_over_http_1_0_stays_http_1_0() -> None:
    with serving() as server, server.connect() as client:
        client.send(b"GET /a HTTP/1.0\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
        assert client.read().json["http_version"] == "1.0"


def test_connect_is_refused_and_the_following_bytes_are_no_request() -> None:
    with serving() as server, server.connect() as client:
        client.send(b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n" + _SMUGGLED)
        assert client.read().status == 400
        assert client.is_closed()
        assert server.app.started == []


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl_may_offer_http2() -> None:
    with serving() as server:
        url = f"http://127.0.0.1:{server.port}/a"
        done = subprocess.run(
            ["curl", "-sS", "--http2", "--noproxy", "*", "-d", "a=1", url], capture_output=True, timeout=20, check=True
        )
        assert json.loads(done.stdout)["bytes"] == 3
