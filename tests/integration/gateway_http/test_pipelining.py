"""Pipelined requests wait for their turn, cost only their size, and are not started for a disconnected client."""

import time

from services.gateway.http_server.limits import Limits
from tests.integration.gateway_http.server import get, post, serving, until


def test_requests_are_answered_in_order_whatever_their_number() -> None:
    count = 2_000
    with serving() as server, server.connect() as client:
        client.send(b"".join(post(f"/{number}", b"x" * (number % 50)) for number in range(count)))
        answers = [client.read().json for _ in range(count)]
    assert [(one["path"], one["bytes"]) for one in answers] == [(f"/{n}", n % 50) for n in range(count)]


def test_a_disconnected_client_has_no_further_request_started_and_the_running_one_is_notified() -> None:
    with serving() as server:
        client = server.connect()
        client.send(post("/wait", b"1") + post("/a", b"2") + post("/b", b"3"))
        until(lambda: server.app.started == ["/wait"])
        client.leave()
        until(lambda: server.app.ended == [("/wait", "http.disconnect")])
        time.sleep(0.1)
        assert server.app.started == ["/wait"]
        assert server.open_connections == 0


def test_a_request_waits_with_its_body_until_the_previous_one_is_answered() -> None:
    with serving() as server, server.connect() as client:
        client.send(post("/wait", b"1"), post("/a", b"x" * 200_000))
        time.sleep(0.1)
        assert server.app.started == ["/wait"]
        server.app.gate.set()
        assert client.read().body == b"waited"
        assert client.read().json["bytes"] == 200_000


def test_invalid_bytes_after_a_request_do_not_truncate_its_response() -> None:
    with serving() as server, server.connect() as client:
        client.send(post("/wait", b"1") + b"nonsense\r\n\r\n")
        time.sleep(0.1)
        client.send(b"more nonsense")
        server.app.gate.set()
        assert client.read().body == b"waited"
        assert client.read().status == 400
        assert client.is_closed()


def test_invalid_bytes_after_several_requests_in_one_piece_are_refused_after_all_of_them() -> None:
    with serving() as server, server.connect() as client:
        client.send(post("/a", b"1") + post("/b", b"2") + b"nonsense\r\n\r\n")
        assert [client.read().status for _ in range(3)] == [200, 200, 400]
        assert server.app.started == ["/a", "/b"]


def test_bytes_after_a_request_with_connection_close_are_dropped() -> None:
    with serving() as server, server.connect() as client:
        client.send(get("/a", "connection: close") + get("/b"))
        response = client.read()
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert client.is_closed()
        assert server.app.started == ["/a"]


def test_a_flood_after_a_request_is_not_read_until_its_turn() -> None:
    with serving(Limits()) as server, server.connect() as client:
        client.send(post("/wait", b"1"))
        client.socket.settimeout(1)
        sent = 0
        try:
            while sent < 100 * 2**20:
                sent += client.socket.send(get("/a") * 1_000)
        except TimeoutError:
            pass
        assert sent < 50 * 2**20, "the server continued to read"
        assert server.app.started == ["/wait"]
        server.app.gate.set()
        client.socket.settimeout(10)
        assert client.read().body == b"waited"
        assert client.read().json["path"] == "/a"
