"""A client that reads slowly gets everything; one that stops reading is given up."""

import time

import pytest

from services.gateway.http_server.limits import Limits
from tests.integration.gateway_http.server import Running, get, serving, until

_BRIEF = Limits(stall_seconds=0.8)
_BYTES = 2**20


def _drain(server: Running, parts: list[bytes], *, bytes_a_second: int) -> bytes:
    """Read a stream steadily, with a small buffer."""
    server.app.parts = parts
    with server.connect(receive_buffer=16_384) as client:
        client.send(get("/stream"))
        got = b""
        while not got.endswith(b"0\r\n\r\n"):
            got += client.socket.recv(bytes_a_second // 10)
            time.sleep(0.1)
        return got


@pytest.mark.long
@pytest.mark.parametrize("count", [64, 1])
def test_a_client_that_reads_steadily_gets_everything_even_if_it_takes_many_stall_times(count: int) -> None:
    with serving(_BRIEF) as server:
        got = _drain(server, [b"x" * (_BYTES // count)] * count, bytes_a_second=1_000_000)
        assert got.count(b"x") == _BYTES
        assert b"the end" in got
        assert server.app.ended == []


def test_a_client_that_stops_reading_is_given_up_and_may_still_read_the_final_error() -> None:
    with serving(_BRIEF) as server, server.connect(receive_buffer=16_384) as client:
        server.app.parts = [b"x" * 262_144] * 40
        client.send(get("/stream"))
        until(lambda: server.app.ended == [("/stream", "stalled")])
        response = client.read()
        assert response.body.endswith(b"xlast words")
        assert response.body.count(b"x") < 40 * 262_144
        assert client.is_closed()


@pytest.mark.parametrize("fields", [(), ("connection: close",)], ids=["kept", "closed"])
def test_a_client_that_reads_nothing_at_all_loses_its_connection(fields: tuple[str, ...]) -> None:
    with serving(_BRIEF) as server, server.connect(receive_buffer=16_384) as client:
        server.app.parts = [b"x" * 4 * _BYTES]
        client.send(get("/stream", *fields))
        until(lambda: server.app.started == ["/stream"])
        until(lambda: server.open_connections == 0)
