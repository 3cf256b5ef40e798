"""A lock with two priorities."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class PriorityLock:
    """A mutex that urgent waiters acquire before all others. For use on one event loop."""

    def __init__(self) -> None:
        self._is_held = False
        self._waiting: dict[bool, deque[asyncio.Future[None]]] = {True: deque(), False: deque()}

    @asynccontextmanager
    async def hold(self, *, is_urgent: bool) -> AsyncIterator[None]:
        """Hold the lock until the end of the block."""
        await self._acquire(is_urgent)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, is_urgent: bool) -> None:
        if not self._is_held:
            self._is_held = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[is_urgent].append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # It received the lock just before the cancellation.
                self._release()
            raise

    def _release(self) -> None:
        for queue in (self._waiting[True], self._waiting[False]):
            while queue:
                turn = queue.popleft()
                if not turn.cancelled():
                    turn.set_result(None)
                    return
        self._is_held = False
