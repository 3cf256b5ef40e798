"""A whole stack for tests: the four services, Valkey and the Groq stand-in, as real processes on real sockets.

The same programs and environment as `make run`, with several gateways where a test wants them, and with control over
each process: it can be killed and restarted while the others run.
"""

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import psutil
from google.protobuf.field_mask_pb2 import FieldMask
from pydantic import SecretStr
from redis import Redis

from services.common.limits import Unit, Window, parse_limits
from services.common.rpc.channel import open_channel
from services.common.rpc.limits import limit_to_proto
from services.local import valkey
from services.local.settings import LocalSettings
from services.local.supervisor import programs, ready
from services.local.supervisor.child import Program
from stack.auth.v1 import accounts_pb2, accounts_pb2_grpc, keys_pb2, keys_pb2_grpc, plans_pb2, plans_pb2_grpc
from tests.forked import Started, started_process
from tests.grpc_health import grpc_serves
from tests.ports import free_port

EMAIL = "tester@example.com"
_START_SECONDS = 30
_STOP_SECONDS = 6


@dataclass(frozen=True)
class Key:
    """A key created for a test."""

    id: str
    secret: str
    account_id: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """The headers of an HTTP client."""
        return {"Authorization": f"Bearer {self.secret}", "Content-Type": "application/json"}


class Stack:
    """A running stack. Its services listen on Unix sockets, its gateways on ports of the loopback address.

    Its programs are named after their services; several programs of one service are numbered: `gateway-1`, `quota-1`.
    Workers (`stack`, `stack-2`) replace all four services: each has its gateway at a port and the others at its own
    sockets (`auth-1.sock`), so that each can be called and killed separately, and they share their SQLite files.

    Attributes:
        own: Additional environment of one program, by its name.
    """

    def __init__(
        self,
        folder: Path,
        *,
        gateways: int,
        environment: Mapping[str, str],
        auths: int = 1,
        quotas: int = 1,
        inferences: int = 1,
        workers: int = 0,
        valkey_options: Sequence[str] = (),
        is_forked: bool = True,
        stores_responses: bool = False,
        responses_valkey_options: Sequence[str] = (),
        operator_console: bool = False,
    ) -> None:
        if workers:
            gateways = auths = quotas = inferences = workers
        self.folder = folder
        self.environment = dict(environment)
        self.own: dict[str, dict[str, str]] = {}
        self._is_forked = is_forked
        self._processes: dict[str, Started] = {}
        self._programs: dict[str, Program] = {}
        self.settings = LocalSettings(
            data_dir=folder / "data",
            grace_seconds=1,
            gateway_port=free_port(),
            auth_listen="unix:" + ",".join(f"{folder}/{name}.sock" for name in _numbered("auth", auths)),
            quota_listen="unix:" + ",".join(f"{folder}/{name}.sock" for name in _numbered("quota", quotas)),
            inference_listen="unix:" + ",".join(f"{folder}/{name}.sock" for name in _numbered("inference", inferences)),
            groq_api_key=SecretStr(""),
            groq_api_keys=SecretStr(""),
            quota_redis_url="",
            store_responses=stores_responses,
            responses_redis_url="",
            auth_metrics_listen="",
            quota_metrics_listen="",
            inference_metrics_listen="",
            gateway_metrics_listen="",
            workers=workers,
            operator_console=operator_console,
            operator_console_port=free_port(),
        ).configuration()
        ports = [self.settings.gateway_port] + [free_port() for _ in range(gateways - 1)]
        self.gateways = [f"http://127.0.0.1:{port}" for port in ports]
        self._add_stores({"valkey": valkey_options, valkey.RESPONSES: responses_valkey_options})
        if workers:
            self._add_workers(ports)
        else:
            self._add_services(ports, {"auth": auths, "quota": quotas, "inference": inferences})
        for program in programs.operator_console(self.settings):
            own = {"OPERATOR_CONSOLE_GATEWAY_URL": self.gateways[0]}
            targets = {f"{one.upper()}_TARGET": self.socket(one) for one in ("auth", "quota", "inference")}
            self._add_like(program, program.name, own | targets)

    @property
    def base_url(self) -> str:
        """Address of the first gateway."""
        return self.gateways[0]

    @property
    def standin_url(self) -> str:
        """Address of the Groq stand-in."""
        return self._standin_url

    @property
    def names(self) -> tuple[str, ...]:
        """The programs, in the order in which they start."""
        return tuple(self._programs)

    def add(self, program: Program) -> None:
        """Start another program before all others."""
        self._programs = {program.name: program, **self._programs}

    def run_by(self, module: str, name: str) -> None:
        """Run a program that is a Python module through another one, which receives its command line as arguments."""
        program = self._programs[name]
        python, option, *arguments = program.command
        self._programs[name] = Program(name, (python, option, module, *arguments), program.environment)

    def is_running(self, name: str) -> bool:
        """Whether a program was started and has not ended."""
        return name in self._processes and self._processes[name].poll() is None

    def start_all(self) -> None:
        """Start everything and wait until it is ready."""
        # As in `make run`, the first worker migrates the databases.
        later = [name for name in self._programs if name.startswith("stack-")]
        for group in ([name for name in self._programs if name not in later], later):
            for name in group:
                self.start(name)
            asyncio.run(self.until_ready(*group))

    def start(self, name: str, **environment: str) -> None:
        """Start one program, with `environment` in addition to its own."""
        program = self._programs[name]
        given = {
            **bare_environment(),
            **program.environment,
            "GATEWAY_TOKENIZERS": "[]",  # They take half a second at each start.
            **self.environment,
            **self.own.get(name, {}),
            **environment,
        }
        log = self.folder / f"{name}.log"
        self._processes[name] = started_process(program.command, environment=given, log=log, is_forked=self._is_forked)

    def resident_bytes(self, name: str) -> int:
        """Return the memory use of one program."""
        resident: int = psutil.Process(self._processes[name].pid).memory_info().rss
        return resident

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send one program a signal."""
        self._processes[name].send_signal(number)

    def kill(self, name: str) -> None:
        """Kill one program."""
        self.signal(name, signal.SIGKILL)
        self._processes[name].wait(timeout=_STOP_SECONDS)

    def stop(self, name: str, *, within_seconds: float = _STOP_SECONDS) -> int:
        """Stop one program gracefully and return its exit code."""
        process = self._processes[name]
        process.terminate()
        return process.wait(timeout=within_seconds)

    async def repair(self) -> None:
        """Restart what a test has stopped, and return once the whole stack answers a chat."""
        await self.start_missing()
        # The restarted programs are up, but their callers may not be connected yet.
        key = await self.create_key()
        async with asyncio.timeout(_START_SECONDS), httpx.AsyncClient(trust_env=False, timeout=20) as client:
            for gateway in self.gateways:
                url = f"{gateway}/api/v1/chat"
                while (await client.post(url, headers=key.headers, json=say("hi"))).status_code != 200:
                    await asyncio.sleep(0.05)

    async def start_missing(self) -> None:
        """Start what has stopped, and return once each program is ready."""
        for name in self.names:
            if not self.is_running(name):
                self.start(name)
        await self.until_ready(*self.names)

    async def until_ready(self, *names: str) -> None:
        """Return when these programs are ready."""
        async with asyncio.timeout(_START_SECONDS):
            await asyncio.gather(*(self._until_one_ready(name) for name in names))

    def stop_all(self) -> None:
        """Stop everything, gateways first, so that no request is interrupted."""
        for name in reversed(self._programs):
            with contextlib.suppress(ProcessLookupError):
                self._processes[name].terminate()
        for name, process in self._processes.items():
            try:
                process.wait(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise AssertionError(f"{name} did not stop within {_STOP_SECONDS} s of SIGTERM") from None

    def log(self, name: str) -> str:
        """Return the output of a program."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    # Operators' actions.

    async def create_key(
        self,
        *,
        daily_limit: int | None = None,
        models: Sequence[str] = (),
        limits: Sequence[str] = (),
        deduplicate_retries: bool = False,
        at: str = "",
    ) -> Key:
        """Create a key of the test account, at any auth or at the one named by `at`. Limits are texts."""
        async with open_channel(self.socket(at) if at else self.settings.auth_listen) as channel:
            keys = keys_pb2_grpc.KeyServiceStub(channel)
            request = keys_pb2.CreateKeyRequest(
                email=EMAIL,
                name="test",
                daily_limit=daily_limit,
                models=models,
                limits=map(limit_to_proto, parse_limits(limits)),
                deduplicate_retries=deduplicate_retries,
            )
            response = await keys.CreateKey(request, metadata=self.admin_metadata, timeout=5)
        return Key(response.key.id, response.secret, response.key.account_id)

    async def revoke_key(self, key: Key, *, at: str = "") -> None:
        """Revoke a key; returns with auth's answer, or with that of the one auth named by `at`."""
        async with open_channel(self.socket(at) if at else self.settings.auth_listen) as channel:
            keys = keys_pb2_grpc.KeyServiceStub(channel)
            await keys.RevokeKey(keys_pb2.RevokeKeyRequest(key_id=key.id), metadata=self.admin_metadata, timeout=5)

    async def set_deduplication(self, key_id: str, *, deduplicate_retries: bool) -> None:
        """Set whether automatic retries of a key are deduplicated."""
        async with open_channel(self.settings.auth_listen) as channel:
            request = keys_pb2.SetKeyDeduplicationRequest(key_id=key_id, deduplicate_retries=deduplicate_retries)
            keys = keys_pb2_grpc.KeyServiceStub(channel)
            await keys.SetKeyDeduplication(request, metadata=self.admin_metadata, timeout=5)

    async def set_plan(
        self, name: str, *, daily_limit: int, account_daily_limit: int, limits: Sequence[str] = ()
    ) -> None:
        """Set a plan's limits, further ones as texts; keys created afterwards have them at once."""
        async with open_channel(self.settings.auth_listen) as channel:
            plan = plans_pb2.Plan(name=name, daily_limit=daily_limit, account_daily_limit=account_daily_limit)
            request = plans_pb2.SetPlanRequest(
                plan=plan,
                update_mask=FieldMask(paths=["daily_limit", "account_daily_limit"]),
                changed_limits=map(limit_to_proto, parse_limits(limits)),
            )
            await plans_pb2_grpc.PlanServiceStub(channel).SetPlan(request, metadata=self.admin_metadata, timeout=5)

    async def create_account(self) -> None:
        """Create the test account."""
        async with open_channel(self.settings.auth_listen) as channel:
            accounts = accounts_pb2_grpc.AccountServiceStub(channel)
            request = accounts_pb2.CreateAccountRequest(email=EMAIL)
            await accounts.CreateAccount(request, metadata=self.admin_metadata, timeout=5)

    async def create_account_key(self, email: str) -> Key:
        """Create another account with one key."""
        async with open_channel(self.settings.auth_listen) as channel:
            accounts, keys = accounts_pb2_grpc.AccountServiceStub(channel), keys_pb2_grpc.KeyServiceStub(channel)
            account = accounts_pb2.CreateAccountRequest(email=email)
            await accounts.CreateAccount(account, metadata=self.admin_metadata, timeout=5)
            request = keys_pb2.CreateKeyRequest(email=email, name="test")
            response = await keys.CreateKey(request, metadata=self.admin_metadata, timeout=5)
        return Key(response.key.id, response.secret, response.key.account_id)

    async def delete_account(self) -> None:
        """Delete the test account."""
        async with open_channel(self.settings.auth_listen) as channel:
            accounts = accounts_pb2_grpc.AccountServiceStub(channel)
            request = accounts_pb2.DeleteAccountRequest(account=EMAIL)
            await accounts.DeleteAccount(request, metadata=self.admin_metadata, timeout=5)

    def socket(self, name: str) -> str:
        """Return the gRPC target of one service's program."""
        return f"unix:{self.folder}/{name}.sock"

    @property
    def admin_metadata(self) -> tuple[tuple[str, str], ...]:
        """The credential of operators' calls."""
        token = (
            self.environment.get("STACK_ADMIN_TOKEN") or (self.settings.data_dir / "admin-token").read_text().strip()
        )
        return (("authorization", f"Bearer {token}"),)

    # Observed state.

    def ledger(self, key: Key) -> list[dict[str, Any]]:
        """Return the ledger rows of a key, read from the database itself."""
        with contextlib.closing(sqlite3.connect(self.settings.data_dir / "inference.db")) as database:
            database.row_factory = sqlite3.Row
            rows = database.execute("SELECT * FROM usage_ledger WHERE key_id = ? ORDER BY request_id", (key.id,))
            return [dict(row) for row in rows]

    def counters(self, key: Key) -> tuple[int, int]:
        """Return Redis' counts of a key, all days together: charged, held."""
        charged = held = 0
        with contextlib.closing(self.redis()) as redis:
            for name in redis.scan_iter(match=f"quota:*:account:{key.account_id}:[0-9]*"):
                entries: dict[Any, Any] = redis.hgetall(name)
                charged += int(entries.get(f"{key.id}:requests".encode(), 0))
                held += int(entries.get(f"{key.id}:requests:held".encode(), 0))
        return charged, held

    def amounts(self, key: Key, window: Window, unit: Unit) -> tuple[int, int]:
        """Return Redis' counts of a key for a day or a month, all of them together: charged, held."""
        infix = "month:" if window is Window.MONTH else ""
        charged = held = 0
        with contextlib.closing(self.redis()) as redis:
            for name in redis.scan_iter(match=f"quota:*:account:{key.account_id}:{infix}[0-9]*"):
                entries: dict[Any, Any] = redis.hgetall(name)
                charged += int(entries.get(f"{key.id}:{unit}".encode(), 0))
                held += int(entries.get(f"{key.id}:{unit}:held".encode(), 0))
        return charged, held

    def redis(self) -> "Redis":
        """Return a client of the stack's Valkey."""
        return Redis(unix_socket_path=str(self.folder / "valkey.sock"))

    def flush_redis(self) -> None:
        """Delete everything in the stack's Valkey."""
        with contextlib.closing(self.redis()) as redis:
            redis.flushall()

    async def journal(self) -> list[dict[str, Any]]:
        """Return the stand-in's journal."""
        async with httpx.AsyncClient(trust_env=False) as client:
            response = await client.get(f"{self._standin_url}/journal")
            served: list[dict[str, Any]] = response.json()
            return served

    async def until_settled(self, key: Key) -> tuple[int, int]:
        """Return the counters once no hold is left: settles follow the answers."""
        async with asyncio.timeout(10):
            while (counters := await asyncio.to_thread(self.counters, key))[1]:
                await asyncio.sleep(0.02)
        return counters

    def _add_stores(self, options: Mapping[str, Sequence[str]]) -> None:
        self._standin_port = free_port()
        self._standin_url = f"http://127.0.0.1:{self._standin_port}"
        for program in (*programs.stores(self.settings, sockets=self.folder), programs.standin(self._standin_port)):
            command = (*program.command, *options.get(program.name, ()))
            self._programs[program.name] = Program(program.name, command, program.environment)

    def _add_services(self, ports: list[int], replicas: Mapping[str, int]) -> None:
        services = programs.services(self.settings, sockets=self.folder, groq_base_url=self._standin_url)
        given = {program.name: program for program in services}
        for service, count in replicas.items():
            for name in _numbered(service, count):
                self._add_like(given[service], name, {f"{service.upper()}_LISTEN": self.socket(name)})
        for number, port in enumerate(ports, start=1):
            self._add_like(given["gateway"], f"gateway-{number}", {"GATEWAY_PORT": str(port)})

    def _add_workers(self, ports: list[int]) -> None:
        workers = programs.workers(self.settings, sockets=self.folder, groq_base_url=self._standin_url)
        for number, (worker, port) in enumerate(zip(workers, ports, strict=True)):
            own = {"GATEWAY_PORT": str(port)}
            for service in ("auth", "quota", "inference"):
                socket = self.socket(_numbered(service, len(ports))[number])
                own |= {f"{service.upper()}_LISTEN": socket, f"{service.upper()}_TARGET": socket}
            self._add_like(worker, worker.name, own)

    def _add_like(self, program: Program, name: str, environment: Mapping[str, str]) -> None:
        self._programs[name] = Program(name, program.command, {**program.environment, **environment})

    async def _until_one_ready(self, name: str) -> None:
        match name:
            case "valkey":
                await ready.until(lambda: ready.valkey_answers(self.folder / "valkey.sock"))
            case valkey.RESPONSES:
                await ready.until(lambda: ready.valkey_answers(self.folder / valkey.RESPONSES_SOCKET))
            case "groq-standin":
                await ready.until(lambda: ready.http_answers(f"{self._standin_url}/healthz"))
            case "operator-console":
                url = f"{self.settings.operator_console_url}/readyz"
                await ready.until(lambda: ready.http_answers(url))
            case _ if name.startswith(("gateway", "stack")):
                url = self.gateways[int(name.partition("-")[2] or 1) - 1]
                await ready.until(lambda: ready.http_answers(f"{url}/readyz"))
            case _:
                await ready.until(lambda: grpc_serves(self.socket(name)))


@contextmanager
def running_stack(
    *,
    gateways: int = 1,
    quotas: int = 1,
    workers: int = 0,
    valkey_options: Sequence[str] = (),
    stores_responses: bool = False,
    responses_valkey_options: Sequence[str] = (),
    operator_console: bool = False,
    **environment: str,
) -> Iterator[Stack]:
    """Run a stack for the block; at the end all of it must stop gracefully."""
    with stack_folder() as folder:
        stack = Stack(
            folder,
            gateways=gateways,
            environment=environment,
            quotas=quotas,
            workers=workers,
            valkey_options=valkey_options,
            stores_responses=stores_responses,
            responses_valkey_options=responses_valkey_options,
            operator_console=operator_console,
        )
        with started(stack):
            yield stack


@contextmanager
def stack_folder() -> Iterator[Path]:
    """Yield a folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="stack-e2e-", dir="/tmp") as folder:
        yield Path(folder)


@contextmanager
def started(stack: Stack) -> Iterator[None]:
    """Run `stack` for the block."""
    try:
        stack.start_all()
        asyncio.run(stack.create_account())
        yield
    finally:
        stack.stop_all()


def connector(connections: int) -> aiohttp.TCPConnector:
    """Return a pool without a limit of connections."""
    return aiohttp.TCPConnector(limit=connections)


def say(text: str, **members: Any) -> dict[str, Any]:
    """Return a chat request with one user message."""
    return {"messages": [{"role": "user", "content": text}], **members}


def bare_environment() -> dict[str, str]:
    """Return our environment without the variables that would configure the stack."""
    steering = ("AUTH_", "QUOTA_", "INFERENCE_", "GATEWAY_", "GROQ_", "STACK_", "DATA_DIR", "DRAIN_", "GRACE_", "LOG_")
    return {name: value for name, value in os.environ.items() if not name.startswith(steering)}


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name}-{number}" for number in range(1, count + 1)] if count > 1 else [name]
