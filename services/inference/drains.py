"""Reading on for callers that left, within bounds of time and number.

Groq neither stops nor forgives, so the usage is read to its end though nobody listens. Were that unbounded, leaving
callers could hold any number of connections to Groq open.
"""

import asyncio
import logging
from typing import Any

from services.inference.entry import Entry

_log = logging.getLogger(__name__)


class Drains:
    """The requests that are read on without a caller."""

    def __init__(self, *, drains_max: int, drain_seconds: float) -> None:
        """Allow so many at the same time, each for so long."""
        self._drains_max = drains_max
        self._drain_seconds = drain_seconds
        self._count = 0

    def take(self, entry: Entry, task: "asyncio.Task[Any]") -> None:
        """Let a request's task go on without its caller, or end it when the bound is reached; it writes its row."""
        entry.caller_left = True
        if self._count >= self._drains_max:
            _log.warning("too many callers left; a request is given up", extra={"drains": self._count})
            _give_up(entry, task)
            return
        self._count += 1
        timer = asyncio.get_running_loop().call_later(self._drain_seconds, _give_up, entry, task)
        task.add_done_callback(lambda _: self._end(timer))

    def _end(self, timer: asyncio.TimerHandle) -> None:
        timer.cancel()
        self._count -= 1


def _give_up(entry: Entry, task: "asyncio.Task[Any]") -> None:
    entry.is_given_up = True
    task.cancel()
