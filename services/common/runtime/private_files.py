"""Files and folders with permissions for their owner only, regardless of the umask: 0600 and 0700."""

import logging
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_log = logging.getLogger(__name__)
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def open_private(path: str | Path, flags: int) -> int:
    """Open a file with mode 0600 and return its descriptor. Can be used as `open(…, opener=open_private)`.

    Permissions of group and others are removed from an existing file.

    Raises:
        OSError: The file cannot be opened.
    """
    descriptor = os.open(path, flags, 0o600)
    restrict(Path(path))
    return descriptor


def make_private_folder(path: Path) -> None:
    """Create a folder with mode 0700. An existing folder keeps its mode.

    Raises:
        OSError: The folder cannot be created.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def restrict(path: Path) -> None:
    """Remove the permissions of group and others from a file or folder, if it exists. Follows symbolic links.

    A failure, such as another owner or a file system without modes, is only logged.
    """
    with suppress(FileNotFoundError):
        mode = stat.S_IMODE(path.stat().st_mode)
        if not mode & _OTHERS:
            return
        try:
            path.chmod(mode & ~_OTHERS)
        except OSError as exc:
            extra = {"path": str(path), "error": exc.strerror}
            _log.warning("Cannot remove other users' permissions from a file", extra=extra)


def restrict_all(paths: Iterable[Path]) -> None:
    """Restrict files, and folders recursively. Symbolic links inside folders are skipped."""
    for path in paths:
        restrict(path)
        for folder, folders, files in os.walk(path):
            entries = (Path(folder, name) for name in (*folders, *files))
            for entry in entries:
                if not entry.is_symlink():
                    restrict(entry)
