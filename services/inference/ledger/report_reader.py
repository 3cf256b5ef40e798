"""Reads reports from the ledger's database."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from services.inference.ledger import report_queries
from services.inference.ledger.reports import (
    HOUR,
    LATENCY_ROWS_MAX,
    SUMMED_ROWS_MAX,
    Latency,
    Report,
    ReportQuery,
    Step,
    UsageSums,
)


class ReportReader:
    """Reads reports in one transaction."""

    def __init__(self, connection: AsyncConnection, has_rollups: bool) -> None:
        """Read over `connection`. `has_rollups` is whether the roll-ups are complete."""
        self._connection = connection
        self._has_rollups = has_rollups

    async def read(self, query: ReportQuery) -> Report:
        """Return a report."""
        rows = await self._connection.execute(report_queries.sums(query, has_rollups=self._has_rollups))
        sums = [_sums(query, *row) for row in rows]
        is_of_rows = not (self._has_rollups and query.is_of_hours)
        is_partial = is_of_rows and await self._has_more_rows(query, SUMMED_ROWS_MAX)
        if not query.with_latency:
            return Report(sums, is_partial=is_partial)
        is_latency_partial = await self._has_more_rows(query, LATENCY_ROWS_MAX)
        return Report(sums, await self._latencies(query), is_partial, is_latency_partial)

    async def _latencies(self, query: ReportQuery) -> Sequence[Latency]:
        of_all = (await self._connection.execute(report_queries.latency(query, by_value=False))).all()
        if not of_all or query.breakdown is None:
            return [Latency(*row) for row in of_all]
        by_value = await self._connection.execute(report_queries.latency(query, by_value=True))
        return [Latency(*row) for row in (*of_all, *by_value)]

    async def _has_more_rows(self, query: ReportQuery, rows_max: int) -> bool:
        return await self._connection.scalar(report_queries.has_more_rows(query, rows_max)) is not None


def _sums(query: ReportQuery, step: Any, value: str | None, cost: int | None, *counts: Any) -> UsageSums:
    # Sums have other types in Postgres.
    charged, released, failed, prompt, completion, total, cached, reasoning = map(int, counts)
    return UsageSums(
        *(_start(query, step), value, charged, released, failed),
        *(prompt, completion, total, cached, reasoning),
        None if cost is None else int(cost),
    )


def _start(query: ReportQuery, step: Any) -> int:
    if query.step is Step.WHOLE:
        return query.start
    if query.is_of_days:
        return int(datetime.fromisoformat(step).replace(tzinfo=UTC).timestamp())
    return int(step) * (HOUR if query.is_of_hours else Step.FIVE_MINUTES.value)
