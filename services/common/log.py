"""Logs as JSON lines on standard error; never a key, a prompt or an answer in them."""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter


def set_up(service: str, level: str) -> None:
    """Write all log records of `level` and above as JSON lines that name the service."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            "{levelname}{name}{message}",
            style="{",
            rename_fields={"levelname": "level", "name": "logger"},
            static_fields={"service": service},
            timestamp="time",
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # These two tell of every statement and every request, at the level that we use for events.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
