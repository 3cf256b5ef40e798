"""Files and folders that only their owner can use, whatever the umask: 0600 and 0700."""

import logging
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_log = logging.getLogger(__name__)
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def open_private(path: str | Path, flags: int) -> int:
    """Open a file with mode 0600 and return its descriptor; fits `open(…, opener=open_private)`.

    A file that exists with a wider mode loses the wider part.

    Raises:
        OSError: As `os.open`.
    """
    descriptor = os.open(path, flags, 0o600)
    restrict(Path(path))
    return descriptor


def make_private_folder(path: Path) -> None:
    """Create a folder with mode 0700 where there is none; one that exists keeps its mode.

    Raises:
        OSError: It cannot be created.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def restrict(path: Path) -> None:
    """Take group's and others' permissions from a file or folder that may exist; a symbolic link is followed.

    A file system that keeps no modes, or another owner, is logged: the file is of use all the same.
    """
    with suppress(FileNotFoundError):
        mode = stat.S_IMODE(path.stat().st_mode)
        if not mode & _OTHERS:
            return
        try:
            path.chmod(mode & ~_OTHERS)
        except OSError as exc:
            extra = {"path": str(path), "error": exc.strerror}
            _log.warning("cannot take other users' permissions from a file", extra=extra)


def restrict_all(paths: Iterable[Path]) -> None:
    """Restrict files, and folders with all that is in them; symbolic links inside of folders are left alone."""
    for path in paths:
        restrict(path)
        for folder, folders, files in os.walk(path):
            inside = (Path(folder, name) for name in (*folders, *files))
            for one in inside:
                if not one.is_symlink():
                    restrict(one)
