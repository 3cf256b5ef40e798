"""Periodic removal of expired rows. Correctness does not depend on it, only the size of the database."""

import asyncio
import logging
from datetime import datetime
from typing import Protocol

from services.common.errors import ServiceError
from services.common.runtime.clock import Clock, utc_now

_INTERVAL_SECONDS = 600
_log = logging.getLogger(__name__)


class ExpiredRows(Protocol):
    """Interface of a store with expired rows."""

    async def remove_expired(self, now: datetime) -> None:
        """Remove the rows that have expired by `now`."""


async def purge_periodically(store: ExpiredRows, clock: Clock) -> None:
    """Remove expired rows every ten minutes, until cancelled."""
    while True:
        try:
            await store.remove_expired(utc_now(clock))
        except ServiceError as exc:
            _log.warning(
                "Expired rows could not be removed. The next attempt is in 10 minutes.", extra={"reason": exc.reason}
            )
        await asyncio.sleep(_INTERVAL_SECONDS)
