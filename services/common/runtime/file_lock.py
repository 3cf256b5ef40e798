"""The right to a file or folder of this machine, held by one process, or by siblings together, and given back by its
end, however it ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.common.errors import StartError
from services.common.runtime.private_files import make_private_folder, open_private


@contextmanager
def try_lock(lock: Path, *, thing: str, remedy: str, shared: bool = False) -> Iterator[None]:
    """Hold a lock for the block.

    Args:
        lock: The lock's file; its folder is made when there is none.
        thing: What the lock stands for, for the sentence of a refusal.
        remedy: What to do when another process has it.
        shared: Hold it together with all who say the same.

    Raises:
        StartError: Another process has the lock, or its file cannot be written.
    """
    descriptor = _open(lock)
    try:
        _take(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, thing, remedy)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def lock_file(lock: Path) -> Iterator[None]:
    """Be the only one in the block, after whoever is in it; for a moment's work that awaits nothing.

    Raises:
        StartError: The lock's file cannot be written.
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
        raise StartError(f"cannot write {lock.parent}: {exc.strerror}; choose another DATA_DIR") from exc


def _take(descriptor: int, kind: int, thing: str, remedy: str) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise StartError(f"another process uses {thing}; {remedy}") from exc
