"""Events on their way to a caller who may be slow or gone."""

import asyncio

from services.common.errors import InternalError
from services.inference.chat import Members, Verdict


class Outbox:
    """One stream's events and how it ended; what waits together is taken together."""

    def __init__(self) -> None:
        """Start empty."""
        self._events: list[Members] = []
        self._news = asyncio.Event()
        self._closed = False
        self._verdict: Verdict | None = None
        self._error: BaseException | None = None
        self.is_unheard = True
        """Nothing was ever put in."""

    def put(self, events: list[Members]) -> None:
        """Add events; none is nothing new."""
        self._events += events
        if events:
            self.is_unheard = False
            self._news.set()

    def end(self, verdict: Verdict | None) -> None:
        """Say the verdict, before the task that fills the outbox ends."""
        self._verdict = verdict

    def close(self, task: "asyncio.Task[None]") -> None:
        """Close when the task that fills it is done, however it ended."""
        self._error = InternalError("the service stopped") if task.cancelled() else task.exception()
        self._closed = True
        self._news.set()

    async def take(self) -> list[Members] | None:
        """Return all that waits, at least one event; None when the stream ended well."""
        while not self._events:
            if self._closed:
                if self._error is not None:
                    raise self._error
                return None
            self._news.clear()
            await self._news.wait()
        events, self._events = self._events, []
        return events

    def verdict(self) -> Verdict | None:
        """Return the verdict, once `take` has returned None."""
        return self._verdict
