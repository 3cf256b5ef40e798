"""Rotation of the programs' log files while they are written."""

import asyncio
import logging
import os
import shutil
from pathlib import Path

from services.common.runtime.private_files import open_private

BYTES_MAX = 20_000_000
"""Size at which a log is rotated. With the rotated file, a log takes up to twice as much."""

_POLL_SECONDS = 1.0
_log = logging.getLogger(__name__)


async def keep_rotating(folder: Path, *, bytes_max: int = BYTES_MAX, look_seconds: float = _POLL_SECONDS) -> None:
    """Rotate every `*.log` in a folder that exceeds `bytes_max`. Never returns."""
    failed: set[Path] = set()
    while True:
        await asyncio.to_thread(_rotate_large, folder, bytes_max, failed)
        await asyncio.sleep(look_seconds)


def _rotate_large(folder: Path, bytes_max: int, failed: set[Path]) -> None:
    """Rotate logs that are too large. A failure, for example a full disk, is logged once per log and retried."""
    for log in folder.glob("*.log"):
        try:
            if log.stat().st_size > bytes_max:
                _rotate(log)
                failed.discard(log)
        except OSError as exc:
            if log not in failed:
                _log.warning(
                    "A log file cannot be rotated. Trying again; check the free disk space.",
                    extra={"path": str(log), "error": exc.strerror},
                )
            failed.add(log)


def _rotate(log: Path) -> None:
    """Copy a log to `*.log.1` and truncate it.

    The log keeps its inode, because the programs have it open for appending. A line written between the copy and the
    truncation is lost.
    """
    copy = log.with_suffix(".log.tmp")
    try:
        target = os.fdopen(open_private(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb")
        with target, log.open("r+b") as source:
            shutil.copyfileobj(source, target)
            target.flush()  # Raises on a full disk, before the log is truncated.
            source.truncate(0)
        copy.replace(log.with_suffix(".log.1"))
    finally:
        copy.unlink(missing_ok=True)
