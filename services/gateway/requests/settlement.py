"""Settles holds: by inference's verdict, or by the ledger row of a request that was abandoned."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import suppress
from typing import Any, Self

from services.common.errors import ServiceError
from services.common.verdict import CHARGED, RELEASED, RowVerdict, Verdict
from services.gateway.metrics import ABANDONED, UNSETTLED
from services.gateway.requests.ports import Inference, Quota
from services.gateway.requests.types import Client, Departure, Hold

_log = logging.getLogger(__name__)
_RETRY_SECONDS = (0.1, 0.3, 1.0, 3.0)
"""Pauses between attempts to settle a hold."""
_LOOK_UP_SECONDS = (0.05, 0.2, 0.5, 1.0, 2.0)
"""Pauses between look-ups of an abandoned request's row; short at first, since most rows are written immediately."""
_LOOK_UP_SECONDS_MAX = 5.0
_ABANDONED_MAX = 10_000
"""Maximum abandoned requests whose rows are looked up. They take 2.5 KB each."""


class Settlements:
    """Settles holds in the background."""

    def __init__(
        self, quota: Quota, inference: Inference, *, abandoned_seconds: float, abandoned_max: int = _ABANDONED_MAX
    ) -> None:
        """Create a settler of holds.

        Args:
            quota: Settles holds.
            inference: Resolves abandoned requests.
            abandoned_seconds: How long a row is looked up. Longer than a request may take.
            abandoned_max: Maximum abandoned requests whose rows are looked up; quota's sweeper closes the others.
        """
        self._quota = quota
        self._inference = inference
        self._abandoned_max = abandoned_max
        self._abandoned_seconds = abandoned_seconds
        self._settling: set[asyncio.Future[None]] = set()
        self._abandoned: set[asyncio.Future[None]] = set()
        ABANDONED.set_function(lambda: len(self._abandoned))

    def settle_failed(self, hold: Hold, verdict: Verdict | None) -> None:
        """Close the hold of a request that failed with this verdict."""
        if verdict is Verdict.RELEASED:
            self.settle(hold, RELEASED)
        elif verdict is Verdict.CHARGED and hold.held is None:
            self.settle(hold, CHARGED)
        else:  # Only the ledger row says how much is charged.
            self.abandon(hold, None)

    def settle(self, hold: Hold, verdict: RowVerdict | None) -> None:
        """Close a hold by its verdict; without a verdict, by the request's ledger row."""
        if verdict is None:
            self.abandon(hold, None)
        else:
            settled = self._quota.settle(hold, verdict)
            self._settling.add(settled)
            settled.add_done_callback(lambda _: self._on_settled(hold, verdict, settled))

    def abandon(self, hold: Hold, departure: Departure | None) -> None:
        """Close a hold by the request's ledger row, as soon as there is one.

        Args:
            hold: The hold of a request whose verdict does not arrive here.
            departure: Why the answer does not reach the client; None when the call to inference failed.
        """
        if len(self._abandoned) < self._abandoned_max:
            _spawn(self._settle_by_row(hold, departure), self._abandoned)
        else:
            _leave_to_sweeper(hold)

    async def drain(self, *, timeout_seconds: float) -> None:
        """Wait for reserves and settles in flight; quota's sweeper closes what is left."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._quota.drain()
                while self._settling:
                    await asyncio.wait(self._settling)
        for task in self._abandoned:
            task.cancel()

    async def _settle_by_row(self, hold: Hold, departure: Departure | None) -> None:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._abandoned_seconds
        pauses = iter(_LOOK_UP_SECONDS)
        while loop.time() < ends_at:
            await asyncio.sleep(next(pauses, _LOOK_UP_SECONDS_MAX))
            with suppress(ServiceError):
                if verdict := await self._inference.resolve_abandoned(hold, departure):
                    await self._settle_until_answered(hold, verdict)
                    return
        _leave_to_sweeper(hold)

    def _on_settled(self, hold: Hold, verdict: RowVerdict, settled: "asyncio.Future[None]") -> None:
        self._settling.discard(settled)
        if not settled.cancelled() and (exc := settled.exception()):
            _spawn(self._settle_again(hold, verdict, exc), self._settling)

    async def _settle_until_answered(self, hold: Hold, verdict: RowVerdict) -> None:
        try:
            await self._quota.settle(hold, verdict)
        except ServiceError as exc:
            await self._settle_again(hold, verdict, exc)

    async def _settle_again(self, hold: Hold, verdict: RowVerdict, error: BaseException) -> None:
        for pause_seconds in _RETRY_SECONDS:
            facts = {"request_id": hold.request_id, "reason": getattr(error, "reason", type(error).__name__)}
            _log.warning("The hold could not be settled. Trying again.", extra=facts)
            await asyncio.sleep(pause_seconds)
            try:
                await self._quota.settle(hold, verdict)
            except ServiceError as exc:
                error = exc
            else:
                return
        _log.error("The hold could not be settled. The sweeper will close it.", extra={"request_id": hold.request_id})


class SettledStream:
    """The events of one answer. Its hold is settled when the stream ends or is closed.

    Iterating yields lists of JSON texts that arrived together.
    """

    def __init__(
        self,
        settlements: Settlements,
        parts: AsyncGenerator[list[bytes] | RowVerdict | None, None],
        hold: Hold,
        client: Client,
    ) -> None:
        self._settlements = settlements
        self._parts = parts
        self._hold = hold
        self._client = client
        self._is_settled = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[bytes]:
        """Return the next events.

        Raises:
            ServiceError: Inference refused or failed, before or after some events.
        """
        try:
            async for part in self._parts:
                if isinstance(part, list):
                    return part
                self._is_settled = True
                self._settlements.settle(self._hold, part)
        except ServiceError as exc:
            self._is_settled = True
            self._settlements.settle_failed(self._hold, exc.details.verdict)
            raise
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the call. A request without a verdict is abandoned, even if nothing was read."""
        try:
            await self._parts.aclose()
        finally:
            if not self._is_settled:
                self._is_settled = True
                self._settlements.abandon(self._hold, self._client.departure)


def _leave_to_sweeper(hold: Hold) -> None:
    UNSETTLED.inc()
    _log.warning("No verdict. The sweeper will close the hold.", extra={"request_id": hold.request_id})


def _spawn(work: Coroutine[Any, Any, None], tasks: "set[asyncio.Future[None]]") -> None:
    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
