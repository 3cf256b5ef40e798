"""A Postgres that can be killed, frozen, and restarted."""

import asyncio
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from tests import backends

_START_SECONDS_MAX = 20
# The machine does not fail, only processes do: data written to the kernel survives without a sync. But a commit has to
# be written there before it is answered, so `synchronous_commit` stays on.
_OPTIONS = ("fsync=off", "full_page_writes=off", "shared_buffers=32MB", "max_connections=100")


class Postgres:
    """A separate server with databases `auth` and `ledger`."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port
        self._binaries = backends._binaries(folder)
        self._server: subprocess.Popen[bytes] | None = None
        self._frozen: list[psutil.Process] = []
        initdb = [str(self._binaries / "initdb"), "-D", str(folder / "data"), "-A", "trust", "-U", "postgres"]
        backends._run([*backends.as_nobody(), *initdb, "--no-sync"])

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://postgres@127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        """Start it, if it is not running; call from the main thread, as the server ends with its parent thread."""
        if self._server is not None and self._server.poll() is None:
            return
        options = [f"-c{one}" for one in (*_OPTIONS, "listen_addresses=127.0.0.1", "unix_socket_directories=")]
        command = [str(self._binaries / "postgres"), "-D", str(self._folder / "data"), "-p", str(self._port), *options]
        with (self._folder / "log").open("a") as log:
            self._server = subprocess.Popen([*backends.as_nobody(), *command], stdout=log, stderr=log)

    async def until_it_answers(self) -> None:
        """Return when it accepts queries."""
        async with asyncio.timeout(_START_SECONDS_MAX):
            while True:
                try:
                    await self.fetch("postgres", "SELECT 1")
                    return
                except (OSError, asyncpg.PostgresError):
                    await asyncio.sleep(0.03)

    async def fetch(self, database: str, query: str, *arguments: object) -> list[Any]:
        """Return the rows of a query."""
        connection = await asyncpg.connect(self.url(database), timeout=5)
        try:
            rows: list[Any] = await connection.fetch(query, *arguments, timeout=10)
            return rows
        finally:
            await connection.close()

    def stop_at_once(self) -> None:
        """End it like `pg_ctl stop -m immediate`: every process exits without cleanup, and the next start recovers."""
        assert self._server is not None
        self._server.send_signal(signal.SIGQUIT)
        self._server.wait(timeout=_START_SECONDS_MAX)

    def freeze(self) -> None:
        """Freeze all of its processes."""
        assert self._server is not None
        server = psutil.Process(self._server.pid)
        server.suspend()
        self._frozen = [server, *server.children(recursive=True)]
        for process in self._frozen[1:]:
            process.suspend()

    def resume(self) -> None:
        """Resume frozen processes."""
        for process in self._frozen:
            process.resume()
        self._frozen = []


@contextmanager
def running_postgres(port: int) -> Iterator[Postgres]:
    """Run a server for the block."""
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    try:
        # Postgres refuses to run as root, so root runs it as another user.
        folder.chmod(0o777)
        postgres = Postgres(folder, port)
        postgres.start()
        try:
            yield postgres
        finally:
            postgres.resume()
            postgres.stop_at_once()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
