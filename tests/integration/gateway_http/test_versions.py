"""HTTP/1.0 clients do not support chunks, and HTTP/1.1 clients may expect `100 Continue`."""

from tests.integration.gateway_http.server import get, post, serving


def test_a_stream_to_an_http_1_0_client_ends_with_the_connection() -> None:
    with serving() as server, server.connect() as client:
        server.app.parts = [b"one ", b"two "]
        client.send(b"GET /stream HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
        response = client.read()
    assert response.body == b"one two the end"
    assert "transfer-encoding" not in response.headers
    assert response.headers["connection"] == "close"


def test_an_http_1_0_connection_is_kept_alive_on_request_if_the_length_is_known() -> None:
    with serving() as server:
        with server.connect() as client:
            for _ in range(2):
                client.send(b"GET /a HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
                assert client.read().headers["connection"] == "keep-alive"
        with server.connect() as client:
            client.send(b"GET /a HTTP/1.0\r\n\r\n")
            assert client.read().headers["connection"] == "close"
            assert client.is_closed()


def test_a_stream_to_an_http_1_1_client_is_chunked_and_keeps_the_connection() -> None:
    with serving() as server, server.connect() as client:
        for _ in range(2):
            client.send(get("/stream"))
            response = client.read()
            assert response.headers["transfer-encoding"] == "chunked"
            assert len(response.body) == 16 * 65_536 + 7


def test_head_has_the_headers_and_no_body() -> None:
    with serving() as server, server.connect() as client:
        client.send(b"HEAD /a HTTP/1.1\r\nhost: a\r\n\r\n" + get("/b"))
        head = client._until(b"\r\n\r\n")
        assert b"content-length: " in head
        assert client.read().json["path"] == "/b"


def test_a_client_that_expects_100_continue_gets_it_when_its_body_is_read() -> None:
    request = post("/a", b"x" * 100, "expect: 100-continue")
    head, body = request[:-100], request[-100:]
    with serving() as server, server.connect() as client:
        for _ in range(2):
            client.send(head)
            assert client.read().status == 100
            client.send(body)
            assert client.read().json["bytes"] == 100


def test_a_client_whose_body_is_not_wanted_gets_its_response_at_once_and_the_body_is_no_request() -> None:
    head = post("/early", b"", "expect: 100-continue").replace(b"content-length: 0", b"content-length: 100")
    with serving() as server, server.connect() as client:
        client.send(head)
        response = client.read()
        assert (response.status, response.headers["connection"]) == (200, "close")
        client.send(get("/smuggled"))
        assert client.is_closed()
        assert server.app.started == ["/early"]


def test_a_small_unread_body_is_dropped_and_the_connection_kept() -> None:
    with serving() as server, server.connect() as client:
        client.send(post("/early", b"x" * 100_000), get("/a"))
        response = client.read()
        assert (response.body, response.headers.get("connection")) == (b"early", None)
        assert client.read().json["path"] == "/a"


def test_a_client_reads_its_response_though_it_sends_a_large_unread_body() -> None:
    with serving() as server:
        for _ in range(5):
            with server.connect() as client:
                client.send(post("/early", b"x" * 20 * 2**20))
                response = client.read()
                assert (response.body, response.headers["connection"]) == (b"early", "close")
                assert client.is_closed()


def test_an_internal_error_is_a_500_in_the_envelope() -> None:
    with serving() as server, server.connect() as client:
        client.send(get("/defect", "origin: https://app.example"))
        response = client.read()
    assert (response.status, response.json["error"]["code"]) == (500, "internal_error")
    assert response.headers["x-request-id"]
    assert response.headers["access-control-allow-origin"] == "*"
