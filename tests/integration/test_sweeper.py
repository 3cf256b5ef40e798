"""The sweeper on a real server and a real ledger: both records agree again after any loss."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import Unavailable
from services.common.verdict import Verdict
from services.inference.chat import Outcome, Usage
from services.quota.holds import Counter, Denied, Held, InitialCounts
from services.quota.sweeper import DiscrepancyKind
from tests.contracts.ledger_store import USAGE
from tests.properties.hold_world import ACCOUNT, HOLD_SECONDS, OLD_SECONDS, HoldWorld, opened_world, sweeper_of
from tests.valkey_backend import valkey_server, valkey_url

__all__ = ["valkey_server", "valkey_url"]

Spoil = Callable[[HoldWorld], Any]


@pytest.fixture
async def world(valkey_url: str, tmp_path: Path) -> AsyncIterator[HoldWorld]:
    """An empty server and an empty ledger."""
    async with opened_world(valkey_url, tmp_path / "ledger.db") as opened:
        yield opened


async def found(world: HoldWorld) -> list[DiscrepancyKind]:
    """Return the discrepancies between the records."""
    return [finding.kind for finding in (await world.sweeper.verify()).discrepancies]


def of_keys(count: int, day: int) -> InitialCounts:
    """Return initial counts of keys of the account, which are above the ledger's."""
    return {Counter(ACCOUNT, f"key_{number}", day): 7 for number in range(count)} | {Counter(ACCOUNT, "", day): 0}


class TestSweep:
    async def test_an_overdue_hold_with_a_charged_row_becomes_a_charge(self, world: HoldWorld) -> None:
        await world.hold("req_1")
        await world.commit_row("req_1")
        await world.grow_older()

        assert await world.sweeper.sweep() == 1

        assert await world.counts() == (1, 0)

    async def test_an_overdue_hold_with_an_uncharged_row_is_released(self, world: HoldWorld) -> None:
        await world.hold("req_1")
        await world.commit_row("req_1", is_charged=False)
        await world.grow_older()

        await world.sweeper.sweep()

        assert await world.counts() == (0, 0)
        assert (await world.find("req_1")).outcome is Outcome.UPSTREAM_FAILED

    async def test_an_overdue_hold_without_a_row_is_released_and_gets_a_row_with_outcome_unknown(
        self, world: HoldWorld
    ) -> None:
        await world.hold("req_1")
        await world.grow_older()

        await world.sweeper.sweep()

        row = await world.find("req_1")
        assert await world.counts() == (0, 0)
        assert (row.outcome, row.charged, row.usage) == (Outcome.UNKNOWN, False, Usage())
        assert row.reserved_at == pytest.approx(world.reserved_at["req_1"], abs=0.001)

    async def test_holds_that_are_not_overdue_stay(self, world: HoldWorld) -> None:
        await world.hold("req_old")
        await world.grow_older()
        await world.hold("req_young")
        await world.commit_row("req_young")

        assert await world.sweeper.sweep() == 1

        assert await world.entries() == (0, {"req_young"})

    async def test_holds_stay_while_the_ledger_is_unavailable_and_are_closed_afterwards(self, world: HoldWorld) -> None:
        await world.hold("req_1")
        await world.grow_older()
        world.ledger.is_down = True

        with pytest.raises(Unavailable):
            await world.sweeper.sweep()

        assert await world.counts() == (0, 1)
        world.ledger.is_down = False
        await world.sweeper.sweep()
        assert await world.counts() == (0, 0)

    @pytest.mark.parametrize("verdict", Verdict)
    async def test_a_gateway_and_two_sweepers_close_one_hold_once(self, world: HoldWorld, verdict: Verdict) -> None:
        ids = [f"req_{number}" for number in range(10)]
        await world.hold(*ids)
        for one in ids:
            await world.commit_row(one, is_charged=verdict is Verdict.CHARGED)
        await world.grow_older()

        sweepers = [sweeper_of(world.store, world.ledger) for _ in range(2)]
        settles = [world.settle(one, verdict) for one in ids]
        await asyncio.gather(sweepers[0].sweep(), *settles, sweepers[1].sweep())

        assert await world.counts() == (10 if verdict is Verdict.CHARGED else 0, 0)

    async def test_a_gateway_that_settles_between_the_verdict_and_its_settling_is_not_counted_twice(
        self, world: HoldWorld
    ) -> None:
        await world.hold("req_1")
        await world.commit_row("req_1")
        await world.grow_older()
        overdue = await world.store.overdue(at_most=10, before=await world.store.now())
        assert [one.verdict for one in await world.ledger.close_unknown(overdue)] == [Verdict.CHARGED]

        assert await world.settle("req_1") is True

        assert await world.settle("req_1") is False
        assert await world.counts() == (1, 0)

    async def test_a_row_and_a_sweep_of_one_request_at_once_agree_about_its_charge(self, world: HoldWorld) -> None:
        ids = [f"req_{number}" for number in range(10)]
        await world.hold(*ids)
        await world.grow_older()

        await asyncio.gather(*(world.commit_row(one) for one in ids), world.sweeper.sweep())

        assert await world.counts() == (await world.charged_rows(), 0)

    async def test_a_row_written_after_the_verdict_stores_the_usage_and_stays_uncharged(self, world: HoldWorld) -> None:
        await world.hold("req_1")
        await world.grow_older()
        await world.sweeper.sweep()

        await world.commit_row("req_1")
        assert await world.settle("req_1") is False
        await world.sweeper.reconcile()

        row = await world.find("req_1")
        assert (row.charged, row.outcome, row.usage) == (False, Outcome.ANSWERED, USAGE)
        assert await world.counts() == (0, 0)

    @pytest.mark.long
    async def test_more_overdue_holds_than_one_batch_are_swept_by_the_rounds(self, world: HoldWorld) -> None:
        ids = [f"req_{number}" for number in range(450)]
        await world.hold(*ids, limit=450)
        await world.grow_older()

        swept = [await world.sweeper.sweep() for _ in range(4)]

        assert swept == [200, 200, 50, 0]
        assert await world.counts() == (0, 0)


class TestReconcile:
    async def test_a_correct_counter_is_not_changed(self, world: HoldWorld) -> None:
        await world.charge("req_1", "req_2")
        await world.grow_older()

        assert await world.sweeper.reconcile() == 0

        assert await world.counts() == (2, 0)

    async def test_an_emptied_server_is_initialised_and_requests_in_progress_are_added_by_repair(
        self, world: HoldWorld
    ) -> None:
        await world.charge("req_1", "req_2")
        await world.hold("req_flying")
        await world.client.flushall()
        assert isinstance(await world.reserve("req_new", initial_count=await world.charged_rows()), Held)
        await world.commit_row("req_flying")
        assert await world.settle("req_flying") is False

        await world.grow_older()

        assert await world.sweeper.reconcile() == 2, "of the key and of its account"
        assert await world.counts() == (3, 1)

    async def test_a_rolled_back_server_recovers_the_lost_charges(self, world: HoldWorld) -> None:
        await world.charge("req_1")
        snapshot = await world.snapshot()
        await world.charge("req_2", "req_3")
        await world.roll_back(snapshot)
        assert await world.counts() == (1, 0)
        await world.grow_older()

        assert await world.sweeper.reconcile() == 4, "of the key and of its account"

        assert await world.counts() == (3, 0)

    async def test_a_counter_that_is_right_by_coincidence_is_repaired_once_its_rows_are_old(
        self, world: HoldWorld
    ) -> None:
        """The snapshot lacks an old charge and has a hold whose request was charged since."""
        await world.hold("req_1")
        snapshot = await world.snapshot()
        await world.commit_row("req_1")
        await world.settle("req_1")
        await world.charge("req_2")
        await world.roll_back(snapshot)
        assert await world.sweeper.reconcile() == 0

        await world.grow_older()

        assert await world.sweeper.reconcile() == 2, "of the key and of its account"
        await world.sweeper.sweep()
        assert await world.counts() == (2, 0)

    async def test_a_row_is_never_counted_together_with_its_hold(self, world: HoldWorld) -> None:
        """Its hold will be settled: counted here, it would be charged twice."""
        await world.hold("req_1")
        await world.commit_row("req_1")
        await world.grow_older()

        assert await world.sweeper.reconcile() == 0

        assert await world.settle("req_1") is True
        assert await world.counts() == (1, 0)

    async def test_a_hold_settled_between_listing_and_repair_is_counted_once(self, world: HoldWorld) -> None:
        await world.hold("req_1")
        await world.commit_row("req_1")
        await world.grow_older()
        now = await world.store.now()
        (count,) = await world.ledger.count_charged([world.counter], reserved_before=now)

        await world.settle("req_1")

        assert count == 1
        assert await world.store.repair_counter(world.counter, count, reserved_before=now, excluded=[]) == 0

    async def test_rows_younger_than_a_holds_lifetime_are_left_for_later(self, world: HoldWorld) -> None:
        await world.charge("req_1")
        await world.set_counter(0)

        assert await world.sweeper.reconcile() == 0
        await world.grow_older(HOLD_SECONDS)

        assert await world.sweeper.reconcile() == 1

    async def test_concurrent_repairs_and_settles_charge_each_row_once(self, world: HoldWorld) -> None:
        ids = [f"req_{number}" for number in range(10)]
        await world.hold(*ids)
        for one in ids:
            await world.commit_row(one)
        await world.grow_older()

        reconcilers = [sweeper_of(world.store, world.ledger).reconcile() for _ in range(4)]
        raised = await asyncio.gather(*reconcilers, world.sweeper.sweep(), *(world.settle(one) for one in ids))

        assert raised[:4] == [0] * 4
        assert await world.counts() == (10, 0)

    async def test_with_the_ledger_unavailable_counters_are_not_changed(self, world: HoldWorld) -> None:
        await world.charge("req_1")
        world.ledger.is_down = True

        with pytest.raises(Unavailable):
            await world.sweeper.reconcile()

        assert await world.counts() == (1, 0)


class TestVerify:
    async def test_no_discrepancy_is_reported_while_requests_are_in_progress(self, world: HoldWorld) -> None:
        await world.charge("req_old")
        await world.grow_older()
        await world.charge("req_charged")
        await world.hold("req_held", "req_row", "req_free", "req_released")
        await world.commit_row("req_row")
        await world.commit_row("req_free", is_charged=False)
        await world.settle("req_released", Verdict.RELEASED)

        report = await world.sweeper.verify()

        assert (list(report.discrepancies), report.key_days, report.held) == ([], 2, 3)

    async def test_no_discrepancy_is_reported_at_any_moment_under_load(self, world: HoldWorld) -> None:
        lives = asyncio.gather(*(world.charge(f"req_{number}") for number in range(8)))

        while not lives.done():
            assert await found(world) == []

        await lives
        assert await world.counts() == (8, 0)

    async def test_no_discrepancy_is_reported_for_two_empty_records(self, world: HoldWorld) -> None:
        report = await world.sweeper.verify()

        assert (list(report.discrepancies), report.key_days, report.held) == ([], 0, 0)

    async def test_a_counter_above_the_ledger_is_reported_at_once(self, world: HoldWorld) -> None:
        await world.charge("req_1")
        await world.set_counter(2)

        (finding,) = (await world.sweeper.verify()).discrepancies

        assert finding.kind is DiscrepancyKind.COUNTER_ABOVE_LEDGER
        assert (finding.entries.counter, finding.entries.charged, finding.ledger_charged) == (world.counter, 2, 1)

    async def test_a_counter_below_the_ledger_is_reported_after_it_should_have_been_repaired(
        self, world: HoldWorld
    ) -> None:
        await world.charge("req_1", "req_2")
        await world.set_counter(1)
        assert await found(world) == []
        await world.grow_older()

        (finding,) = (await world.sweeper.verify()).discrepancies

        assert (finding.kind, finding.ledger_charged) == (DiscrepancyKind.COUNTER_BELOW_LEDGER, 2)
        await world.sweeper.reconcile()
        assert await found(world) == []

    async def test_a_hold_that_was_not_swept_in_time_is_reported(self, world: HoldWorld) -> None:
        await world.hold("req_1")
        await world.grow_older(HOLD_SECONDS)
        assert await found(world) == []
        await world.grow_older(OLD_SECONDS - HOLD_SECONDS)

        assert await found(world) == [DiscrepancyKind.HOLD_OVERDUE]

        await world.sweeper.sweep()
        assert await found(world) == []

    async def test_a_count_above_the_highest_limit_is_reported(self, world: HoldWorld) -> None:
        await world.hold("req_1", "req_2", limit=2)
        await world.commit_row("req_1")
        await world.set_counter(1)

        assert await found(world) == [DiscrepancyKind.OVER_LIMIT]

    async def test_a_limit_lowered_before_redis_was_emptied_is_no_discrepancy(self, world: HoldWorld) -> None:
        await world.charge("req_1", "req_2", "req_3")
        await world.client.flushall()

        assert isinstance(await world.reserve("req_4", limit=1, initial_count=3), Denied)

        assert await found(world) == []

    async def test_a_limit_lowered_during_the_day_is_no_discrepancy(self, world: HoldWorld) -> None:
        await world.hold("req_1", "req_2", limit=2)

        await world.reserve("req_3", limit=1)

        assert await found(world) == []

    async def test_every_key_and_day_is_compared(self, world: HoldWorld) -> None:
        await world.charge("req_1")
        await world.initialise(of_keys(600, world.day), limit=7)

        report = await world.sweeper.verify()

        assert report.key_days == 602
        assert {finding.kind for finding in report.discrepancies} == {DiscrepancyKind.COUNTER_ABOVE_LEDGER}
        assert len(report.discrepancies) == 600

    async def test_a_report_lists_a_bounded_number_of_discrepancies_and_counts_them_all(self, world: HoldWorld) -> None:
        await world.initialise(of_keys(1_200, world.day), limit=7)

        report = await world.sweeper.verify()

        assert len(report.discrepancies) == 1_000
        assert report.counts == {DiscrepancyKind.COUNTER_ABOVE_LEDGER: 1_200}

    async def test_an_unavailable_record_is_not_reported_as_agreement(self, world: HoldWorld) -> None:
        await world.charge("req_1")
        world.ledger.is_down = True

        with pytest.raises(Unavailable):
            await world.sweeper.verify()
