"""The program that `make run` starts, and helpers of its tests."""

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from services.local.cores import usable_cores
from tests.e2e.stack import bare_environment, say
from tests.forked import run_module
from tests.ports import free_port

READY_SECONDS = 30
STOP_SECONDS = 5
_PORTS = (
    *("GATEWAY_PORT", "AUTH_LISTEN", "QUOTA_LISTEN", "INFERENCE_LISTEN"),
    *("GATEWAY_METRICS_LISTEN", "AUTH_METRICS_LISTEN", "QUOTA_METRICS_LISTEN", "INFERENCE_METRICS_LISTEN"),
)
PROCESSES = {"0": 6, "1": 3, "2": 4, "auto": min(4, usable_cores()) + 2}
"""By STACK_WORKERS: the services' processes, Valkey and the stand-in."""
_WORKERS_MAX = 4
"""Workers of STACK_WORKERS=auto."""
either_layout = pytest.mark.parametrize("workers", ["1", pytest.param("0", marks=pytest.mark.long)])
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
            env=environment_of(data_dir, ports) | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            umask=0,
        )

    def read_until(self, text: str) -> str:
        """Return the output up to and including a line with `text`."""
        assert self.process.stdout is not None
        started = time.monotonic()
        for line in self.process.stdout:
            self._lines.append(line)
            assert time.monotonic() - started < READY_SECONDS
            if text in line:
                return "".join(self._lines)
        raise AssertionError(f"it ended without printing {text!r}: {''.join(self._lines)}")

    def children(self) -> list[psutil.Process]:
        """Return the processes that it started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, name: str) -> psutil.Process:
        """Return the process with a word in its command line."""
        return next(one for one in self.children() if any(name in part for part in one.cmdline()))

    def stop(self) -> float:
        """Send Ctrl-C; return the seconds until it has ended."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=3 * STOP_SECONDS)
        return time.monotonic() - started


def environment_of(data_dir: Path, ports: dict[str, int]) -> dict[str, str]:
    """Return the environment of a runner with this data folder, these ports and one worker."""
    listens = {name: f"127.0.0.1:{port}" for name, port in ports.items() if name != "GATEWAY_PORT"}
    own = {"GATEWAY_PORT": str(ports["GATEWAY_PORT"]), "DATA_DIR": str(data_dir), "STACK_WORKERS": "1"}
    return {**bare_environment(), **listens, **own}


def free_ports() -> dict[str, int]:
    """Return free ports. Those after the gateway's metrics, which other workers use, are free too."""
    while True:
        found = {name: free_port() for name in _PORTS}
        first = found["GATEWAY_METRICS_LISTEN"]
        following = range(first + 1, first + _WORKERS_MAX)
        if not {*following} & {*found.values()} and not any(_is_taken(port) for port in following):
            return found


def _is_taken(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return True
    return False


def refusal(data_dir: Path, ports: dict[str, int], **environment: str) -> str:
    """Run a start that must fail; return the one sentence that it prints."""
    given = environment_of(data_dir, ports) | environment
    done = run_module("services.local", environment=given, timeout=READY_SECONDS)
    lines = (done.stdout + done.stderr).strip().splitlines()
    # A busy machine also prints what it waits for.
    (sentence,) = [line for line in lines if not line.startswith("Waiting for ")]
    assert done.returncode == 1
    return sentence


def secret_in(text: str) -> str:
    """Return the first API key in a text."""
    found = re.search(r"sk_stk_\w+", text)
    assert found, text
    return found.group()


def send_chat(runner: Runner, secret: str) -> httpx.Response:
    """Send a chat request."""
    url = f"http://127.0.0.1:{runner.port}/api/v1/chat"
    headers = {"Authorization": f"Bearer {secret}"}
    return httpx.post(url, headers=headers, json=say("hi"), trust_env=False, timeout=10)


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait until a condition holds, for at most ten seconds."""
    ends = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.05)


def wait_until_answered(runner: Runner, secret: str) -> None:
    """Wait until a chat is answered, for at most thirty seconds."""
    last: Any = None
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        try:
            last = send_chat(runner, secret)
        except httpx.TransportError as exc:
            last = exc
        if isinstance(last, httpx.Response) and last.status_code == 200:
            return
        time.sleep(0.1)
    raise AssertionError(f"not answered: {last}")


def groq_state(runner: Runner) -> dict[str, str]:
    """Return Groq's state in `GET /readyz`, which is 200 in every state of Groq."""
    response = httpx.get(f"http://127.0.0.1:{runner.port}/readyz", trust_env=False)
    assert response.status_code == 200
    found: dict[str, str] = response.json()["dependencies"]["groq"]
    return found


def open_to_others(folder: Path) -> list[str]:
    """Return the paths under a folder with permissions for group or others."""
    paths = (folder, *folder.rglob("*"))
    return sorted(str(path.relative_to(folder)) for path in paths if path.stat().st_mode & 0o077)
