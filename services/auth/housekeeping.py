"""Removing what is over, now and then; nothing depends on it but the size of the database."""

import asyncio
import logging
from datetime import datetime
from typing import Protocol

from services.common.clock import Clock, utc_now
from services.common.errors import ServiceError

_EVERY_SECONDS = 600
_log = logging.getLogger(__name__)


class Past(Protocol):
    """Where things lie whose time is over."""

    async def remove_past(self, now: datetime) -> None:
        """Remove them."""


async def keep_house(past: Past, clock: Clock) -> None:
    """Remove what is over every ten minutes, until cancelled."""
    while True:
        try:
            await past.remove_past(utc_now(clock))
        except ServiceError as exc:
            _log.warning("housekeeping failed", extra={"reason": exc.reason})
        await asyncio.sleep(_EVERY_SECONDS)
