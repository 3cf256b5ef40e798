"""The contract of `SweepStore`; each implementation subclasses this and provides a `world` fixture.

No test waits for a hold to age: those of the `late` store are overdue when they are created.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from services.common.estimate import Estimate
from services.common.limits import Unit, Window, parse_limits
from services.common.verdict import Amounts, Verdict
from services.quota.days import first_day_of_month, first_day_of_next_month
from services.quota.holds import Counter, DayStatus, Held, HoldStore, KeyRef, Reservation, Settlement, Uninitialised
from services.quota.overdue_holds import OverdueHold
from services.quota.redis.scripts import previous_entries_of
from services.quota.redis.sweep_store import RedisSweepStore
from services.quota.sweeper import DayEntries

ACCOUNT = "acc_sweep"
KEY = "key_sweep"


@dataclass(frozen=True, slots=True)
class SweepWorld:
    """One empty store, and helpers to inspect it."""

    client: Any
    """The stores' client, with which tests lose data."""
    store: RedisSweepStore
    holds: HoldStore
    """Its holds are young."""
    late: HoldStore
    """Its holds are overdue at once."""
    tomorrow: HoldStore
    """Its holds are overdue at once, and of the next day."""


def reserve_items(*request_ids: str, key_id: str = KEY, limit: int = 100) -> list[Reservation]:
    """Return a reserve request for a slot for each request id."""
    return [Reservation(request_id, key_id, ACCOUNT, limit) for request_id in request_ids]


async def today(holds: HoldStore) -> int:
    """Return the store's day."""
    (status,) = await holds.status([KeyRef(ACCOUNT, KEY)])
    return status.day


async def hold(holds: HoldStore, reservations: Sequence[Reservation], *, charged: int = 0) -> list[Held]:
    """Hold slots of keys that may have no counter yet."""
    day = await today(holds)
    initial_counts = {Counter(ACCOUNT, one.key_id, day): charged for one in reservations}
    outcomes = await holds.reserve(reservations, initial_counts | {Counter(ACCOUNT, "", day): charged})
    held = [outcome for outcome in outcomes if isinstance(outcome, Held)]
    assert len(held) == len(outcomes), "a hold was denied"
    return held


async def hold_amounts(holds: HoldStore, *request_ids: str) -> int:
    """Hold 30 tokens of the key's day and a cost of 5 of the account's month for each request; return the day."""
    limits = parse_limits(["key:tokens:day=1000", "account:cost:month=1000"])
    items = [Reservation(one, KEY, ACCOUNT, 100, limits=limits, estimate=Estimate(10, 20, 5, 0)) for one in request_ids]
    (missing, *_) = await holds.reserve(items, {})
    assert isinstance(missing, Uninitialised)
    outcomes = await holds.reserve(items, dict.fromkeys(missing.counters, 0))
    assert all(isinstance(outcome, Held) for outcome in outcomes)
    return missing.day


async def charge(holds: HoldStore, *request_ids: str) -> list[bool | None]:
    """Settle holds of `KEY` as charged."""
    day = await today(holds)
    return list(await holds.settle([Settlement(one, ACCOUNT, day, Verdict.CHARGED) for one in request_ids]))


async def counts(holds: HoldStore) -> tuple[int, int]:
    """Return the slots charged to and held by `KEY` today."""
    (status,) = await holds.status([KeyRef(ACCOUNT, KEY)])
    assert isinstance(status, DayStatus), "the key has no counter"
    return status.charged, status.held


async def listed(store: RedisSweepStore) -> list[list[DayEntries]]:
    """Return all batches of entries."""
    return [batch async for batch in store.entries(Window.DAY)]


async def of_key_and_account(store: RedisSweepStore) -> list[DayEntries]:
    """Return the entries of the only key, and those of its account."""
    (batch,) = await listed(store)
    assert {one.counter.key_id for one in batch} == {KEY, ""}
    return sorted(batch, key=lambda one: not one.counter.key_id)


async def raised(
    world: SweepWorld, counter: Counter, count: int, *, before: float, excluded: Sequence[str] = ()
) -> int:
    """Repair a counter and return by how much."""
    return await world.store.repair_counter(counter, count, reserved_before=before, excluded=excluded)


async def overdue_now(store: RedisSweepStore, *, at_most: int) -> list[OverdueHold]:
    """Return holds whose deadline has passed by the store's clock."""
    return await store.overdue(at_most=at_most, before=await store.now())


async def names(client: Any, pattern: str) -> list[str]:
    """Return what the server or all nodes hold."""
    return [name.decode() async for name in client.scan_iter(match=pattern)]


class SweepStoreContract:
    """The contract of `SweepStore`."""

    async def test_only_expired_holds_are_overdue_with_all_data_that_their_row_needs(self, world: SweepWorld) -> None:
        await hold(world.holds, reserve_items("req_young"))
        (late,) = await hold(world.late, reserve_items("req_late"))

        overdue = await overdue_now(world.store, at_most=10)

        assert overdue == [OverdueHold("req_late", KEY, ACCOUNT, late.status.day, late.reserved_at)]

    async def test_holds_with_a_deadline_set_by_a_clock_that_was_ahead_are_found_too(self, world: SweepWorld) -> None:
        await hold(world.holds, reserve_items("req_1"))
        now = await world.store.now()

        assert await world.store.overdue(at_most=10, before=now) == []
        (found,) = await world.store.overdue(at_most=10, before=now, after=now + 1)
        assert found.request_id == "req_1"
        assert await world.store.overdue(at_most=10, before=now, after=now + 1_000) == []

    async def test_forgotten_holds_are_removed_and_others_stay(self, world: SweepWorld) -> None:
        await hold(world.holds, reserve_items("req_1"))
        await hold(world.tomorrow, reserve_items("req_2"))
        day = await today(world.holds)

        await world.store.delete_days(day + 1)

        (batch,) = await listed(world.store)
        assert {(one.counter.key_id, one.counter.day) for one in batch} == {(KEY, day + 1), ("", day + 1)}

    async def test_days_in_the_layout_of_the_previous_version_are_removed_too(self, world: SweepWorld) -> None:
        day = await today(world.holds)
        for name in (f"{previous_entries_of(KEY)}:{day}", f"{previous_entries_of(KEY)}:{day - 1}:moved"):
            await world.client.set(name, "moved")

        await world.store.delete_days(day)

        assert await names(world.client, "*") == [f"{previous_entries_of(KEY)}:{day}"]

    async def test_nothing_is_overdue_in_an_empty_store(self, world: SweepWorld) -> None:
        assert await overdue_now(world.store, at_most=10) == []
        assert await listed(world.store) == []

    async def test_finding_overdue_holds_changes_none_and_settling_ends_them(self, world: SweepWorld) -> None:
        await hold(world.late, reserve_items("req_1", "req_2"))
        assert await overdue_now(world.store, at_most=10) == await overdue_now(world.store, at_most=10)

        assert await charge(world.holds, "req_1", "req_2") == [True, True]

        assert await overdue_now(world.store, at_most=10) == []

    async def test_the_longest_overdue_of_a_bucket_come_first_up_to_a_maximum(self, world: SweepWorld) -> None:
        for number in range(3):
            await hold(world.late, reserve_items(f"req_{number}"))
            while await world.store.now() * 1000 % 1 > 0.9:  # Deadlines count milliseconds.
                pass

        found = await overdue_now(world.store, at_most=2)

        assert [one.request_id for one in found] == ["req_0", "req_1"]

    async def test_overdue_holds_of_all_keys_and_days_are_found(self, world: SweepWorld) -> None:
        keys = [f"key_{number}" for number in range(40)]
        for holds in (world.late, world.tomorrow):
            await hold(
                holds, [reserve_item for key in keys for reserve_item in reserve_items(f"req_{key}", key_id=key)]
            )

        found = {(one.key_id, one.day) for one in await overdue_now(world.store, at_most=100)}

        day = await today(world.late)
        assert found == {(key, at) for key in keys for at in (day, day + 1)}

    async def test_a_deadline_whose_day_has_expired_is_forgotten(self, world: SweepWorld) -> None:
        await hold(world.late, reserve_items("req_orphan"))
        await world.client.delete(*await names(world.client, f"quota:*:{ACCOUNT}:*"))

        assert await overdue_now(world.store, at_most=10) == []

        assert await names(world.client, "quota:*") == []

    async def test_entries_have_the_charged_and_held_counts_the_oldest_hold_and_the_highest_limit(
        self, world: SweepWorld
    ) -> None:
        oldest, *_ = await hold(world.holds, reserve_items("req_1", "req_2", limit=9), charged=3)
        await hold(world.holds, reserve_items("req_3", limit=20))
        await hold(world.holds, reserve_items("req_4", limit=7))
        await charge(world.holds, "req_2")

        entries, of_account = await of_key_and_account(world.store)

        assert (entries.counter, entries.charged, entries.limit) == (Counter(ACCOUNT, KEY, oldest.status.day), 4, 20)
        assert (entries.held, entries.oldest_hold_at) == (3, oldest.reserved_at)
        assert of_account.counter == Counter(ACCOUNT, "", oldest.status.day)
        assert (of_account.charged, of_account.held, of_account.holds) == (4, 3, entries.holds)

    async def test_a_key_without_holds_has_no_oldest_one(self, world: SweepWorld) -> None:
        await hold(world.holds, reserve_items("req_1", limit=5))
        await charge(world.holds, "req_1")

        entries, _ = await of_key_and_account(world.store)

        assert (entries.charged, entries.held, entries.oldest_hold_at, entries.limit) == (1, 0, None, 5)

    async def test_entries_of_more_keys_and_days_than_a_batch_holds_come_once_each(self, world: SweepWorld) -> None:
        accounts = [f"acc_{number}" for number in range(520)]
        day = await today(world.holds)
        expected = {Counter(account, key, day) for account in accounts for key in ("", f"key_of_{account}")}
        await world.holds.reserve(
            [Reservation(f"req_{account}", f"key_of_{account}", account, 9) for account in accounts],
            dict.fromkeys(expected, 0),
        )
        await hold(world.tomorrow, reserve_items("req_tomorrow"))

        batches = await listed(world.store)

        expected |= {Counter(ACCOUNT, KEY, day + 1), Counter(ACCOUNT, "", day + 1)}
        found = [one.counter for batch in batches for one in batch]
        assert set(found) == expected
        assert len(found) == len(expected)
        assert len(batches) > 1

    async def test_entries_that_disappear_while_they_are_read_make_no_empty_batch(self, world: SweepWorld) -> None:
        """The ledger refuses to count for no keys."""
        day = await today(world.holds)
        items = [Reservation(f"req_{number}", f"key_{number}", f"acc_{number}", 9) for number in range(501)]
        start = {Counter(one.account_id, key_id, day): 0 for one in items for key_id in (one.key_id, "")}
        await world.holds.reserve(items, start)

        async for batch in world.store.entries(Window.DAY):
            assert batch
            await world.client.flushall()

    async def test_a_counter_is_repaired_to_the_rows_without_a_hold(self, world: SweepWorld) -> None:
        """A row commits before its hold is settled: counted together with its hold, it would be charged twice."""
        (held,) = await hold(world.holds, reserve_items("req_held"), charged=1)
        counter = Counter(ACCOUNT, KEY, held.status.day)

        cut_off = held.reserved_at + 1
        assert await raised(world, counter, 3, before=cut_off) == 0, "the row of req_held may be one of them"
        assert await raised(world, counter, 3, before=cut_off, excluded=["req_held"]) == 2

        assert await counts(world.holds) == (3, 1)
        assert await raised(world, counter, 3, before=cut_off, excluded=["req_held"]) == 0

    async def test_a_hold_too_young_to_have_a_counted_row_does_not_prevent_repair(self, world: SweepWorld) -> None:
        (held,) = await hold(world.holds, reserve_items("req_held"), charged=1)
        counter = Counter(ACCOUNT, KEY, held.status.day)

        assert await raised(world, counter, 3, before=held.reserved_at) == 2

    async def test_a_counter_is_never_lowered(self, world: SweepWorld) -> None:
        (held,) = await hold(world.holds, reserve_items("req_held"), charged=5)

        for count in (0, 1, 5):
            assert await raised(world, Counter(ACCOUNT, KEY, held.status.day), count, before=held.reserved_at) == 0

        assert await counts(world.holds) == (5, 1)

    async def test_an_absent_counter_is_left_to_the_next_reserves_initialisation(self, world: SweepWorld) -> None:
        assert await raised(world, Counter(ACCOUNT, KEY, await today(world.holds)), 1, before=0) == 0

        assert await names(world.client, "*") == []

    async def test_concurrent_repairs_and_settles_charge_every_row_once(self, world: SweepWorld) -> None:
        """Every row exists from the start: at each moment each is a charge or a hold, so that no repair is due."""
        ids = [f"req_{number}" for number in range(30)]
        (first, *_) = await hold(world.holds, reserve_items(*ids))
        counter = Counter(ACCOUNT, KEY, first.status.day)

        async def each(step: Callable[[str], Any]) -> list[Any]:
            return await asyncio.gather(*(step(one) for one in ids))

        closed, due = await asyncio.gather(
            each(lambda one: charge(world.holds, one)),
            each(lambda _: raised(world, counter, len(ids), before=first.reserved_at + 100)),
        )

        assert closed == [[True]] * 30
        assert due == [0] * 30
        assert await counts(world.holds) == (30, 0)

    async def test_counters_of_tokens_and_cost_have_the_amounts_that_are_charged_and_held(
        self, world: SweepWorld
    ) -> None:
        day = await hold_amounts(world.holds, "req_charged", "req_held")
        await world.holds.settle([Settlement("req_charged", ACCOUNT, day, Verdict.CHARGED, Amounts(12, 3))])

        entries = [one async for batch in world.store.entries(Window.DAY) for one in batch]

        found = {(one.counter.key_id, one.counter.unit): (one.charged, one.held) for one in entries}
        assert found == {
            (KEY, Unit.REQUESTS): (1, 1),
            ("", Unit.REQUESTS): (1, 1),
            (KEY, Unit.TOKENS): (12, 30),
        }

    async def test_months_have_their_own_entries_with_the_open_holds(self, world: SweepWorld) -> None:
        day = await hold_amounts(world.holds, "req_charged", "req_held")
        await world.holds.settle([Settlement("req_charged", ACCOUNT, day, Verdict.CHARGED, Amounts(12, 3))])

        (entries,) = [one async for batch in world.store.entries(Window.MONTH) for one in batch]

        assert entries.counter == Counter(ACCOUNT, "", first_day_of_month(day), Unit.COST, Window.MONTH)
        assert (entries.charged, entries.held, entries.limit) == (3, 5, 1_000)
        assert list(entries.holds) == ["req_held"]

    async def test_a_month_is_repaired_unless_an_old_hold_may_have_a_counted_row(self, world: SweepWorld) -> None:
        day = await hold_amounts(world.holds, "req_1")
        counter = Counter(ACCOUNT, "", first_day_of_month(day), Unit.COST, Window.MONTH)
        later = await world.store.now() + 100

        assert await raised(world, counter, 40, before=later) == 0
        assert await raised(world, counter, 40, before=later, excluded=["req_1"]) == 40

        (entries,) = [one async for batch in world.store.entries(Window.MONTH) for one in batch]
        assert entries.charged == 40

    async def test_a_month_is_removed_days_after_its_end(self, world: SweepWorld) -> None:
        day = await hold_amounts(world.holds, "req_1")
        end = first_day_of_next_month(day)

        await world.store.delete_days(end - 1)
        assert await names(world.client, "quota:*:month:*")
        await world.store.delete_days(end)
        assert not await names(world.client, "quota:*:month:*")
