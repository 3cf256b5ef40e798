"""The real auth service as a separate process that listens on a Unix socket."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from grpc import aio

from services.common.rpc.channel import open_channel
from stack.auth.v1 import accounts_pb2, auth_pb2, keys_pb2
from stack.auth.v1.accounts_pb2_grpc import AccountServiceStub
from stack.auth.v1.auth_pb2_grpc import AuthServiceStub
from stack.auth.v1.keys_pb2_grpc import KeyServiceStub
from stack.auth.v1.plans_pb2_grpc import PlanServiceStub
from tests.forked import Forked, run_module

ROOT = Path(__file__).parents[2]
PEPPER = "a pepper for tests"
ADMIN_TOKEN = "an-admin-token-for-tests"
_READY_SECONDS = 20

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class AuthProcess:
    """A running auth service."""

    target: str
    process: Forked
    _log: Path

    @property
    def log(self) -> list[str]:
        """The complete lines it has written so far."""
        return self._log.read_text().rpartition("\n")[0].splitlines()

    def terminate(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=10)


@dataclass(frozen=True, slots=True)
class AuthClient:
    """Typed stubs on one channel."""

    auth: AuthServiceStub
    accounts: AccountServiceStub
    keys: KeyServiceStub
    plans: PlanServiceStub

    async def new_key(self, email: str, **fields: int) -> keys_pb2.CreateKeyResponse:
        """Create an account with one key."""
        await self.accounts.CreateAccount(accounts_pb2.CreateAccountRequest(email=email), metadata=shown())
        request = keys_pb2.CreateKeyRequest(email=email, name="laptop", daily_limit=fields.get("daily_limit"))
        return await self.keys.CreateKey(request, metadata=shown())

    async def revoke(self, key_id: str) -> keys_pb2.Key:
        """Revoke a key."""
        answer = await self.keys.RevokeKey(keys_pb2.RevokeKeyRequest(key_id=key_id), metadata=shown())
        return answer.key

    async def authenticate(self, secret: str) -> auth_pb2.AuthenticateResponse:
        """Look up a key."""
        return await self.auth.Authenticate(auth_pb2.AuthenticateRequest(api_key=secret), timeout=5)


def shown(token: str = ADMIN_TOKEN) -> Metadata:
    """Return the metadata with an admin token."""
    return (("authorization", f"Bearer {token}"),)


@contextmanager
def running_auth(data_dir: Path, settings: Mapping[str, str] | None = None) -> Iterator[AuthProcess]:
    """Run the service until the end of the block; it has reported that it is ready."""
    # A short path: the socket's name must stay under 107 bytes.
    with tempfile.TemporaryDirectory(prefix="auth-", dir="/tmp") as folder:
        target, log = f"unix:{folder}/auth.sock", Path(folder) / "log"
        log.touch()
        given = environment(data_dir, {"AUTH_LISTEN": target, **(settings or {})})
        process = Forked((sys.executable, "-m", "services.auth"), environment=given, log=log)
        service = AuthProcess(target, process, log)
        try:
            _wait_until_ready(service)
            yield service
        finally:
            process.kill()
            process.wait()


def run_auth(data_dir: Path, settings: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the service where it is expected to exit by itself, and return the outcome."""
    given = environment(data_dir, {"AUTH_LISTEN": "127.0.0.1:0", **settings})
    return run_module("services.auth", *arguments, environment=given, timeout=20)


def environment(data_dir: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without any of the developer's own settings."""
    ours = ("AUTH_", "STACK_", "QUOTA_", "INFERENCE_", "DATA_DIR")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {
        **inherited,
        "DATA_DIR": str(data_dir),
        "AUTH_METRICS_LISTEN": "",
        "DRAIN_SECONDS": "0",
        "GRACE_SECONDS": "3",
        **settings,
    }


@asynccontextmanager
async def auth_client(target: str) -> AsyncIterator[AuthClient]:
    """Yield stubs on a channel that is closed at the end of the block."""
    async with open_channel(target) as channel:
        yield client_on(channel)


def client_on(channel: aio.Channel) -> AuthClient:
    """Return stubs on an open channel."""
    return AuthClient(
        AuthServiceStub(channel), AccountServiceStub(channel), KeyServiceStub(channel), PlanServiceStub(channel)
    )


def _wait_until_ready(service: AuthProcess) -> None:
    ends = time.monotonic() + _READY_SECONDS
    while not any(line.startswith("{") and json.loads(line)["message"] == "ready" for line in service.log):
        assert service.process.poll() is None, f"auth ended before it was ready: {service.log}"
        assert time.monotonic() < ends, f"auth is not ready: {service.log}"
        time.sleep(0.01)
