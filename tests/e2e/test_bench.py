"""The benchmark measures the real product, and its counts are correct."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import measure, open_loop, streams
from bench.contenders.stack import WORKER, Stack
from bench.mock import Mock
from bench.processes import Process, plain_environment
from services.local.supervisor import programs
from tests.ports import free_port

_LUA = Path("/usr/lib/nginx/modules/ngx_http_lua_module.so")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def product(folder: Path) -> Iterator[Stack]:
    """Yield the benchmark's own stack, started as `make run` does, in front of the stand-in."""
    standin = programs.standin(free_port())
    process = Process(standin.command, log=folder / "standin.log", environment=plain_environment())
    url = f"http://127.0.0.1:{standin.command[-1]}"
    stack = Stack(folder, groq_base_url=url)
    try:
        process.until_answers(f"{url}/healthz", seconds=20)
        stack.start()
        yield stack
        stack.stop()
    finally:
        process.stop()


@pytest.mark.long
def test_every_answered_request_of_the_benchmark_is_charged_once(product: Stack) -> None:
    meter = measure.Meter(product)
    answers = open_loop.run(product, rate=200, requests=50)
    cpu = meter.cpu_ms(answers=50)
    assert answers.count == 50
    assert product.charged() == 50
    assert cpu[WORKER] > 0
    assert {WORKER, "supervisor", "valkey"} == set(product.parts)


@pytest.mark.long
@pytest.mark.skipif(
    not (shutil.which("nginx") and _LUA.exists()), reason="nginx with Lua is installed by `make bench-ab`"
)
@pytest.mark.parametrize("shape", ["bursts", "spaced"])
def test_the_mock_of_groq_sends_complete_streams_of_a_hundred_events(folder: Path, shape: streams.Shape) -> None:
    mock = Mock(folder)
    mock.start()
    try:
        found = streams.read(mock, shape, streams=2, at_once=2)
    finally:
        mock.stop()
    assert found.events == 200
