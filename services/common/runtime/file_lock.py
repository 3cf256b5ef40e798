"""File locks between processes. The system releases a lock when its process ends, for whatever reason."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.common.errors import StartError
from services.common.runtime.private_files import make_private_folder, open_private


@contextmanager
def try_lock(lock: Path, *, thing: str, remedy: str, shared: bool = False) -> Iterator[None]:
    """Hold a lock until the end of the block, without waiting for it.

    Args:
        lock: Lock file. Its folder is created if missing.
        thing: Name of the locked resource, for the error message.
        remedy: What to do if another process holds the lock, for the error message. A clause without a period.
        shared: Share the lock with other processes that also set `shared`.

    Raises:
        StartError: Another process holds the lock, or the lock file cannot be written.
    """
    descriptor = _open(lock)
    try:
        _take(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, thing, remedy)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def lock_file(lock: Path) -> Iterator[None]:
    """Wait for an exclusive lock and hold it until the end of the block. For short, synchronous work only.

    Raises:
        StartError: The lock file cannot be written.
    """
    descriptor = _open(lock)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open(lock: Path) -> int:
    try:
        make_private_folder(lock.parent)
        return open_private(lock, os.O_RDWR | os.O_CREAT)
    except OSError as exc:
        raise StartError(f"Cannot write to {lock.parent}: {exc.strerror}. Choose another DATA_DIR.") from exc


def _take(descriptor: int, kind: int, thing: str, remedy: str) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise StartError(f"Another process is using {thing}; {remedy}.") from exc
