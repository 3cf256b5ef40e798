"""Log files of the programs: rotated while the programs write to them."""

import asyncio
import logging
import os
import shutil
from pathlib import Path

from services.common.runtime.private_files import open_private

BYTES_MAX = 20_000_000
"""A larger log is rotated; with the one before it, a log takes twice as much."""

_LOOK_SECONDS = 1.0
_log = logging.getLogger(__name__)


async def keep_rotating(folder: Path, *, bytes_max: int = BYTES_MAX, look_seconds: float = _LOOK_SECONDS) -> None:
    """Rotate every `*.log` in a folder that grows larger than `bytes_max`; never returns."""
    failed: set[Path] = set()
    while True:
        await asyncio.to_thread(_rotate_large, folder, bytes_max, failed)
        await asyncio.sleep(look_seconds)


def _rotate_large(folder: Path, bytes_max: int, failed: set[Path]) -> None:
    """Rotate what is too large; what cannot be rotated, on a full disk for one, is logged once and tried again."""
    for log in folder.glob("*.log"):
        try:
            if log.stat().st_size > bytes_max:
                _rotate(log)
                failed.discard(log)
        except OSError as exc:
            if log not in failed:
                _log.warning("a log cannot be rotated", extra={"path": str(log), "error": exc.strerror})
            failed.add(log)


def _rotate(log: Path) -> None:
    """Copy a log to `*.log.1` and empty it.

    The programs have it open, and append, so it keeps its inode. A line that is written between the last read and the
    emptying is lost.
    """
    copy = log.with_suffix(".log.tmp")
    try:
        target = os.fdopen(open_private(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb")
        with target, log.open("r+b") as source:
            shutil.copyfileobj(source, target)
            target.flush()  # A full disk is noticed here, before anything is emptied.
            source.truncate(0)
        copy.replace(log.with_suffix(".log.1"))
    finally:
        copy.unlink(missing_ok=True)
