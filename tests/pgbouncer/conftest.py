"""PgBouncer in transaction mode, which only `make test-pgbouncer` collects: it is Debian's package."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests.backends import as_nobody, execute
from tests.ports import free_port

collect_ignore_glob = [] if os.environ.get("PGBOUNCER") else ["*"]
_SESSIONS = 4
"""Fewer than the connections of one service, so that they are always shared."""
_START_SECONDS_MAX = 10.0


@pytest.fixture(scope="session")
def bouncer_port(postgres_server: str) -> Iterator[int]:
    """Yield the port of a PgBouncer in front of the tests' Postgres."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if found is None:
        pytest.skip("pgbouncer is not installed; on Debian: apt install pgbouncer")
    folder, port = Path(tempfile.mkdtemp(prefix="pgb-", dir="/tmp")), free_port()
    folder.chmod(0o755)
    server = make_url(postgres_server)
    (folder / "pgbouncer.ini").write_text(
        f"""
[databases]
* = host=127.0.0.1 port={server.port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {_SESSIONS}
max_client_conn = 200
"""
    )
    with subprocess.Popen([*as_nobody(), found, str(folder / "pgbouncer.ini")]) as process:
        try:
            _wait_until_it_answers(server.set(port=port).render_as_string(hide_password=False), process)
            yield port
        finally:
            process.terminate()
    shutil.rmtree(folder)


@pytest.fixture
def bounced_url(postgres_url: str, bouncer_port: int) -> str:
    """Yield the URL of an empty database, through PgBouncer."""
    return make_url(postgres_url).set(port=bouncer_port).render_as_string(hide_password=False)


def _wait_until_it_answers(url: str, process: "subprocess.Popen[bytes]") -> None:
    ends = time.monotonic() + _START_SECONDS_MAX
    while True:
        assert process.poll() is None, "pgbouncer ended at once"
        try:
            execute(url, "SELECT 1")
            return
        except OSError:
            assert time.monotonic() < ends, "pgbouncer does not answer"
            time.sleep(0.05)
