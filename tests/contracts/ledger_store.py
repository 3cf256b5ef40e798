"""The contract of `LedgerStore`; each implementation subclasses this and provides a `store` fixture."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.common.limits import Scope, Slot, Unit
from services.common.surface import Surface
from services.common.verdict import RELEASED, RowVerdict, Verdict
from services.inference.chat import ABANDONED_OUTCOMES, CallContext, Outcome, Usage, UsageSource
from services.inference.ledger.store import SQLLedgerStore
from services.inference.ledger.writer import (
    AccountUsage,
    ChargedSum,
    Ledger,
    LedgerRow,
    LedgerStore,
    RequestsPage,
    UsageSummary,
)
from tests.contracts.deadlines import LongDeadlines

DAY = "2026-08-02"
USAGE = Usage(10, 20, 30, cached_tokens=4, reasoning_tokens=5, source=UsageSource.REPORTED)
ROW = LedgerRow(
    request_id="req_1",
    account_id="acc_1",
    key_id="key_1",
    day=DAY,
    reserved_at=1_785_672_000.123,
    model="llama-3.1-8b-instant",
    upstream_model="openai/gpt-oss-20b",
    stream=True,
    outcome=Outcome.ANSWERED,
    charged=True,
    refund_reason="",
    usage=USAGE,
    upstream_id="req_upstream",
    attempts=1,
    time_to_first_token_ms=3,
    duration_ms=7,
    surface=Surface.RESPONSES,
    cost=1_234,
)


POISON: list[dict[str, Any]] = [
    {"upstream_id": 12345},
    {"model": {"a": "dict"}},
    {"duration_ms": 2**70},
    {"day": None},
    {"usage": "no usage"},
    {"outcome": "no outcome"},
]
"""Values that no code of ours puts into a row; each must affect its own row only."""


def rows(count: int, *, start: int = 0, **changes: object) -> list[LedgerRow]:
    """Return rows with unique ids."""
    return [replace(ROW, request_id=f"req_{start + number}", **changes) for number in range(count)]  # type: ignore[arg-type]


def lost(request_id: str) -> CallContext:
    """Return the account data of a request whose verdict never came."""
    return CallContext(request_id, ROW.account_id, ROW.key_id, ROW.day, ROW.reserved_at)


async def listed(store: LedgerStore, *, account_id: str = "acc_1", rows_max: int = 100, **wanted: Any) -> list[str]:
    """Return the ids of a page of an account's rows."""
    page = RequestsPage(account_id=account_id, rows_max=rows_max, **wanted)
    return [row.request_id for row in await store.list_requests(page)]


class LedgerStoreContract(LongDeadlines):
    """The contract of `LedgerStore`."""

    @pytest.mark.parametrize("outcome", Outcome)
    async def test_a_row_is_read_as_it_was_stored(self, store: LedgerStore, outcome: Outcome) -> None:
        row = replace(ROW, outcome=outcome, charged=False, refund_reason="upstream_unavailable", stream=False)

        await store.insert([row])

        assert await store.find("req_1") == row

    async def test_a_row_has_the_surface_of_its_request(self, store: LedgerStore) -> None:
        stored = [row for number, one in enumerate([*Surface, None]) for row in rows(1, start=number, surface=one)]

        await store.insert(stored)

        assert [await store.find(row.request_id) for row in stored] == stored

    async def test_a_row_has_the_slot_of_its_request(self, store: LedgerStore) -> None:
        slots = [Slot(1, 10, Scope.KEY), Slot(10**9, 10**9, Scope.ACCOUNT), None]
        stored = [row for number, slot in enumerate(slots) for row in rows(1, start=number, slot=slot)]

        await store.insert(stored)

        assert [await store.find(row.request_id) for row in stored] == stored

    async def test_a_row_of_a_closed_request_gets_its_slot_later(self, store: LedgerStore) -> None:
        await store.close_unknown([lost("req_1")])
        await store.insert([replace(ROW, slot=Slot(3, 10, Scope.KEY))])

        row = await store.find("req_1")
        assert row is not None
        assert (row.slot, row.charged) == (Slot(3, 10, Scope.KEY), False)

    async def test_an_unknown_request_id_is_absent(self, store: LedgerStore) -> None:
        await store.insert([ROW])

        assert await store.find("req_2") is None

    async def test_a_request_has_one_row_and_the_first_one_stays(self, store: LedgerStore) -> None:
        await store.insert([ROW])

        await store.insert([replace(ROW, charged=False, duration_ms=99), *rows(1, start=2)])

        assert await store.find("req_1") == ROW
        assert await store.count_charged([("key_1", DAY)]) == [2]

    async def test_rows_of_direct_callers_count_against_nothing(self, store: LedgerStore) -> None:
        await store.insert([replace(ROW, key_id="", account_id="")])

        assert await store.count_charged([("", DAY), ("key_1", DAY)]) == [0, 0]
        assert await store.count_charged_of_accounts([("", DAY)]) == [0]

    async def test_a_group_with_a_repeated_id_stores_it_once(self, store: LedgerStore) -> None:
        verdicts = await store.insert([ROW, replace(ROW, charged=False), *rows(3, start=5)])

        assert verdicts == [Verdict.CHARGED] * 5, "both get the ledger's verdict for the one row"
        assert await store.count_charged([("key_1", DAY)]) == [4]

    @pytest.mark.parametrize("poison", POISON, ids=lambda poison: next(iter(poison)))
    async def test_a_row_that_cannot_be_written_does_not_affect_others(
        self, store: LedgerStore, poison: dict[str, Any]
    ) -> None:
        ledger = Ledger(store, wait_seconds=10, rows_max=1_000)
        good, bad = rows(60), [replace(row, **poison) for row in rows(3, start=100)]

        verdicts = await asyncio.gather(*(ledger.record(row) for row in (*good[:30], *bad, *good[30:])))
        closed = await store.close_unknown([lost("req_0"), lost("req_100")])

        charged = RowVerdict(Verdict.CHARGED, ROW.amounts)
        assert verdicts == [*[charged] * 30, *[None] * 3, *[charged] * 30]
        assert await store.count_charged([("key_1", DAY)]) == [60]
        assert closed == [charged, RELEASED], "the sweeper closes requests without a row"

    async def test_groups_written_concurrently_store_every_row_once(self, store: LedgerStore) -> None:
        groups = [rows(20, start=10 * number) for number in range(6)]

        await asyncio.gather(*(store.insert(group) for group in groups))

        assert await store.count_charged([("key_1", DAY)]) == [70]

    async def test_charged_rows_are_counted_for_each_key_and_day_in_order(self, store: LedgerStore) -> None:
        await store.insert(rows(3))
        await store.insert(rows(2, start=10, day="2026-08-03"))
        await store.insert(rows(1, start=20, key_id="key_2"))
        await store.insert(rows(5, start=30, charged=False))

        asked = [("key_2", DAY), ("key_1", "2026-08-03"), ("key_none", DAY), ("key_1", DAY), ("key_1", DAY)]

        assert await store.count_charged(asked) == [1, 2, 0, 3, 3]
        assert await store.count_charged([]) == []

    async def test_charged_rows_of_an_account_are_those_of_all_its_keys(self, store: LedgerStore) -> None:
        await store.insert(rows(3))
        await store.insert(rows(2, start=10, key_id="key_2"))
        await store.insert(rows(4, start=20, day="2026-08-03"))
        await store.insert(rows(5, start=30, charged=False))
        await store.insert(rows(1, start=40, account_id="acc_2"))
        account = ROW.account_id

        asked = [("acc_2", DAY), (account, "2026-08-03"), ("acc_none", DAY), (account, DAY)]
        assert await store.count_charged_of_accounts(asked) == [1, 4, 0, 5]
        assert await store.count_charged_of_accounts([(account, DAY)], excluded=["req_0", "req_10"]) == [3]
        assert await store.count_charged_of_accounts([]) == []

    async def test_sums_of_one_key_under_two_accounts_are_kept_apart(self, store: LedgerStore) -> None:
        await store.insert(rows(3))
        await store.insert(rows(5, start=10, account_id="acc_2"))
        await store.insert(rows(2, start=20, account_id="acc_2", key_id="key_2"))

        asked = [(key, account) for key in ("key_1", "key_2") for account in (ROW.account_id, "acc_2")]
        sums = [ChargedSum(key, account, Unit.REQUESTS, DAY, DAY) for key, account in asked]
        assert await store.sum_charged(sums) == [3, 5, 0, 2]

    async def test_rows_of_an_account_that_continues_anothers_counts_count_there_and_are_its_own(
        self, store: LedgerStore
    ) -> None:
        await store.insert(rows(3))
        await store.insert(rows(2, start=10, account_id="acc_new", key_id="key_new", quota_account_id="acc_1"))

        assert await store.count_charged_of_accounts([("acc_1", DAY)]) == [5]
        assert await store.count_charged_of_accounts([("acc_1", DAY)], excluded=["req_0", "req_10"]) == [3]
        assert await store.count_charged([("key_new", DAY)]) == [2]
        assert await listed(store, account_id="acc_1") == ["req_2", "req_1", "req_0"]
        assert await listed(store, account_id="acc_new") == ["req_11", "req_10"]
        (summary,) = await store.summarize("", account_id="acc_1", from_day="", to_day="")
        assert summary.charged_requests == 3

    async def test_a_late_row_replaces_the_account_that_the_sweeper_knew(self, store: LedgerStore) -> None:
        """A hold names only the account under which quota counts it."""
        await store.close_unknown([lost("req_1")])
        late = replace(ROW, account_id="acc_new", quota_account_id="acc_1")

        await store.insert([late])

        assert await store.find("req_1") == replace(late, charged=False, refund_reason="no_verdict")

    async def test_a_direct_callers_rows_count_against_no_key(self, store: LedgerStore) -> None:
        await store.insert(rows(4, key_id="", account_id=""))
        await store.insert(rows(1, start=10))

        assert await store.count_charged([("key_1", DAY)]) == [1]
        assert [
            one.charged_requests for one in await store.summarize("key_1", account_id="", from_day="", to_day="")
        ] == [1]

    async def test_a_keys_rows_are_summed_by_day_and_model_newest_day_first(self, store: LedgerStore) -> None:
        await store.insert(rows(2))
        await store.insert(rows(1, start=10, charged=False, usage=Usage(), cost=1))
        await store.insert(rows(1, start=20, model="a-model"))
        await store.insert(rows(1, start=30, day="2026-08-03"))
        await store.insert(rows(1, start=40, key_id="key_2"))

        summaries = await store.summarize("key_1", account_id="", from_day="", to_day="")

        assert summaries == [
            UsageSummary("2026-08-03", ROW.model, 1, 0, 10, 20, 30, 4, 5, cost=1_234),
            UsageSummary(DAY, "a-model", 1, 0, 10, 20, 30, 4, 5, cost=1_234),
            UsageSummary(DAY, ROW.model, 2, 1, 20, 40, 60, 8, 10, cost=2_469),
        ]

    async def test_a_sum_of_costs_leaves_out_rows_without_one_and_is_absent_if_none_has_one(
        self, store: LedgerStore
    ) -> None:
        """Also if the sum needs more than 32 bits, and if it is zero."""
        costs = {"01": (None, None), "02": (None, 5), "03": (2**40, 2**40), "04": (0, None)}
        for number, (day, pair) in enumerate(costs.items()):
            for second, cost in enumerate(pair):
                await store.insert(rows(1, start=2 * number + second, day=f"2026-08-{day}", cost=cost))

        summaries = await store.summarize("key_1", account_id="acc_1", from_day="", to_day="")

        assert [one.cost for one in summaries] == [0, 2 * 2**40, 5, None]

    async def test_a_keys_rows_are_summed_by_surface_if_requested(self, store: LedgerStore) -> None:
        for number, surface in enumerate([*Surface, Surface.CHAT, None]):
            await store.insert(rows(1, start=number, surface=surface))

        span: dict[str, Any] = {"account_id": "", "from_day": DAY, "to_day": DAY}
        summaries = await store.summarize("key_1", **span, by_surface=True)

        assert [(one.surface, one.charged_requests, one.total_tokens) for one in summaries] == [
            (Surface.CHAT, 2, 60),
            (Surface.COMPLETIONS, 1, 30),
            (Surface.MESSAGES, 1, 30),
            (Surface.RESPONSES, 1, 30),
            (None, 1, 30),
        ]
        (all_surfaces,) = await store.summarize("key_1", **span)
        assert (all_surfaces.surface, all_surfaces.charged_requests) == (None, 6)

    async def test_summaries_are_filtered_by_outcome_and_surface(self, store: LedgerStore) -> None:
        for number, surface in enumerate([*Surface, None]):
            await store.insert(rows(2, start=10 * number, surface=surface))
        await store.insert(rows(1, start=90, surface=Surface.CHAT, outcome=Outcome.CUT))

        async def count(**filters: Any) -> int:
            found = await store.summarize("", account_id="acc_1", from_day="", to_day="", **filters)
            return sum(one.charged_requests for one in found)

        assert await count() == 11
        assert await count(surface=Surface.CHAT) == 3
        assert await count(outcome=Outcome.CUT) == 1
        assert await count(outcome=Outcome.ANSWERED, surface=Surface.CHAT) == 2
        assert await count(outcome=Outcome.REFUSED) == 0

    async def test_the_days_of_a_summary_include_both_ends(self, store: LedgerStore) -> None:
        days = ["2026-07-31", "2026-08-01", "2026-08-02", "2026-08-03"]
        for number, day in enumerate(days):
            await store.insert(rows(1, start=number, day=day))

        async def listed(from_day: str, to_day: str) -> list[str]:
            return [one.day for one in await store.summarize("key_1", account_id="", from_day=from_day, to_day=to_day)]

        assert await listed("2026-08-01", "2026-08-02") == ["2026-08-02", "2026-08-01"]
        assert await listed("2026-08-02", "") == ["2026-08-03", "2026-08-02"]
        assert await listed("", "2026-07-31") == ["2026-07-31"]
        assert await listed("2026-08-04", "") == []

    async def test_accounts_are_ordered_by_what_they_used_whether_it_was_charged_or_not(
        self, store: SQLLedgerStore
    ) -> None:
        await store.insert(rows(3, account_id="acc_many", cost=1, usage=replace(USAGE, total_tokens=1)))
        await store.insert(rows(1, start=10, account_id="acc_dear", cost=10**9, usage=replace(USAGE, total_tokens=2)))
        released = replace(USAGE, total_tokens=10**6)
        await store.insert(rows(2, start=20, account_id="acc_long", cost=None, usage=released, charged=False))
        await store.insert(rows(9, start=30, account_id="acc_old", day="2026-08-01"))
        await store.insert(rows(9, start=40, account_id=""))

        async def found(order: Unit, limit: int = 10) -> list[str]:
            return [one.account_id for one in await store.top_accounts(DAY, DAY, order, limit=limit)]

        assert await found(Unit.REQUESTS) == ["acc_many", "acc_long", "acc_dear"]
        assert await found(Unit.TOKENS, 2) == ["acc_long", "acc_many"]
        assert await found(Unit.COST) == ["acc_dear", "acc_many", "acc_long"]
        (first, *_) = await store.top_accounts("2026-08-01", DAY, Unit.REQUESTS, limit=1)
        assert first == AccountUsage("acc_old", 9, 0, 9 * 30, 9 * 1_234)
        (last,) = [one for one in await store.top_accounts(DAY, DAY, Unit.COST, limit=10) if one.cost is None]
        assert (last.account_id, last.charged_requests, last.released_requests) == ("acc_long", 0, 2)

    async def test_an_accounts_rows_are_summed_over_its_keys(self, store: LedgerStore) -> None:
        await store.insert([*rows(1), *rows(1, start=10, key_id="key_2"), *rows(1, start=20, account_id="acc_2")])

        (summary,) = await store.summarize("", account_id="acc_1", from_day="", to_day="")

        assert summary.charged_requests == 2

    async def test_a_lost_request_is_closed_by_its_row_or_by_one_with_outcome_unknown(self, store: LedgerStore) -> None:
        await store.insert([*rows(1), *rows(1, start=1, charged=False)])

        for _ in range(2):
            verdicts = await store.close_unknown([lost("req_9"), lost("req_0"), lost("req_1")])
            assert verdicts == [RELEASED, RowVerdict(Verdict.CHARGED, ROW.amounts), RELEASED]

        unknown = await store.find("req_9")
        assert unknown is not None
        assert (unknown.outcome, unknown.charged, unknown.usage) == (Outcome.UNKNOWN, False, Usage())
        assert (unknown.surface, unknown.cost) == (None, None)
        assert (unknown.key_id, unknown.day, unknown.reserved_at) == (ROW.key_id, ROW.day, ROW.reserved_at)
        assert await store.count_charged([("key_1", DAY)]) == [1]

    async def test_a_late_row_stores_the_usage_and_stays_uncharged(self, store: LedgerStore) -> None:
        await store.close_unknown([lost("req_1")])

        await store.insert([ROW])

        found = await store.find("req_1")
        assert found == replace(ROW, charged=False, refund_reason="no_verdict")
        await store.insert([replace(ROW, duration_ms=99)])
        assert await store.find("req_1") == found
        assert await store.count_charged([("key_1", DAY)]) == [0]

    async def test_a_row_and_a_sweep_of_one_request_at_once_agree(self, store: LedgerStore) -> None:
        """The first one decides, and the verdict agrees with the row."""
        for number in range(10):
            row = replace(ROW, request_id=f"req_{number}")
            _, (verdict,) = await asyncio.gather(store.insert([row]), store.close_unknown([lost(row.request_id)]))
            found = await store.find(row.request_id)
            assert found is not None
            assert (found.charged, found.usage) == (verdict.verdict is Verdict.CHARGED, USAGE)

    async def test_abandoned_requests_have_the_verdicts_of_their_rows_and_none_without_one(
        self, store: LedgerStore
    ) -> None:
        await store.insert([*rows(2), *rows(1, start=2, outcome=Outcome.UPSTREAM_FAILED, charged=False)])

        ids = ["req_2", "req_none", "req_0", "req_0"]
        verdicts = await store.resolve_abandoned([(one, None) for one in ids])

        charged = RowVerdict(Verdict.CHARGED, ROW.amounts)
        assert verdicts == [RELEASED, None, charged, charged]
        assert await store.find("req_0") == rows(1)[0]

    @pytest.mark.parametrize("why", sorted(ABANDONED_OUTCOMES))
    async def test_only_answered_rows_take_the_reason_why_their_answer_was_abandoned(
        self, store: LedgerStore, why: Outcome
    ) -> None:
        for outcome in Outcome:
            await store.insert(rows(1, outcome=outcome, start=list(Outcome).index(outcome)))

        await store.resolve_abandoned([(f"req_{number}", why) for number in range(len(Outcome) + 1)])

        for number, outcome in enumerate(Outcome):
            row = await store.find(f"req_{number}")
            expected = why if outcome in (Outcome.ANSWERED, Outcome.CLIENT_LEFT) else outcome
            assert row is not None
            assert row.outcome is expected

    async def test_rows_reserved_before_a_time_exclude_that_time(self, store: LedgerStore) -> None:
        for number, at in enumerate([10.0, 20.0, 30.0]):
            await store.insert(rows(1, start=number, reserved_at=at))
        await store.insert(rows(1, start=9, reserved_at=1.0, charged=False))

        assert await store.count_charged([("key_1", DAY)], reserved_before=20.0) == [1]
        assert await store.count_charged([("key_1", DAY)], excluded=["req_0", "req_2", "req_none"]) == [1]
        assert await store.count_charged([("key_1", DAY)], reserved_before=25.0, excluded=["req_1"]) == [1]
        assert await store.count_charged([("key_2", DAY)], excluded=["req_0"]) == [0]
        assert await store.count_charged([("key_1", DAY)], reserved_before=2.0**62) == [3]
        assert await store.count_charged([("key_1", DAY)], reserved_before=-(2.0**62)) == [0]

    async def test_an_accounts_requests_come_newest_first_page_by_page(self, store: LedgerStore) -> None:
        await store.insert(rows(25, start=10))
        await store.insert(rows(5, start=40, account_id="acc_2"))
        seen: list[str] = []

        while page := await listed(store, rows_max=10, before=seen[-1] if seen else ""):
            seen += page

        assert seen == [f"req_{number}" for number in reversed(range(10, 35))]
        assert await listed(store, before="req_10") == []
        assert await listed(store, account_id="acc_none") == []

    async def test_a_listed_row_equals_the_stored_row(self, store: LedgerStore) -> None:
        await store.insert([ROW])

        assert await store.list_requests(RequestsPage(account_id="acc_1", rows_max=5)) == [ROW]

    async def test_requests_are_filtered_by_key_outcome_and_days_together(self, store: LedgerStore) -> None:
        await store.insert(rows(2, start=10))
        await store.insert(rows(2, start=20, key_id="key_2"))
        await store.insert(rows(2, start=30, outcome=Outcome.REFUSED, charged=False))
        await store.insert(rows(1, start=40, day="2026-08-03"))
        await store.insert(rows(1, start=50, key_id="key_1", account_id="acc_2"))

        assert await listed(store, key_id="key_2") == ["req_21", "req_20"]
        assert await listed(store, outcome=Outcome.REFUSED) == ["req_31", "req_30"]
        assert await listed(store, from_day="2026-08-03") == ["req_40"]
        assert await listed(store, to_day=DAY, key_id="key_1") == ["req_31", "req_30", "req_11", "req_10"]
        assert await listed(store, from_day=DAY, to_day=DAY, key_id="key_1", outcome=Outcome.ANSWERED) == [
            "req_11",
            "req_10",
        ]
        assert await listed(store, key_id="key_none") == []

    async def test_requests_are_filtered_by_surface(self, store: LedgerStore) -> None:
        for number, surface in enumerate([*Surface, None]):
            await store.insert(rows(1, start=number, surface=surface))
        await store.insert(rows(1, start=9, surface=Surface.MESSAGES, outcome=Outcome.CUT))

        for number, surface in enumerate(Surface):
            assert await listed(store, surface=surface, outcome=Outcome.ANSWERED) == [f"req_{number}"]
        assert await listed(store, surface=Surface.MESSAGES) == ["req_9", "req_3"]
        assert len(await listed(store)) == 6

    async def test_the_last_use_of_a_key_is_its_latest_request_charged_or_not(self, store: LedgerStore) -> None:
        await store.insert(rows(1, start=10, reserved_at=100.5, day="2026-08-01"))
        await store.insert(rows(1, start=20, reserved_at=300.25))
        await store.insert(rows(1, start=30, reserved_at=400.125, charged=False))
        await store.insert(rows(1, start=40, reserved_at=200, key_id="key_2"))
        await store.insert(rows(1, start=50, reserved_at=150, key_id="key_3", charged=False))

        assert await store.last_uses(["key_2", "key_none", "key_1", "key_3", "key_2"]) == [
            200,
            None,
            400.125,
            150,
            200,
        ]
        assert await store.last_uses([]) == []

    async def test_a_thousand_keys_can_be_queried_at_once(self, store: LedgerStore) -> None:
        await store.insert(rows(1, start=1, key_id="key_7", reserved_at=7))

        uses = await store.last_uses([f"key_{number}" for number in range(1000)])

        assert [number for number, used_at in enumerate(uses) if used_at is not None] == [7]

    async def test_sums_do_not_overflow_where_counts_do_not(self, store: LedgerStore) -> None:
        await store.insert(rows(3, usage=Usage(total_tokens=2**61)))

        (summary,) = await store.summarize("key_1", account_id="", from_day="", to_day="")

        assert summary.total_tokens == 3 * 2**61

    @pytest.mark.parametrize(
        ("changes", "kept"),
        [
            ({"model": "a\0b"}, {"model": "ab"}),
            ({"model": "ü" * 300}, {"model": "ü" * 256}),
            ({"upstream_model": "\0"}, {"upstream_model": ""}),
            ({"upstream_id": "x\0" * 300}, {"upstream_id": "x" * 128}),
            ({"refund_reason": "y" * 300}, {"refund_reason": "y" * 128}),
            ({"refund_reason": "a\ud800b"}, {"refund_reason": "a?b"}),
        ],
    )
    async def test_no_value_sent_by_a_client_prevents_a_group_from_being_written(
        self, store: LedgerStore, changes: dict[str, object], kept: dict[str, object]
    ) -> None:
        """A row that the database refuses would be retried for ever, and block all later rows."""
        row = replace(ROW, **changes)  # type: ignore[arg-type]

        await store.insert([row, *rows(1, start=5)])

        assert await store.find("req_1") == replace(row, **kept)  # type: ignore[arg-type]
        assert await store.find("req_5") is not None

    async def test_rows_are_summed_by_hour_newest_first(self, store: LedgerStore) -> None:
        noon = datetime(2026, 8, 2, 12, tzinfo=UTC)
        for number, minutes in enumerate([0, 59, 60, 24 * 60, 36 * 60]):
            at = noon + timedelta(minutes=minutes)
            await store.insert(rows(1, start=number, reserved_at=at.timestamp(), day=at.date().isoformat()))
        await store.insert(rows(1, start=9, key_id="key_2", reserved_at=noon.timestamp()))

        span = {"account_id": "acc_1", "from_day": DAY, "to_day": "2026-08-03"}
        summaries = await store.summarize_hours("key_1", **span)

        assert [(one.hour, one.day, one.charged_requests, one.cost) for one in summaries] == [
            (noon + timedelta(days=1), "2026-08-03", 1, 1_234),
            (noon + timedelta(hours=1), DAY, 1, 1_234),
            (noon, DAY, 2, 2_468),
        ]

    async def test_rows_with_a_user_are_summed_by_day_and_user(self, store: LedgerStore) -> None:
        await store.insert(rows(2, user_digest="a" * 32))
        await store.insert(rows(1, start=5, user_digest="b" * 32, charged=False))
        await store.insert([*rows(1, start=6), *rows(1, start=7, user_digest="c" * 32, account_id="acc_2")])

        summaries = await store.summarize_users("acc_1", from_day=DAY, to_day=DAY)

        assert [(one.user_digest, one.charged_requests, one.released_requests) for one in summaries] == [
            ("a" * 32, 2, 0),
            ("b" * 32, 0, 1),
        ]
        assert summaries[0].total_tokens == 60

    @pytest.mark.parametrize("key_id", ["", "key_1"])
    @pytest.mark.parametrize("scan_max", [1, 2, 3, 7, 100])
    async def test_scanned_pages_have_each_row_once_however_few_match(
        self, store: LedgerStore, scan_max: int, key_id: str
    ) -> None:
        days = ["2026-08-01", DAY, DAY, "2026-08-03", "2026-08-01", DAY, DAY, "2026-08-03", "2026-08-03", DAY]
        await store.insert([replace(ROW, request_id=f"req_{number}", day=day) for number, day in enumerate(days)])
        await store.insert([replace(ROW, request_id="req_20", key_id="key_2"), replace(ROW, request_id="req_21")])
        await store.insert([replace(ROW, request_id="req_22", account_id="acc_2")])
        found: list[str] = []
        before, calls = "", 0
        while before or not calls:
            page = RequestsPage(account_id="acc_1", key_id=key_id, from_day=DAY, to_day=DAY, before=before, rows_max=2)
            rows_found, before = await store.scan_requests(page, scan_max=scan_max)
            assert len(rows_found) <= min(2, scan_max)
            found += [row.request_id for row in rows_found]
            calls += 1

        others = [] if key_id else ["req_20"]
        assert found == sorted(["req_1", "req_2", "req_21", "req_5", "req_6", "req_9", *others], reverse=True)
        assert calls <= 12 // scan_max + len(found) // 2 + 2


class DayRowsContract(LongDeadlines):
    """The contract of `DayRows`, whose store also implements `LedgerStore`."""

    async def test_the_rows_of_a_day_are_listed_in_the_order_of_their_ids(self, store: SQLLedgerStore) -> None:
        """Also those of internal callers, whose ids may have any form."""
        ids = ["req_01KAK", "5", "req_5f3a", "req_01KAJ", "~"]
        await store.insert([replace(ROW, request_id=name, account_id=f"acc_{name}"[:20]) for name in ids])
        await store.insert([replace(ROW, request_id="req_other", day="2026-08-03")])

        async def page(after: str, rows_max: int) -> list[str]:
            return [row.request_id for row in await store.list_day_requests(DAY, after=after, rows_max=rows_max)]

        listed = await page("", 100)
        assert sorted(listed) == sorted(ids)
        assert await page("", 2) == listed[:2]
        assert await page(listed[1], 2) == listed[2:4]
        assert await page(listed[4], 2) == []
