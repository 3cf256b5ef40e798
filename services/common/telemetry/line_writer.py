"""Output through a thread, so that a slow or missing reader never blocks the event loop."""

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

_CHUNK_BYTES = 64 * 1024
_FLUSH_POLL_SECONDS = 0.001
_GATHER_SECONDS = 0.005
"""Waking the thread takes 10 µs of CPU, as much as formatting a line, so lines within this time share one wake-up."""


class LineWriter:
    """Writes lines to a file descriptor, in order. `write` is not thread-safe; logging handlers serialize their calls.

    Args:
        descriptor: File descriptor to write to. It is not closed.
        bytes_max: Maximum bytes that wait to be written. Further lines are dropped.
        on_drop: Called in the thread with the number of dropped lines, when there is space again. Returns a line that
            reports them.
    """

    def __init__(self, descriptor: int, *, bytes_max: int, on_drop: Callable[[int], bytes]) -> None:
        self._descriptor = descriptor
        self._bytes_max = bytes_max
        self._on_drop = on_drop
        self._lines: deque[bytes] = deque()
        # Each counter has a single writer: the first two are changed by callers, the others by the thread.
        self._added = self._dropped = 0
        self._done = self._reported = 0
        self._wake = threading.Event()
        threading.Thread(target=self._run, name="line-writer", daemon=True).start()

    def write(self, line: bytes) -> bool:
        """Queue a line, which must include its newline. Return false if it was dropped because the queue is full."""
        if self._added - self._done + len(line) > self._bytes_max:
            self._dropped += 1
            return False
        self._added += len(line)
        self._lines.append(line)
        if not self._wake.is_set():
            self._wake.set()
        return True

    def flush(self, *, timeout_seconds: float) -> bool:
        """Wait until all lines are written. Return false if that takes longer than `timeout_seconds`."""
        deadline = time.monotonic() + timeout_seconds
        while self._done != self._added:
            if time.monotonic() > deadline:
                return False
            time.sleep(_FLUSH_POLL_SECONDS)
        return True

    def _run(self) -> None:
        while True:
            self._wake.wait()
            time.sleep(_GATHER_SECONDS)
            self._wake.clear()
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
        """Write how many lines were dropped, so that readers notice the gap."""
        if (dropped := self._dropped) != self._reported:
            self._write(self._on_drop(dropped - self._reported))
            self._reported = dropped

    def _write(self, data: bytes) -> None:
        """Write all data, however long that takes. Data is lost if the reader is gone or the disk is full."""
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError:
                return
