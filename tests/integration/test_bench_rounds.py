"""A gateway that does not answer is left out of the benchmark's results; the product's failure ends the run."""

import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from bench import rounds
from bench.wire import NotAnswered
from tests.ports import free_port

_PLAN = rounds.Plan(rounds=1, warm_up_requests=1, seconds=0.1, seconds_alone=0.1)


class _Refusing(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(503)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


class _Contender:
    """A contender that answers every request with 503; this process stands in for its processes."""

    name = version = model = features = "refusing"
    surfaces = ()

    def __init__(self, port: int, charged: int | None) -> None:
        self.url = f"http://127.0.0.1:{port}/v1/chat/completions"
        self.headers: dict[str, str] = {}
        self.parts = {"itself": os.getpid()}
        self._charged = charged

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def charged(self) -> int | None:
        return self._charged


@pytest.fixture
def port() -> Iterator[int]:
    """Yield the port of a server that refuses all requests."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_contender_that_does_not_answer_is_left_out_with_the_reason(port: int) -> None:
    found, failed = rounds.run([_Contender(port, charged=None)], _PLAN)
    assert found == {}
    assert "answered with 503" in failed["refusing"]


def test_the_product_must_answer_every_request(port: int) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(NotAnswered, match="answered with 503")):
        rounds.run([_Contender(port, charged=0)], _PLAN)


def test_a_contender_that_ended_is_left_out_with_the_reason() -> None:
    found, failed = rounds.run([_Contender(free_port(), charged=None)], _PLAN)
    assert found == {}
    assert "Connect call failed" in failed["refusing"]
