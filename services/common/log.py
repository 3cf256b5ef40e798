"""Logs as JSON lines on standard error; never a key, a prompt or an answer in them."""

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

from services.common import tracing

_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
"""What every record has; all else on one was given with `extra`."""

_encode = msgspec.json.Encoder(enc_hook=str).encode


def set_up(service: str, level: str) -> None:
    """Write our log records of `level` and above, and libraries' warnings, as JSON lines that name the service."""
    # Nothing that is written tells these, and every record would pay for them (logging's own advice on speed).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONLine(service))
    # Libraries tell of their warnings alone: below, some write whole requests, and with them prompts and keys.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("services").setLevel(level)


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
            "message": record.getMessage(),
            "service": self._service,
        }
        line |= {name: value for name, value in record.__dict__.items() if name not in _OWN}
        if record.exc_info:
            line["exc_info"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack_info"] = record.stack_info
        if trace_id := tracing.trace_id():
            line["trace_id"] = trace_id
        line["time"] = datetime.fromtimestamp(record.created, UTC)
        return _encode(line).decode()
