"""Reads whose failure leaves a part of a page unknown. Pages say so, because unknown is not zero."""

import logging
from collections.abc import Awaitable
from typing import TypeVar

from services.common.errors import DeadlineExceeded, InternalError, ServiceError, Unavailable

T = TypeVar("T")
_log = logging.getLogger(__name__)


async def or_none(read: Awaitable[T], *further: type[ServiceError]) -> T | None:
    """Return what a service answers; None if it is not known at the moment, or fails with one of `further`."""
    unknown: tuple[type[ServiceError], ...] = (Unavailable, DeadlineExceeded, InternalError, *further)
    try:
        return await read
    except unknown as exc:
        _log.warning("A page is shown without a part that could not be read.", extra={"reason": exc.reason})
        return None
