"""A time-out that is put off again and again, for next to nothing."""

import asyncio
from types import TracebackType
from typing import Self

_SLACK = 1 / 16
"""By how much of its length a silence may last longer; in return most noises cost no more than a look at the clock."""


class Silence:
    """Ends its block with `TimeoutError` when nothing was heard for a while."""

    def __init__(self, seconds_max: float) -> None:
        """Bear `seconds_max` of silence, and up to a sixteenth more."""
        self._seconds_max = seconds_max
        self._timeout = asyncio.timeout(seconds_max)
        self._noted_until = 0.0

    def broken(self) -> None:
        """Note that something was heard."""
        now = asyncio.get_running_loop().time()
        if now > self._noted_until:
            self._noted_until = now + self._seconds_max * _SLACK
            self._timeout.reschedule(self._noted_until + self._seconds_max)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self._timeout.__aexit__(exc_type, exc_val, exc_tb)
