"""`make run` while it is running: restarts, log rotation, the log-in link."""

import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest

from services.local.first_account import EMAIL
from services.local.log_in_link import log_in_link
from tests.e2e.console.browser import PASSWORD, Browser
from tests.e2e.make_run.runner import (
    PROCESSES,
    Runner,
    free_ports,
    open_to_others,
    secret_in,
    send_chat,
    wait_until,
    wait_until_answered,
)
from tests.e2e.stack import say

_REAL_TIME_SIGNAL = 40
"""Python has no name for it."""


@dataclass(frozen=True, slots=True)
class SharedRun:
    """A running `make run` that several tests share."""

    runner: Runner
    data_dir: Path
    text: str

    @property
    def secret(self) -> str:
        """The first key, exported by a line to paste."""
        (found,) = re.findall(r"^export STACK_API_KEY=(sk_stk_\w+)$", self.text, re.MULTILINE)
        return str(found)

    @property
    def link(self) -> str:
        """The link with which the first account sets its password."""
        (found,) = re.findall(r"^  Log in    (http\S+)$", self.text, re.MULTILINE)
        return str(found)


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedRun]:
    """Yield one runner for tests that leave it running."""
    data_dir = tmp_path_factory.mktemp("shared") / "var"
    runner = Runner(data_dir, free_ports(), output=subprocess.PIPE)
    try:
        yield SharedRun(runner, data_dir, runner.read_until("Ctrl-C"))
    finally:
        runner.stop()
        assert runner.process.stdout is not None
        runner.process.stdout.close()


@pytest.mark.long
def test_a_log_that_grows_large_is_rotated_while_its_program_runs(shared_run: SharedRun) -> None:
    log = shared_run.data_dir / "logs" / "stack.log"
    with log.open("ab") as file:
        file.write(b"0123456789abcde\n" * 1_300_000)
    wait_until(lambda: log.with_suffix(".log.1").exists())
    assert log.with_suffix(".log.1").stat().st_size > 20_000_000
    assert send_chat(shared_run.runner, shared_run.secret).status_code == 200
    wait_until(lambda: "/api/v1/chat" in log.read_text())
    assert log.stat().st_size < 100_000
    assert open_to_others(shared_run.data_dir) == []


@pytest.mark.long
async def test_a_removed_socket_is_created_again(shared_run: SharedRun) -> None:
    """Open connections would still work, and each new one fail."""
    runner, secret = shared_run.runner, shared_run.secret
    valkey_before = runner.child("valkey").pid
    (shared_run.data_dir / "run" / "valkey.sock").unlink()
    runner.read_until("valkey.sock was removed. Restarting Valkey")
    runner.read_until("valkey ended")
    wait_until_answered(runner, secret)
    assert runner.child("valkey").pid != valkey_before
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        url, headers = f"http://127.0.0.1:{runner.port}/api/v1/chat", {"Authorization": f"Bearer {secret}"}
        answers = await asyncio.gather(*(client.post(url, headers=headers, json=say("hi")) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}


@pytest.mark.long
def test_any_killed_service_is_restarted(start: Callable[..., Runner]) -> None:
    runner = start(STACK_WORKERS="0")
    secret = secret_in(runner.read_until("Ctrl-C"))
    for name in ("auth", "quota", "inference", "gateway"):
        runner.child(f"services.{name}").kill()
        runner.read_until(f"{name} ended")
        wait_until_answered(runner, secret)


@pytest.mark.long
def test_a_killed_worker_is_restarted(shared_run: SharedRun) -> None:
    shared_run.runner.child("services.local.worker").kill()
    shared_run.runner.read_until("is being restarted")
    wait_until_answered(shared_run.runner, shared_run.secret)


@pytest.mark.long
def test_a_worker_is_restarted_although_its_folder_of_logs_was_removed(shared_run: SharedRun) -> None:
    """Its signal has no name, and it left no log to quote from."""
    logs = shared_run.data_dir / "logs"
    shutil.rmtree(logs)
    shared_run.runner.child("services.local.worker").send_signal(_REAL_TIME_SIGNAL)
    shared_run.runner.read_until(f"stack ended (signal {_REAL_TIME_SIGNAL}) and is being restarted")
    wait_until_answered(shared_run.runner, shared_run.secret)
    assert (logs / "stack.log").exists()
    assert open_to_others(shared_run.data_dir) == []


@pytest.mark.long
def test_a_second_worker_that_ends_while_it_starts_is_restarted_and_the_first_one_serves(
    start: Callable[..., Runner], ports: dict[str, int]
) -> None:
    runner = start(STACK_WORKERS="2")
    secret = secret_in(runner.read_until("Ctrl-C"))
    wait_until(lambda: len(runner.children()) == PROCESSES["2"])
    max(runner.children(), key=psutil.Process.create_time).kill()
    runner.read_until("stack-2 ended (signal SIGKILL) and is being restarted")
    assert send_chat(runner, secret).status_code == 200
    wait_until(partial(_answers, f"http://127.0.0.1:{ports['GATEWAY_METRICS_LISTEN'] + 1}/metrics"))


@pytest.mark.long
def test_two_workers_have_separate_metrics_and_one_answers_while_the_other_is_restarted(
    start: Callable[..., Runner], ports: dict[str, int]
) -> None:
    runner = start(STACK_WORKERS="2")
    text = runner.read_until("Ctrl-C")
    for port in (ports["GATEWAY_METRICS_LISTEN"], ports["GATEWAY_METRICS_LISTEN"] + 1):
        url = f"http://127.0.0.1:{port}/metrics"
        assert url in text
        wait_until(partial(_answers, url))  # The second worker starts when the first one serves.
        reported = httpx.get(url, trust_env=False, timeout=5).text
        for one in ("stack_http_requests_in_flight", "stack_quota_batch_items", "stack_chats_total", "stack_rpc_"):
            assert one in reported, f"{one} of {url}"
    secret = secret_in(text)
    runner.child("services.local.worker").kill()
    runner.read_until("is being restarted")
    assert send_chat(runner, secret).status_code == 200, "the restart takes half a second"
    wait_until(lambda: len(runner.children()) == PROCESSES["2"])
    wait_until_answered(runner, secret)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory includes other pages elsewhere")
def test_the_supervisor_takes_at_most_25_mb(shared_run: SharedRun) -> None:
    """It does nothing most of the time."""
    assert psutil.Process(shared_run.runner.process.pid).memory_info().rss <= 25 * 1024 * 1024


async def test_the_log_in_link_sets_the_first_accounts_password_once_and_is_replaced_until_then(
    shared_run: SharedRun,
) -> None:
    origin = f"http://127.0.0.1:{shared_run.runner.port}"
    links = [shared_run.link, await _next_log_in_link(shared_run), await _next_log_in_link(shared_run)]
    assert len(set(links)) == 3
    running: Any = SimpleNamespace(gateways=[origin])
    async with Browser(running) as browser:
        choice = {"password": PASSWORD}
        done = await browser.submit(links[-1].removeprefix(origin), "/reset", choice)
        assert "you@example.com" in done.text
        again = await browser.submit(links[-1].removeprefix(origin), "/reset", choice)
        assert "This link is not valid" in again.text
        logged_in = await browser.submit("/login", "/login", {"email": "you@example.com", **choice})
        assert "first key" in logged_in.text
    assert await _next_log_in_link(shared_run) == ""


def test_a_second_runner_over_the_same_data_is_refused_in_one_sentence(
    shared_run: SharedRun, refused: Callable[..., str]
) -> None:
    assert "Another process is using" in refused(shared_run.data_dir)


async def _next_log_in_link(shared_run: SharedRun) -> str:
    """Return the link that the next start would print."""
    token = (shared_run.data_dir / "admin-token").read_text().strip()
    return await log_in_link(EMAIL, auth_target=shared_run.runner.auth, admin_token=token)


@pytest.mark.long
def test_responses_are_stored_in_a_second_valkey_that_keeps_them_over_a_restart(
    start: Callable[..., Runner], tmp_path: Path
) -> None:
    data_dir = tmp_path / "var"
    runner = start(STACK_STORE_RESPONSES="1")
    secret = secret_in(runner.read_until("Ctrl-C"))
    assert len(runner.children()) == PROCESSES["1"] + 1
    with httpx.Client(
        base_url=f"http://127.0.0.1:{runner.port}", headers={"Authorization": f"Bearer {secret}"}, trust_env=False
    ) as client:
        response = client.post("/v1/responses", json={"input": "hi"}).json()
        assert response["store"] is True
        (data_dir / "run" / "responses.sock").unlink()
        runner.read_until("responses.sock was removed. Restarting Valkey")
        runner.read_until("responses-valkey ended")
        path = f"/v1/responses/{response['id']}"
        wait_until(lambda: client.get(path).status_code == 200)
        assert client.get(path).json() == response
    assert open_to_others(data_dir) == []
