"""`make run`: Ctrl-C, closed terminals and kills."""

import contextlib
import errno
import json
import os
import pty
import re
import signal
import socket
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.make_run.runner import (
    STOP_SECONDS,
    Runner,
    either_layout,
    secret_in,
    send_chat,
    wait_until,
)
from tests.e2e.stack import say

_LONG = "[[standin:slow token_ms=200]] [[standin:tokens count=1000]]"
_SHORT = "[[standin:slow token_ms=100]] [[standin:tokens count=12]]"


@pytest.mark.long
@either_layout
def test_ctrl_c_lets_requests_finish_for_the_grace_period_and_then_ends_them_with_an_error_and_a_row(
    start: Callable[..., Runner], tmp_path: Path, workers: str
) -> None:
    runner = start(STACK_WORKERS=workers, GRACE_SECONDS="2")
    secret = secret_in(runner.read_until("Ctrl-C"))
    children = runner.children()
    with ThreadPoolExecutor() as threads:
        short, long, whole = [
            threads.submit(_chat, runner, secret, text, stream=stream)
            for text, stream in ((_SHORT, True), (_LONG, True), (_LONG, False))
        ]
        wait_until(lambda: (_in_flight(runner), _streams_begun(runner)) == (3, 2))
        runner.process.send_signal(signal.SIGINT)
        assert "waiting up to 2 s for 3 requests in flight" in runner.read_until("Stopping")
        wait_until(lambda: _is_refused(runner.port))
        assert runner.process.wait(timeout=2 * STOP_SECONDS) == 0
        answers = [one.result() for one in (short, long, whole)]
    assert [status for status, _ in answers] == [200, 200, 503]
    assert answers[0][1].endswith("data: [DONE]\n\n")
    events = answers[1][1].removesuffix("\n\n").split("\n\n")
    assert len(events) > 3
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "service_stopped"
    assert json.loads(answers[2][1])["error"]["code"] == "service_stopped"
    assert sorted(_rows(tmp_path)) == [
        ("answered", 1, ""),
        ("cut", 0, "service_stopped"),
        ("upstream_failed", 0, "service_stopped"),
    ]
    assert not any(child.is_running() for child in children)
    assert "Traceback" not in "".join(path.read_text() for path in (tmp_path / "var" / "logs").glob("*.log"))


@pytest.mark.long
@either_layout
def test_a_closed_terminal_stops_it_gracefully_and_a_second_signal_at_once(
    start: Callable[..., Runner], tmp_path: Path, workers: str
) -> None:
    runner = start(STACK_WORKERS=workers, GRACE_SECONDS="60")
    secret = secret_in(runner.read_until("Ctrl-C"))
    children = runner.children()
    with ThreadPoolExecutor() as threads:
        long = threads.submit(_chat, runner, secret, _LONG, stream=True)
        wait_until(lambda: _streams_begun(runner) == 1)
        runner.process.send_signal(signal.SIGHUP)
        assert "waiting up to 60 s for 1 request in flight" in runner.read_until("Stopping")
        assert runner.stop() < STOP_SECONDS
        status, text = long.result()
    assert status == 200
    assert '"code":"service_stopped"' in text
    assert _rows(tmp_path) == [("cut", 0, "service_stopped")]
    assert runner.process.returncode == 0
    assert not any(child.is_running() for child in children)


@pytest.mark.long
def test_an_ignored_sighup_does_not_stop_it_and_a_kill_ends_all_child_processes(
    start: Callable[..., Runner],
) -> None:
    """`nohup make run`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        runner = start()
    finally:
        signal.signal(signal.SIGHUP, before)
    secret = secret_in(runner.read_until("Ctrl-C"))
    runner.process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert send_chat(runner, secret).status_code == 200
    children = runner.children()
    runner.process.kill()
    runner.process.wait()
    _, alive = psutil.wait_procs(children, timeout=STOP_SECONDS)
    assert alive == []


@pytest.mark.long
def test_it_stops_gracefully_when_its_terminal_no_longer_exists(tmp_path: Path, ports: dict[str, int]) -> None:
    """Writing its output then fails, and no process may be left behind."""
    terminal, end = pty.openpty()
    runner = Runner(tmp_path / "var", ports, output=end)
    os.close(end)
    text = b""
    while b"Ctrl-C" not in text:
        text += os.read(terminal, 65_536)
    children = runner.children()
    os.close(terminal)
    runner.process.send_signal(signal.SIGHUP)
    assert runner.process.wait(timeout=2 * STOP_SECONDS) == 0
    assert not any(child.is_running() for child in children)


def _chat(runner: Runner, secret: str, text: str, *, stream: bool) -> tuple[int, str]:
    """Send a chat; return the response's status and text, once it has ended properly."""
    url = f"http://127.0.0.1:{runner.port}/api/v1/chat"
    headers = {"Authorization": f"Bearer {secret}"}
    response = httpx.post(url, headers=headers, json=say(text, stream=stream), trust_env=False, timeout=60)
    return response.status_code, response.text


def _in_flight(runner: Runner) -> int:
    """Return how many requests are being answered."""
    return _metric(runner, "stack_http_requests_in_flight")


def _streams_begun(runner: Runner) -> int:
    """Return how many streams have had their first event."""
    return _metric(runner, "stack_gateway_time_to_first_event_seconds_count")


def _metric(runner: Runner, name: str) -> int:
    text = httpx.get(runner.metrics, trust_env=False, timeout=5).text
    return int(float(re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)[0]))


def _is_refused(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def _rows(tmp_path: Path) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(tmp_path / "var" / "inference.db")) as database:
        return database.execute("SELECT outcome, charged, refund_reason FROM usage_ledger").fetchall()
