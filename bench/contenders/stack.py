"""The complete product: what `make run` starts, with a real key, exact quota, ledger, Valkey's AOF, metrics and
logs.
"""

import json
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from redis import Redis

from bench.contenders.contender import name_of
from bench.machine import commit
from bench.mock import MODEL, Mock
from bench.processes import DidNotStart, Process, plain_environment
from services.auth.keys.minting import DAILY_LIMIT_MAX
from tests.ports import free_port

_SERVICES = ("gateway", "auth", "quota", "inference")
WORKER = "worker"
"""Names in figures of the processes that run the four services; further ones have a number."""
NO_SERVICES = ("supervisor", "valkey")
"""The other processes."""
ALL_LIMITS = (
    *("key:requests:minute=1000000", "key:tokens:minute=1000000000", "key:tokens:day=1000000000"),
    *("key:cost:day=$1000000", "key:cost:month=$1000000", "key:concurrent_requests=100000"),
    *("account:requests:minute=1000000", "account:tokens:minute=1000000000", "account:tokens:day=1000000000"),
    *("account:cost:day=$1000000", "account:cost:month=$1000000", "account:concurrent_requests=100000"),
)
"""All limits there are, other than a key's requests per day, and none that is reached."""
_ROOT = Path(__file__).parents[2]
_EMAIL = "bench@example.com"
_START_SECONDS = 40
_SETTLE_SECONDS = 15
_PART = re.compile(r"-m services\.(?:local\.)?(\w+)|valkey-server")
_VALKEY_TITLE = re.compile(r"(?:unixsocket:|--unixsocket )(\S+)")
_PORTS = (
    *(f"{service.upper()}_LISTEN" for service in _SERVICES[1:]),
    *(f"{service.upper()}_METRICS_LISTEN" for service in _SERVICES),
)


class CountsDiffer(Exception):
    """Ledger and counters disagree."""


class Stack:
    """`python -m services.local` with a separate data folder."""

    model = MODEL
    surfaces = ("responses", "messages", "completions")

    def __init__(
        self,
        folder: Path,
        *,
        groq_base_url: str,
        workers: int = 1,
        tree: Path | None = None,
        limits: Sequence[str] = (),
        **environment: str,
    ) -> None:
        """Create it in front of the mock at `groq_base_url`.

        Args:
            folder: Folder of its data and its log.
            groq_base_url: The mock's address.
            workers: Processes that run all four services each; 0 runs each service in its own process.
            tree: Source tree to run; None runs this one.
            limits: Limits of the key and the account, other than requests per day, as texts.
            environment: Additional settings.
        """
        self.name = name_of("stack", workers) if workers else "stack, 4 processes"
        self.data = folder / f"data-{workers}"
        self._log = folder / f"stack-{workers}.log"
        self._tree = tree or _ROOT
        self.addresses = {name: f"127.0.0.1:{free_port()}" for name in _PORTS}
        first = int(self.addresses["GATEWAY_METRICS_LISTEN"].rpartition(":")[2])
        self._metrics_ports = range(first, first + max(1, workers))
        port = free_port()
        self.base_url = f"http://127.0.0.1:{port}"
        self.url = f"{self.base_url}/api/v1/chat/completions"
        self.environment = plain_environment(
            GROQ_BASE_URL=groq_base_url,
            GROQ_API_KEY="gsk_bench",
            GATEWAY_PORT=str(port),
            DATA_DIR=str(self.data),
            STACK_WORKERS=str(workers),
            PYTHONPATH=f"{self._tree}:{self._tree / 'gen'}",
            **self.addresses,
            **environment,
        )
        self._limits = tuple(limits)
        self.headers: dict[str, str] = {}
        self.key_id = ""

    @property
    def version(self) -> str:
        """Version and commit."""
        return f"{version('stack-api')} ({commit()})"

    @property
    def features(self) -> str:
        """What is on: everything, and the limits that its key and account have."""
        limits = f"{len(self._limits) + 1} limits of key and account" if self._limits else "requests per day of a key"
        return f"{limits}, exact over all processes; a ledger row before the answer ends; metrics; log"

    @property
    def parts(self) -> dict[str, int]:
        """The supervisor, the workers or the services, and Valkey."""
        found = {"supervisor": self._process.pid}
        for process in psutil.Process(self._process.pid).children(recursive=True):
            if name := _PART.search(" ".join(process.cmdline())):
                kind = name[1] or "valkey"
                others = sum(other.startswith(kind) for other in found)
                found[f"{kind}-{others + 1}" if others else kind] = process.pid
        return found

    def start(self) -> None:
        """Start it, create a key with the highest limit, and return when the gateway answers."""
        self._process = Process(
            (sys.executable, "-m", "services.local"), log=self._log, environment=self.environment, folder=self._tree
        )
        self._process.until_answers(f"{self.base_url}/readyz", seconds=_START_SECONDS)
        for port in self._metrics_ports:  # The first worker serves before the others.
            self._process.until_answers(f"http://127.0.0.1:{port}/metrics", seconds=_START_SECONDS)
        self.key_id, secret = self._create_key()
        self.headers = {"Authorization": f"Bearer {secret}"}

    def stop(self) -> None:
        """Stop it gracefully."""
        self._process.stop()

    def charged(self) -> int:
        """Return the ledger's charged rows, once no hold is left and the counters agree.

        Raises:
            CountsDiffer: They still differ after a while.
        """
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            rows, (used, held) = self._rows(), self._counters()
            if rows == used and not held:
                return rows
            if time.monotonic() > deadline:
                raise CountsDiffer(f"the ledger has {rows} charged rows, the counters {used} charged and {held} held")
            time.sleep(0.05)

    def _create_key(self) -> tuple[str, str]:
        self._stackctl("accounts", "create", "--email", _EMAIL)
        options = ("--email", _EMAIL, "--name", "bench", "--daily-limit", str(DAILY_LIMIT_MAX))
        if self._limits:
            self._stackctl("plans", "set", "free", *self._limit_options("account:"))
        made = self._stackctl("keys", "create", *options, *self._limit_options("key:"))
        return made["id"], made["key"]

    def _limit_options(self, scope: str) -> list[str]:
        return [part for limit in self._limits if limit.startswith(scope) for part in ("--limit", limit)]

    def _stackctl(self, *arguments: str) -> dict[str, Any]:
        targets = {f"{name}_TARGET": self.environment[f"{name}_LISTEN"] for name in ("AUTH", "QUOTA", "INFERENCE")}
        command = (sys.executable, "-m", "services.cli", *arguments, "--json")
        environment = plain_environment(DATA_DIR=str(self.data), PYTHONPATH=self.environment["PYTHONPATH"], **targets)
        said = subprocess.run(
            command, cwd=self._tree, env=environment, capture_output=True, text=True, check=True
        ).stdout
        answer: dict[str, Any] = json.loads(said)
        return answer

    def _rows(self) -> int:
        with closing(sqlite3.connect(self.data / "inference.db")) as database:
            found = database.execute("SELECT count(*) FROM usage_ledger WHERE key_id = ? AND charged", (self.key_id,))
            return int(found.fetchone()[0])

    def _counters(self) -> tuple[int, int]:
        """Return Valkey's counts of the key, all days together: charged, held."""
        charged = held = 0
        with closing(Redis(unix_socket_path=self._valkey_socket())) as redis:
            for name in redis.scan_iter(match="quota:*:account:*:[0-9]*"):
                entries: dict[Any, Any] = redis.hgetall(name)
                charged += int(entries.get(f"{self.key_id}:requests".encode(), 0))
                held += int(entries.get(f"{self.key_id}:requests:held".encode(), 0))
        return charged, held

    def _valkey_socket(self) -> str:
        for process in psutil.Process(self._process.pid).children():
            # Valkey's process title contains its address.
            if found := _VALKEY_TITLE.search(" ".join(process.cmdline())):
                return found[1]
        raise DidNotStart("no Valkey runs")


@contextmanager
def stack_alone(*, workers: int = 1, limits: Sequence[str] = (), **environment: str) -> Iterator[tuple[Stack, Mock]]:
    """Run the product in front of a mock for the block; `environment` has additional settings."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name:
        mock = Mock(Path(name))
        stack = Stack(Path(name), groq_base_url=mock.base_url, workers=workers, tree=None, limits=limits, **environment)
        mock.start()
        try:
            stack.start()
            try:
                yield stack, mock
            finally:
                stack.stop()
        finally:
            mock.stop()
