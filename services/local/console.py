"""What the runner tells the person who started it, on standard output."""

import sys

from services.common.telemetry.line_writer import LineWriter

_WAITING_BYTES_MAX = 1024 * 1024
_FLUSH_SECONDS = 1.0


class Console:
    """Prints lines without ever waiting: the terminal may be gone, or a pipe that is not read."""

    def __init__(self) -> None:
        self._writer = LineWriter(sys.stdout.fileno(), bytes_max=_WAITING_BYTES_MAX, on_drop=lambda _: b"")

    def say(self, text: str) -> None:
        """Print a line, or several."""
        self._writer.write(f"{text}\n".encode())

    def flush(self) -> None:
        """Wait until all is printed, for a second at most."""
        self._writer.flush(timeout_seconds=_FLUSH_SECONDS)
