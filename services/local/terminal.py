"""Terminal output of `make run`."""

import sys

from services.common.telemetry.line_writer import LineWriter

_WAITING_BYTES_MAX = 1024 * 1024
_FLUSH_SECONDS = 1.0


class Terminal:
    """Prints to standard output without blocking, even if the terminal is closed or a pipe is not read."""

    def __init__(self) -> None:
        self._writer = LineWriter(sys.stdout.fileno(), bytes_max=_WAITING_BYTES_MAX, on_drop=lambda _: b"")

    def print(self, text: str) -> None:
        """Print one or more lines."""
        self._writer.write(f"{text}\n".encode())

    def flush(self) -> None:
        """Wait until all output is written, for at most one second."""
        self._writer.flush(timeout_seconds=_FLUSH_SECONDS)
