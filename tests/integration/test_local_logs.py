"""Logs that are rotated while their program writes."""

import asyncio
import contextlib
import sys
from pathlib import Path

from services.local.supervisor.child import Child, Program
from services.local.supervisor.logs import keep_rotating

_LINES = 200_000
_WRITER = f"""
import time
for number in range({_LINES}):
    print(f"{{number:09d}}", flush=True)
    if number % 1000 == 0:
        time.sleep(0.005)
"""
_BYTES_MAX = 200_000


async def test_a_log_stays_small_while_its_program_writes_and_keeps_the_latest_lines(tmp_path: Path) -> None:
    log = tmp_path / "writer.log"
    child = Child(Program("writer", (sys.executable, "-c", _WRITER)), log=log)
    await child.start()
    rotating = asyncio.create_task(keep_rotating(tmp_path, bytes_max=_BYTES_MAX, look_seconds=0.005))
    largest = 0
    ended = asyncio.create_task(child.wait())
    while not ended.done():
        largest = max(largest, _bytes(tmp_path))
        await asyncio.sleep(0.01)
    rotating.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await rotating
    assert largest < _LINES * 10 / 2, "half of all that was written"
    assert _names(tmp_path) == {"writer.log", "writer.log.1"}
    lines = (log.with_suffix(".log.1").read_text() + log.read_text()).splitlines()
    kept = [int(line) for line in lines if len(line) == 9]
    assert len(lines) - len(kept) <= 2, "only lines written at the moment of the rotation are broken"
    assert kept[-1] == _LINES - 1
    assert kept == sorted(set(kept))
    assert len(kept) * 10 > _BYTES_MAX


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _bytes(folder: Path) -> int:
    """Return the size of a folder's files; one may be replaced meanwhile."""
    sizes = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return sum(sizes)
