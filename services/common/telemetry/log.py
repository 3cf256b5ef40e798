"""Logs as JSON lines on stderr. They never contain keys, prompts or answers.

A thread writes them, because stderr may be a pipe that is not read, and the event loop must not block on it.
"""

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import msgspec
from prometheus_client import Counter

from services.common.telemetry import tracing
from services.common.telemetry.line_writer import LineWriter

_STANDARD_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
"""Attributes of every record. All others come from `extra`."""

_WAITING_BYTES_MAX = 1024 * 1024
_TEXT_CHARACTERS_MAX = 1_000
_FRAMES_MAX = 20
_CAUSES_MAX = 5
_EXCEPTION_ATTRIBUTES = ("errno", "sqlstate", "status", "reason")
"""Attributes of exceptions that describe a failure and never contain request data."""
_FLUSH_SECONDS = 1.0
"""Maximum wait for a slow reader at the end of a process."""

_DROPPED = Counter("stack_log_records_dropped_total", "Log records lost because stderr was not read.")

_encode = msgspec.json.Encoder(enc_hook=str).encode


def set_up(service: str, level: str) -> None:
    """Log the services' records of `level` and above, and libraries' warnings, as JSON lines that name the service."""
    # The output does not contain these, and they cost time for each record (Python's logging documentation,
    # "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    handler = QueueingHandler(sys.stderr.fileno())
    handler.setFormatter(JSONLine(service))
    # Below WARNING, some libraries log whole requests, with prompts and keys.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("services").setLevel(level)
    logging.captureWarnings(True)  # Otherwise they are written to stderr directly.


def flush() -> None:
    """Wait until all records are written, for at most a second."""
    for handler in logging.getLogger().handlers:
        handler.flush()


class QueueingHandler(logging.Handler):
    """Formats records in the calling thread and writes them in another thread."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._writer = LineWriter(descriptor, bytes_max=_WAITING_BYTES_MAX, on_drop=self._dropped)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record for writing, or count it as dropped if the queue is full."""
        try:
            line = self.format(record)
        except Exception as exc:
            # `handleError` would write to stderr in this thread, and the arguments may contain a secret.
            members = {"level": "ERROR", "logger": record.name, "message": "Cannot format a log record"}
            line = _encode({**members, "error": type(exc).__name__}).decode()
        if not self._writer.write(line.encode() + b"\n"):
            _DROPPED.inc()

    def flush(self) -> None:
        self._writer.flush(timeout_seconds=_FLUSH_SECONDS)

    def _dropped(self, records: int) -> bytes:
        values = {
            "name": __name__,
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "msg": "Log records dropped because stderr was not read",
            "records": records,
        }
        return self.format(logging.makeLogRecord(values)).encode() + b"\n"


class JSONLine(logging.Formatter):
    """Formats a record as a JSON object: level, logger, message, service, the fields of `extra`, and the time."""

    def __init__(self, service: str) -> None:
        """Create a formatter that adds `service` to every line."""
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a newline."""
        line: dict[str, Any] = {
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
            "service": self._service,
        }
        for name, value in record.__dict__.items():
            if name not in _STANDARD_ATTRIBUTES:
                line[name] = _truncated(value) if isinstance(value, str) else value
        if record.exc_info and record.exc_info[1]:
            line["exc_info"] = failure(record.exc_info[1])
        if trace_id := tracing.trace_id():
            line["trace_id"] = trace_id
        line["time"] = datetime.fromtimestamp(record.created, UTC)
        return _encode(line).decode()


def failure(exc: BaseException) -> str:
    """Return an exception and its causes, with stack traces but without messages.

    A message may contain data from a client, Groq or a database, such as a prompt, a key or an e-mail address.
    """
    causes: list[BaseException] = []
    cause: BaseException | None = exc
    while cause is not None and len(causes) < _CAUSES_MAX:
        causes.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\nwhich led to\n".join(_stack_of(cause) for cause in reversed(causes))


def _stack_of(exc: BaseException) -> str:
    values = {name: getattr(exc, name, None) for name in _EXCEPTION_ATTRIBUTES}
    shown = "".join(f" {name}={_truncated(str(value))}" for name, value in values.items() if value)
    frames = "".join(traceback.format_tb(exc.__traceback__, limit=-_FRAMES_MAX))
    return f"{frames}{type(exc).__module__}.{type(exc).__qualname__}{shown}"


def _message(record: logging.LogRecord) -> str:
    """Return a record's message, of a library only its first line: asyncio logs exceptions in the following lines."""
    message = record.getMessage()
    return _truncated(message if record.name.startswith("services") else message.partition("\n")[0])


def _truncated(text: str) -> str:
    return text if len(text) <= _TEXT_CHARACTERS_MAX else text[:_TEXT_CHARACTERS_MAX] + "…"
