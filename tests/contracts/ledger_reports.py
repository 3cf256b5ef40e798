"""The contract of `LedgerStore.report`, against sums that are computed from the same rows here."""

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from services.common.ids import Kind, first_id_prefix
from services.common.surface import Surface
from services.inference.chat import Outcome, Usage, UsageSource
from services.inference.ledger.reports import (
    DAY,
    HOUR,
    VALUES_MAX,
    Breakdown,
    Latency,
    ReportQuery,
    Step,
    UsageSums,
)
from services.inference.ledger.rollups import RollUps
from services.inference.ledger.store import SQLLedgerStore
from services.inference.ledger.writer import LedgerRow, RequestsPage
from tests.contracts.deadlines import LongDeadlines
from tests.contracts.ledger_store import ROW

START = int(datetime(2026, 8, 2, tzinfo=UTC).timestamp())
"""First of three days with rows."""
_FAILED = {Outcome.REFUSED, Outcome.UPSTREAM_FAILED, Outcome.CUT, Outcome.TIMED_OUT, Outcome.UNKNOWN}
_FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"key_id": "key_1"},
    {"model": "llama-3.1-8b-instant"},
    {"outcome": Outcome.CUT},
    {"surface": Surface.MESSAGES},
    {"key_id": "key_2", "model": "openai/gpt-oss-20b", "outcome": Outcome.ANSWERED, "surface": Surface.CHAT},
)
_RANGES = (
    (Step.DAY, START, START + 3 * DAY),
    (Step.WHOLE, START + DAY, START + 2 * DAY),
    (Step.HOUR, START + 5 * HOUR, START + 29 * HOUR),
    (Step.WHOLE, START + 5 * HOUR, START + 6 * HOUR),
    (Step.FIVE_MINUTES, START + 6 * HOUR - 900, START + 7 * HOUR - 900),
    (Step.WHOLE, START + 6 * HOUR - 900, START + 7 * HOUR - 900),
)


def row_at(number: int, at: float, **changes: object) -> LedgerRow:
    """Return a row with an id of its time."""
    request_id = f"{first_id_prefix(Kind.REQUEST, datetime.fromtimestamp(at, UTC))}{number:016}"
    day = datetime.fromtimestamp(at, UTC).date().isoformat()
    return replace(ROW, request_id=request_id, reserved_at=at, day=day, **changes)  # type: ignore[arg-type]


def some_rows(count: int, *, seed: int = 1) -> list[LedgerRow]:
    """Return rows of three days with all kinds of values, most of them within two hours."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        hours = chance.choice([chance.random() * 72, 5 + chance.random() * 2])
        tokens = chance.randrange(100)
        rows.append(
            row_at(
                number,
                START + round(hours * HOUR, 3),
                key_id=chance.choice(["key_1", "key_2"]),
                model=chance.choice(["llama-3.1-8b-instant", "openai/gpt-oss-20b", ""]),
                outcome=chance.choice(list(Outcome)),
                surface=chance.choice([*Surface, None]),
                charged=chance.random() < 0.7,
                cost=chance.choice([None, chance.randrange(1_000)]),
                usage=Usage(tokens, 1, tokens + 1, cached_tokens=tokens // 2, source=UsageSource.REPORTED),
                duration_ms=chance.randrange(5_000),
                time_to_first_token_ms=chance.choice([0, 1 + chance.randrange(900)]),
            )
        )
    return rows


def _matching(rows: Iterable[LedgerRow], query: ReportQuery) -> list[LedgerRow]:
    found = [row for row in rows if row.account_id == query.account_id and query.start <= row.reserved_at < query.end]
    for name in ("key_id", "model", "outcome", "surface"):
        if wanted := getattr(query, name):
            found = [row for row in found if getattr(row, name) == wanted]
    return found


def _value(row: LedgerRow, query: ReportQuery) -> str | None:
    return None if query.breakdown is None else str(getattr(row, query.breakdown.value) or "")


def _expected(rows: Iterable[LedgerRow], query: ReportQuery) -> list[UsageSums]:
    groups: dict[tuple[int, str], list[LedgerRow]] = defaultdict(list)
    for row in _matching(rows, query):
        step = query.step.value
        start = query.start if not step else int(row.reserved_at // step * step)
        groups[start, _value(row, query) or ""].append(row)
    return [
        UsageSums(
            start,
            None if query.breakdown is None else value,
            sum(row.charged for row in group),
            sum(not row.charged for row in group),
            sum(row.outcome in _FAILED for row in group),
            sum(row.usage.prompt_tokens for row in group),
            sum(row.usage.completion_tokens for row in group),
            sum(row.usage.total_tokens for row in group),
            sum(row.usage.cached_tokens for row in group),
            sum(row.usage.reasoning_tokens for row in group),
            sum(row.cost or 0 for row in group) if any(row.cost is not None for row in group) else None,
        )
        for (start, value), group in sorted(groups.items())
    ]


def _latency(value: str | None, rows: Sequence[LedgerRow]) -> Latency:
    durations = sorted(row.duration_ms for row in rows)
    firsts = sorted(row.time_to_first_token_ms for row in rows if row.time_to_first_token_ms)

    def percentile(amounts: Sequence[int], share: float) -> int | None:
        return amounts[math.ceil(share * len(amounts)) - 1] if amounts else None

    of_duration = [percentile(durations, share) or 0 for share in (0.5, 0.95)]
    return Latency(value, len(rows), *of_duration, *(percentile(firsts, share) for share in (0.5, 0.95)))


class ReportsContract(LongDeadlines):
    """The contract of reports."""

    @pytest.mark.parametrize("breakdown", [None, *(pytest.param(one, marks=pytest.mark.long) for one in Breakdown)])
    async def test_sums_and_latencies_are_those_of_the_rows(
        self, store: SQLLedgerStore, breakdown: Breakdown | None
    ) -> None:
        rows = some_rows(400)
        await store.insert([*rows[:200], replace(rows[0], request_id="req_other", account_id="acc_2")])
        await RollUps(store.transactions, store._writer).fold(10_000)
        await store.insert(rows[200:])
        for step, start, end in _RANGES:
            for wanted in _FILTERS:
                query = ReportQuery(
                    account_id="acc_1",
                    **wanted,
                    start=start,
                    end=end,
                    step=step,
                    breakdown=breakdown,
                    with_latency=True,
                )
                report = await store.report(query)
                assert list(report.sums) == _expected(rows, query), query
                assert not report.is_partial
                assert not report.is_latency_partial
                self._check_latencies(report.latencies, _matching(rows, query), query)

    @staticmethod
    def _check_latencies(found: Sequence[Latency], rows: Sequence[LedgerRow], query: ReportQuery) -> None:
        if not rows:
            assert list(found) == []
            return
        assert found[0] == _latency(None, rows)
        groups: dict[str, list[LedgerRow]] = defaultdict(list)
        for row in rows if query.breakdown else ():
            groups[_value(row, query) or ""].append(row)
        by_value = sorted((_latency(*one) for one in groups.items()), key=lambda one: (-one.requests, one.value or ""))
        assert list(found[1:]) == by_value

    async def test_values_beyond_the_most_frequent_hundred_are_summed_together(self, store: SQLLedgerStore) -> None:
        often = [
            row_at(number, START + number, model=f"m-{number % VALUES_MAX:03}") for number in range(2 * VALUES_MAX)
        ]
        rarely = [row_at(1_000 + number, START + number, model=f"a-{number}") for number in range(7)]
        await store.insert([*often, *rarely])

        query = ReportQuery(account_id="acc_1", start=START, end=START + DAY, breakdown=Breakdown.MODEL)
        sums = (await store.report(query)).sums

        by_value = {one.value: one.charged_requests for one in sums}
        expected: dict[str | None, int] = {f"m-{number:03}": 2 for number in range(VALUES_MAX)}
        assert by_value == expected | {None: 7}

    async def test_a_bounded_number_of_the_newest_rows_is_read_and_the_report_says_so(
        self, store: SQLLedgerStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in ("report_queries", "report_reader"):
            monkeypatch.setattr(f"services.inference.ledger.{module}.LATENCY_ROWS_MAX", 10)
            monkeypatch.setattr(f"services.inference.ledger.{module}.SUMMED_ROWS_MAX", 20)
        rows = [row_at(number, START + number, duration_ms=1_000 - number) for number in range(21)]
        query = ReportQuery(account_id="acc_1", start=START, end=START + 300, step=Step.FIVE_MINUTES, with_latency=True)
        await store.insert(rows[:10])
        report = await store.report(query)
        assert (report.is_partial, report.is_latency_partial) == (False, False)
        await store.insert(rows[10:])
        report = await store.report(query)
        assert (report.is_partial, report.is_latency_partial) == (True, True)
        assert report.sums[0].charged_requests == 20
        assert report.latencies == [_latency(None, rows[11:])]

    async def test_requests_are_filtered_by_model_time_and_end(self, store: SQLLedgerStore) -> None:
        rows = some_rows(200)
        await store.insert(rows)

        async def listed(**wanted: object) -> list[str]:
            page = RequestsPage(account_id="acc_1", rows_max=1_000, **wanted)  # type: ignore[arg-type]
            scanned, before = await store.scan_requests(page, scan_max=1_000)
            assert scanned == await store.list_requests(page)
            assert not before
            return [row.request_id for row in scanned]

        def those(condition: object) -> list[str]:
            assert callable(condition)
            return sorted((row.request_id for row in rows if condition(row)), reverse=True)

        start, end = START + 5 * HOUR, START + 6.5 * HOUR
        assert await listed() == those(lambda row: True)
        assert await listed(model="openai/gpt-oss-20b") == those(lambda row: row.model == "openai/gpt-oss-20b")
        assert await listed(start=start, end=end) == those(lambda row: start <= row.reserved_at < end)
        assert await listed(ended_from=start) == those(lambda row: row.reserved_at + row.duration_ms / 1000 >= start)
        assert await listed(start=0.0, end=1e18) == those(lambda row: True)
