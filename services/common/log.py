"""Logs as JSON lines on standard error; never a key, a prompt or an answer in them."""

import logging
import sys

from pythonjsonlogger.msgspec import MsgspecFormatter

from services.common import tracing


def set_up(service: str, level: str) -> None:
    """Write our log records of `level` and above, and libraries' warnings, as JSON lines that name the service."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_with_trace)
    handler.setFormatter(
        MsgspecFormatter(
            "{levelname}{name}{message}",
            style="{",
            rename_fields={"levelname": "level", "name": "logger"},
            static_fields={"service": service},
            timestamp="time",
        )
    )
    # Libraries tell of their warnings alone: below, some write whole requests, and with them prompts and keys.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("services").setLevel(level)


def _with_trace(record: logging.LogRecord) -> bool:
    if trace_id := tracing.trace_id():
        record.trace_id = trace_id
    return True
