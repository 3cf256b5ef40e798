"""Output from a thread of its own, so that a reader who is slow, stuck or gone never holds up an event loop."""

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

_CHUNK_BYTES = 64 * 1024
_FLUSH_POLL_SECONDS = 0.001
_GATHER_SECONDS = 0.005
"""Waking the thread for each line costs 10 µs of CPU, as much as formatting it; lines of the same moment share it."""


class LineWriter:
    """Writes lines to a file descriptor, in order. Calls to `write` come one at a time; a logging handler's do.

    Args:
        descriptor: Where to write; it stays open.
        bytes_max: Most bytes that wait; further lines are dropped.
        on_drop: Called in the thread with the number of lines that were dropped, once there is room again; returns the
            line that reports them.
    """

    def __init__(self, descriptor: int, *, bytes_max: int, on_drop: Callable[[int], bytes]) -> None:
        self._descriptor = descriptor
        self._bytes_max = bytes_max
        self._on_drop = on_drop
        self._lines: deque[bytes] = deque()
        # Each of these four has one writer: the callers have two, and the thread has two.
        self._added = self._dropped = 0
        self._done = self._reported = 0
        self._news = threading.Event()
        threading.Thread(target=self._run, name="line-writer", daemon=True).start()

    def write(self, line: bytes) -> bool:
        """Have a line written, its newline included; false when it was dropped because too much waits."""
        if self._added - self._done + len(line) > self._bytes_max:
            self._dropped += 1
            return False
        self._added += len(line)
        self._lines.append(line)
        if not self._news.is_set():
            self._news.set()
        return True

    def flush(self, *, timeout_seconds: float) -> bool:
        """Return when all is written, or after `timeout_seconds`; then false."""
        ends = time.monotonic() + timeout_seconds
        while self._done != self._added:
            if time.monotonic() > ends:
                return False
            time.sleep(_FLUSH_POLL_SECONDS)
        return True

    def _run(self) -> None:
        while True:
            self._news.wait()
            time.sleep(_GATHER_SECONDS)
            self._news.clear()
            while self._lines:
                chunk = self._take()
                self._write(chunk)
                self._done += len(chunk)
                self._report()

    def _take(self) -> bytes:
        lines = [self._lines.popleft()]
        size = len(lines[0])
        while self._lines and size + len(self._lines[0]) <= _CHUNK_BYTES:
            lines.append(self._lines.popleft())
            size += len(lines[-1])
        return b"".join(lines)

    def _report(self) -> None:
        """Say how many lines were dropped: their reader must know that there is a gap."""
        if (dropped := self._dropped) != self._reported:
            self._write(self._on_drop(dropped - self._reported))
            self._reported = dropped

    def _write(self, data: bytes) -> None:
        """Write all of it, however long that takes; a reader who is gone, or a full disk, loses it."""
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError:
                return
