"""Folder for Unix sockets, with a short path and on a file system that supports sockets."""

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
from services.local.supervisor.child import Child
from services.local.terminal import Terminal

_PATH_BYTES_MAX = 103
"""Maximum length of a socket's path: 107 bytes on Linux, 103 on macOS and the BSDs."""
_NAME_BYTES = max(len(f"/{name}") for name in (valkey.SOCKET, valkey.RESPONSES_SOCKET))
_POLL_SECONDS = 0.5


@contextmanager
def socket_folder(data_dir: Path) -> Iterator[Path]:
    """Create a folder, yield it, and remove it at the end of the block.

    It is in DATA_DIR if possible, otherwise in XDG_RUNTIME_DIR or TMPDIR. `/tmp` is the last choice, because systems
    remove old files there.

    Raises:
        StartError: None of them supports sockets.
    """
    folder = _choose(data_dir)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def keep_socket(parts: Sequence[Child], name: str, path: Path, terminal: Terminal) -> None:
    """Restart the Valkey called `name` when its socket is removed. Returns immediately if `parts` does not have it;
    otherwise never returns.

    Without a restart, open connections would keep working and new ones would fail without a clear cause.
    """
    child = next((child for child in parts if child.program.name == name), None)
    existed = False
    while child is not None:
        exists = await asyncio.to_thread(path.exists)
        if existed and not exists and child.is_running():
            terminal.print(f"{path} was removed. Restarting Valkey to create it again.")
            make_private_folder(path.parent)
            child.signal(signal.SIGTERM)
        existed = exists
        await asyncio.sleep(_POLL_SECONDS)


def _choose(data_dir: Path) -> Path:
    folder = data_dir.resolve() / "run"
    if _supports_sockets(folder):
        return folder
    for parent in _parents():
        with suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix="stack-", dir=parent))
            if _supports_sockets(folder):
                return folder
            folder.rmdir()
    raise StartError(
        f"No folder for Unix sockets was found: {data_dir}, XDG_RUNTIME_DIR, TMPDIR and /tmp have too long a path, are "
        "not writable, or do not support sockets. Set TMPDIR to a writable folder with a short path."
    )


def _parents() -> Iterator[str]:
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield runtime
    with suppress(OSError):
        yield tempfile.gettempdir()
    yield "/tmp"


def _supports_sockets(folder: Path) -> bool:
    """Return whether a socket can be created in a folder. Shared folders of virtual machines, for example, fail."""
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
