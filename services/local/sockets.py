"""A folder for Unix sockets: one whose path is short, that takes sockets, and that nothing cleans up."""

import asyncio
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from services.common.errors import StartError
from services.common.runtime.private_files import make_private_folder
from services.local import valkey
from services.local.console import Console
from services.local.supervisor.child import Child

_PATH_BYTES_MAX = 103
"""Of a socket's whole path: 107 on Linux, 103 on macOS and the BSDs."""
_NAME_BYTES = len(f"/{valkey.SOCKET}")
_LOOK_SECONDS = 0.5


@contextmanager
def socket_folder(data_dir: Path) -> Iterator[Path]:
    """Give a folder for the block: in DATA_DIR where that can be, otherwise a new one in XDG_RUNTIME_DIR or TMPDIR.

    `/tmp` is the last choice, since it is cleaned while services run.

    Raises:
        StartError: None of them takes sockets.
    """
    folder = _choose(data_dir)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def keep_socket(parts: Sequence[Child], path: Path, console: Console) -> None:
    """Restart Valkey, where there is one of ours, when its socket was removed; never returns then.

    Connections that are open go on, so that only some requests would fail, and nothing would say why.
    """
    child = next((child for child in parts if child.program.name == "valkey"), None)
    was_there = False
    while child is not None:
        is_there = await asyncio.to_thread(path.exists)
        if was_there and not is_there and child.is_running():
            console.say(f"{path} was removed; restarting valkey, which makes it again")
            make_private_folder(path.parent)
            child.signal(signal.SIGTERM)
        was_there = is_there
        await asyncio.sleep(_LOOK_SECONDS)


def _choose(data_dir: Path) -> Path:
    folder = data_dir.resolve() / "run"
    if _takes_sockets(folder):
        return folder
    for parent in _parents():
        with suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix="stack-", dir=parent))
            if _takes_sockets(folder):
                return folder
            folder.rmdir()
    raise StartError(
        f"no folder takes a Unix socket: {data_dir} has too long a path for one or does not allow it, and neither "
        "XDG_RUNTIME_DIR, TMPDIR nor /tmp does; set TMPDIR to a folder that can be written, with a short path"
    )


def _parents() -> Iterator[str]:
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield runtime
    with suppress(OSError):
        yield tempfile.gettempdir()
    yield "/tmp"


def _takes_sockets(folder: Path) -> bool:
    """Whether a socket can be made there; a shared folder of a virtual machine, for one, refuses."""
    if len(os.fsencode(folder)) + _NAME_BYTES > _PATH_BYTES_MAX:
        return False
    probe = folder / ".probe"
    try:
        make_private_folder(folder)
        probe.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(probe))
        probe.unlink()
    except OSError:
        return False
    return True
