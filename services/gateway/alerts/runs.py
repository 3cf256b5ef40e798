"""The periodic run over all keys that were used."""

import asyncio
import logging

from services.common.errors import ServiceError
from services.gateway.alerts.checks import alerts_of
from services.gateway.alerts.events import event_body
from services.gateway.alerts.model import ActiveKey, AlertRecords, AlertRun, AlertUsage, LimitCounts, Subject

_log = logging.getLogger(__name__)
_PAGE = 100
_ALERTS_MAX = 100


class AlertRuns:
    """Checks keys while auth gives this gateway the run."""

    def __init__(self, records: AlertRecords, usage: AlertUsage, counts: LimitCounts, *, interval_seconds: int) -> None:
        self._records = records
        self._usage = usage
        self._counts = counts
        self._interval_seconds = interval_seconds

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await asyncio.sleep(self._interval_seconds / 2)
            try:
                await self.run_once()
            except ServiceError as exc:
                # The lease of the run ends, and the next one begins with the same time.
                _log.warning("Alerts to owners are delayed. Trying again.", extra={"reason": exc.reason})

    async def run_once(self) -> None:
        """Make a run, if one is due.

        Raises:
            ServiceError: A service does not answer. What was recorded stays.
        """
        run = await self._records.begin_run(self._interval_seconds)
        if run is None:
            return
        is_complete = False
        try:
            await self._check_all(run)
            await self._send_all()
            is_complete = True
        finally:
            await self._records.end_run(run.id, is_complete=is_complete)

    async def _check_all(self, run: AlertRun) -> None:
        after, is_last = "", False
        while not is_last:
            page = await self._usage.active_keys(run.since, after=after, count=_PAGE)
            active = {key.key_id: key for key in page}
            for subject in await self._records.subjects(list(active)) if active else ():
                await self._check(subject, active[subject.principal.key_id], run)
            is_last, after = len(page) < _PAGE, page[-1].key_id if page else ""

    async def _check(self, subject: Subject, active: ActiveKey, run: AlertRun) -> None:
        limits = await self._counts.limits(subject.principal)
        if alerts := alerts_of(subject, active, limits, since=run.since):
            await self._records.record(alerts[:_ALERTS_MAX])

    async def _send_all(self) -> None:
        """Hand the alerts for webhooks over to inference, which sends them."""
        while unsent := await self._records.unsent():
            for alert in unsent:
                await self._usage.send(alert.account_id, alert.id, event_body(alert))
            await self._records.confirm([alert.id for alert in unsent])
