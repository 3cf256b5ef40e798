"""Terminal output of `make run`."""

import logging
import sys

from services.common.telemetry.line_writer import LineWriter

_WAITING_BYTES_MAX = 1024 * 1024
_FLUSH_SECONDS = 1.0
_FIELDS = ("path", "error")
"""Names in `extra` that the supervisor's modules use."""


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


class TerminalHandler(logging.Handler):
    """Prints log records: the level, the message and the fields of `extra` that explain it."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        fields = {name: value for name, value in record.__dict__.items() if name in _FIELDS}
        details = "".join(f" {name}={value}" for name, value in fields.items())
        self._terminal.print(f"{record.levelname}: {self.format(record)}{details}")
