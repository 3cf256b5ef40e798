"""Numbers of refused requests of known keys, which are sent to quota once a second.

A refused request gets an error before it reaches inference, so that it has no ledger row. The numbers are statistics:
they never delay or fail a request, and nothing is done for a request that is not refused. While quota is unavailable,
they are kept up to a limit, and dropped beyond it.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Protocol

from services.common.errors import ServiceError, Unavailable
from services.common.runtime.clock import Clock
from services.gateway.http.errors import HTTPError
from services.gateway.metrics import REFUSALS_DROPPED
from services.gateway.requests.types import CountedKey

_log = logging.getLogger(__name__)
_SEND_SECONDS = 1.0
_ITEMS_MAX = 1_000
"""Maximum numbers in one call."""
_WAITING_MAX = 10_000
_PERIOD_SECONDS = 300.0
"""Refusals of different periods are separate while they wait, so that those of an outage get their hours."""


@dataclass(frozen=True, slots=True)
class RefusedRequests:
    """A number of requests of one key that were refused for the same reason at about the same time."""

    key: CountedKey
    status: int
    """HTTP status."""
    code: str
    """`error.code`; empty if the error has none."""
    count: int
    age_seconds: float
    """Time since the last of them."""


class RefusalRecord(Protocol):
    """Records refused requests."""

    async def record(self, refusals: Sequence[RefusedRequests]) -> None:
        """Add numbers.

        Raises:
            ServiceError: They could not be added, or there was no answer.
        """


class _Reason(NamedTuple):
    key: CountedKey
    status: int
    code: str
    period: float


@dataclass(slots=True)
class _Sum:
    count: int
    last_at: float


class Refusals:
    """Counts refused requests, and sends the numbers."""

    def __init__(self, record: RefusalRecord, clock: Clock) -> None:
        """Send to `record`."""
        self._record = record
        self._clock = clock
        self._waiting: dict[_Reason, _Sum] = {}
        self._has_waiting = asyncio.Event()
        self._sending = asyncio.Lock()

    def count(self, key: CountedKey, error: HTTPError) -> None:
        """Count a refused request."""
        now = self._clock.monotonic()
        self._add(_Reason(key, error.status, error.code or "", now // _PERIOD_SECONDS), 1, now)

    async def run(self) -> None:
        """Send the numbers, at most once a second, until cancelled."""
        while True:
            await self._has_waiting.wait()
            await asyncio.sleep(_SEND_SECONDS)
            await self._send()

    async def drain(self, *, timeout_seconds: float) -> None:
        """Send what waits, once, within a time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._send()

    def _add(self, reason: _Reason, count: int, at: float) -> None:
        found = self._waiting.get(reason)
        if found is not None:
            found.count += count
            found.last_at = max(found.last_at, at)
        elif len(self._waiting) < _WAITING_MAX:
            self._waiting[reason] = _Sum(count, at)
            self._has_waiting.set()
        else:
            REFUSALS_DROPPED.inc(count)

    async def _send(self) -> None:
        """Send the oldest numbers. Those that could not be sent wait again."""
        async with self._sending:
            taken = {reason: self._waiting.pop(reason) for reason in list(islice(self._waiting, _ITEMS_MAX))}
            if not self._waiting:
                self._has_waiting.clear()
            if not taken:
                return
            now = self._clock.monotonic()
            try:
                await self._record.record([_refused(reason, one, now) for reason, one in taken.items()])
            except Unavailable:
                for reason, one in taken.items():
                    self._add(reason, one.count, one.last_at)
            except ServiceError as exc:  # Sending them again would not help.
                REFUSALS_DROPPED.inc(sum(one.count for one in taken.values()))
                _log.warning("Refused requests could not be counted.", extra={"reason": exc.reason})


def _refused(reason: _Reason, found: _Sum, now: float) -> RefusedRequests:
    return RefusedRequests(reason.key, reason.status, reason.code, found.count, max(0.0, now - found.last_at))
