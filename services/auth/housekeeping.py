"""Removing what is over, now and then; nothing depends on it but the size of the database."""

import asyncio
import logging
from datetime import datetime
from typing import Protocol

from services.common.errors import ServiceError
from services.common.runtime.clock import Clock, utc_now

_EVERY_SECONDS = 600
_log = logging.getLogger(__name__)


class ExpiredRows(Protocol):
    """Where things lie whose time is over."""

    async def remove_expired(self, now: datetime) -> None:
        """Remove them."""


async def purge_periodically(past: ExpiredRows, clock: Clock) -> None:
    """Remove what is over every ten minutes, until cancelled."""
    while True:
        try:
            await past.remove_expired(utc_now(clock))
        except ServiceError as exc:
            _log.warning("housekeeping failed", extra={"reason": exc.reason})
        await asyncio.sleep(_EVERY_SECONDS)
