"""Logs as JSON lines on standard error; never a key, a prompt or an answer in them.

A thread writes them: standard error may be a pipe that is not read, and the event loop must not wait for it.
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

_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
"""What every record has; all else on one was given with `extra`."""

_WAITING_BYTES_MAX = 1024 * 1024
_TEXT_CHARACTERS_MAX = 1_000
_FRAMES_MAX = 20
_CAUSES_MAX = 5
_FACTS = ("errno", "sqlstate", "status", "reason")
"""Attributes of exceptions that describe a failure and never what was sent."""
_FLUSH_SECONDS = 1.0
"""Longest wait at the end of a process for a reader that is slow."""

_DROPPED = Counter("stack_log_records_dropped_total", "Log records lost because standard error was not read.")

_encode = msgspec.json.Encoder(enc_hook=str).encode


def set_up(service: str, level: str) -> None:
    """Write our log records of `level` and above, and libraries' warnings, as JSON lines that name the service."""
    # Nothing that is written tells these, and every record would pay for them (logging's own advice on speed).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    handler = QueueingHandler(sys.stderr.fileno())
    handler.setFormatter(JSONLine(service))
    # Libraries tell of their warnings alone: below, some write whole requests, and with them prompts and keys.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("services").setLevel(level)
    logging.captureWarnings(True)  # Otherwise they are written to standard error directly.


def flush() -> None:
    """Wait until the records so far are written, for a second at most."""
    for handler in logging.getLogger().handlers:
        handler.flush()


class QueueingHandler(logging.Handler):
    """Formats records where they are logged, and leaves writing them to a thread."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._writer = LineWriter(descriptor, bytes_max=_WAITING_BYTES_MAX, on_drop=self._dropped)

    def emit(self, record: logging.LogRecord) -> None:
        """Have the record written; count it when there is no room for it."""
        try:
            line = self.format(record)
        except Exception as exc:
            # `handleError` would write to standard error from here, and what cannot be formatted may be a secret.
            members = {"level": "ERROR", "logger": record.name, "message": "cannot format a log record"}
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
            "msg": "log records dropped: standard error was not read",
            "records": records,
        }
        return self.format(logging.makeLogRecord(values)).encode() + b"\n"


class JSONLine(logging.Formatter):
    """A record as one JSON object: level, logger, message and service, what was given with it, and its time."""

    def __init__(self, service: str) -> None:
        """Name `service` in every line."""
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line: dict[str, Any] = {
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
            "service": self._service,
        }
        for name, value in record.__dict__.items():
            if name not in _OWN:
                line[name] = _cut(value) if isinstance(value, str) else value
        if record.exc_info and record.exc_info[1]:
            line["exc_info"] = failure(record.exc_info[1])
        if trace_id := tracing.trace_id():
            line["trace_id"] = trace_id
        line["time"] = datetime.fromtimestamp(record.created, UTC)
        return _encode(line).decode()


def failure(exc: BaseException) -> str:
    """Return an exception and its causes with their stacks, without their messages.

    A message may hold what a client, Groq or a database sent: a prompt, a key, an e-mail address.
    """
    causes: list[BaseException] = []
    cause: BaseException | None = exc
    while cause is not None and len(causes) < _CAUSES_MAX:
        causes.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\nwhich led to\n".join(_stack_of(one) for one in reversed(causes))


def _stack_of(exc: BaseException) -> str:
    facts = {name: getattr(exc, name, None) for name in _FACTS}
    shown = "".join(f" {name}={_cut(str(value))}" for name, value in facts.items() if value)
    frames = "".join(traceback.format_tb(exc.__traceback__, limit=-_FRAMES_MAX))
    return f"{frames}{type(exc).__module__}.{type(exc).__qualname__}{shown}"


def _message(record: logging.LogRecord) -> str:
    """Return a record's message. Of a library's only the first line: asyncio shows exceptions in the others."""
    message = record.getMessage()
    return _cut(message if record.name.startswith("services") else message.partition("\n")[0])


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT_CHARACTERS_MAX else text[:_TEXT_CHARACTERS_MAX] + "…"
