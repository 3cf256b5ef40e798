"""The contract of `HoldStore`; each implementation subclasses this and provides a `world` fixture.

Tests set the time of day by the clock offset, so that none of them meets the real midnight and none of them waits.
"""

import asyncio
import itertools
from collections import Counter as Tally
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest

from services.common.estimate import Estimate
from services.common.limits import Scope, Unit, Window, parse_limits
from services.common.verdict import Amounts, Verdict
from services.quota.days import first_day_of_month, first_day_of_next_month
from services.quota.holds import (
    Counter,
    CounterUnavailable,
    DayStatus,
    Denied,
    Held,
    HoldStore,
    InitialCounts,
    KeyRef,
    Reservation,
    Settlement,
    Uninitialised,
)

KEY = "key_contract"
ACCOUNT = "acc_contract"
DAY_SECONDS = 86_400
NOON = 43_200

_numbers = itertools.count(1)

Outcome = Held | Denied | Uninitialised | CounterUnavailable


@dataclass(frozen=True, slots=True)
class World:
    """One empty server, and the replicas' stores over it."""

    open_at: Callable[[int], HoldStore]
    """Return a store whose day has reached this second; 86,400 and more is tomorrow and later."""

    def store(self) -> HoldStore:
        """Return a store at noon of today."""
        return self.open_at(NOON)

    async def initialised(self, *, charged: int = 0, key_id: str = KEY) -> HoldStore:
        """Return a store at noon whose key has a counter."""
        store = self.store()
        await initialise(store, charged, key_id=key_id)
        return store


def reserve_item(
    request_id: str = "",
    *,
    limit: int = 10,
    key_id: str = KEY,
    account_limit: int | None = None,
    limits: Sequence[str] = (),
    estimate: Estimate | None = None,
) -> Reservation:
    """Return a reserve request for one slot, under a new id when none is given. Further limits are given as texts."""
    return Reservation(
        request_id or f"req_{next(_numbers)}",
        key_id,
        ACCOUNT,
        limit,
        account_limit,
        limits=parse_limits(limits),
        estimate=estimate,
    )


def tokens(prompt: int, output: int, *, prompt_cost: int = 0, output_cost_per_million: int = 0) -> Estimate:
    """Return an estimate."""
    return Estimate(prompt, output, prompt_cost, output_cost_per_million)


async def reserve_with_counters(store: HoldStore, item: Reservation, charged: int = 0) -> Held | Denied:
    """Reserve, and start counters that are missing from `charged`."""
    outcome = await reserve(store, item)
    if isinstance(outcome, Uninitialised):
        outcome = await reserve(store, item, dict.fromkeys(outcome.counters, charged))
    assert isinstance(outcome, Held | Denied)
    return outcome


async def used(store: HoldStore, item: Reservation) -> dict[str, tuple[int, int]]:
    """Return what is charged and held of each limit of a reservation, by the limit's name."""
    statuses = await store.limits(item, {})
    assert not isinstance(statuses, Uninitialised), "a limit has no counter"
    return {one.limit.name: (one.counts.charged, one.counts.held) for one in statuses}


async def today(store: HoldStore, key_id: str = KEY) -> int:
    """Return the store's day."""
    (status,) = await store.status([KeyRef(ACCOUNT, key_id)])
    return status.day


def counters(day: int, charged: int, *, key_id: str = KEY) -> InitialCounts:
    """Return the same initial count for a key and the account."""
    return {Counter(ACCOUNT, key_id, day): charged, Counter(ACCOUNT, "", day): charged}


async def initialise(store: HoldStore, charged: int, *, key_id: str = KEY) -> None:
    """Give a key a counter, and the account one of the same count, and hold nothing."""
    initial_counts = counters(await today(store, key_id), charged, key_id=key_id)
    (outcome,) = await store.reserve([reserve_item(limit=0, key_id=key_id)], initial_counts)
    assert isinstance(outcome, Denied)


async def reserve(store: HoldStore, reservation: Reservation, initial_counts: InitialCounts | None = None) -> Outcome:
    """Reserve one."""
    (outcome,) = await store.reserve([reservation], initial_counts or {})
    return outcome


async def settle(store: HoldStore, request_id: str, day: int, verdict: Verdict = Verdict.CHARGED) -> bool | None:
    """Settle one hold of `KEY`."""
    (closed,) = await store.settle([Settlement(request_id, ACCOUNT, day, verdict)])
    return closed


async def counts(store: HoldStore, key_id: str = KEY) -> tuple[int, int]:
    """Return today's charged and held slots."""
    (status,) = await store.status([KeyRef(ACCOUNT, key_id)])
    assert isinstance(status, DayStatus), "the key has no counter"
    return status.charged, status.held


class HoldStoreContract:
    """The contract of `HoldStore`."""

    async def test_slots_are_held_up_to_the_limit_exactly(self, world: World) -> None:
        store = await world.initialised()

        outcomes = await store.reserve([reserve_item(limit=3) for _ in range(5)], {})

        assert [type(outcome) for outcome in outcomes] == [Held, Held, Held, Denied, Denied]
        assert await counts(store) == (0, 3)

    async def test_charged_requests_take_slots_like_held_ones(self, world: World) -> None:
        store = await world.initialised(charged=2)

        outcomes = [await reserve(store, reserve_item(limit=3)) for _ in range(2)]

        assert [type(outcome) for outcome in outcomes] == [Held, Denied]

    async def test_a_denial_changes_nothing_and_says_what_fills_the_limit(self, world: World) -> None:
        store = await world.initialised(charged=1)
        held = await reserve(store, reserve_item(limit=2))
        assert isinstance(held, Held)

        denied = await reserve(store, reserve_item(limit=2))

        assert denied == Denied(held.tightest)
        assert (held.status.charged, held.status.held) == (1, 1)
        assert await counts(store) == (1, 1)

    async def test_a_request_id_is_held_once_however_often_it_is_sent(self, world: World) -> None:
        store = await world.initialised()

        outcomes = await store.reserve([reserve_item("req_same", limit=1), reserve_item("req_same", limit=1)], {})
        again = await reserve(store, reserve_item("req_same", limit=1))

        assert [type(outcome) for outcome in (*outcomes, again)] == [Held, Held, Held]
        assert await counts(store) == (0, 1)

    async def test_a_limit_of_zero_admits_nothing(self, world: World) -> None:
        store = await world.initialised()

        assert isinstance(await reserve(store, reserve_item(limit=0)), Denied)

    async def test_a_lowered_limit_denies_and_revokes_nothing(self, world: World) -> None:
        store = await world.initialised()
        await store.reserve([reserve_item(limit=3) for _ in range(3)], {})

        assert isinstance(await reserve(store, reserve_item(limit=1)), Denied)
        assert await counts(store) == (0, 3)

    async def test_a_key_without_a_counter_is_uninitialised_and_nothing_is_held(self, world: World) -> None:
        store = world.store()

        outcome = await reserve(store, reserve_item())

        assert isinstance(outcome, Uninitialised)
        assert [one.key_id for one in outcome.counters] == [KEY, ""]
        (status,) = await store.status([KeyRef(ACCOUNT, KEY)])
        assert isinstance(status, Uninitialised)
        assert (status.day, status.reset_at) == (outcome.day, outcome.reset_at)

    async def test_a_counter_starts_at_its_initial_count(self, world: World) -> None:
        store = world.store()

        outcome = await reserve(store, reserve_item(limit=8), counters(await today(store), 7))

        assert isinstance(outcome, Held)
        assert await counts(store) == (7, 1)

    async def test_an_initial_count_above_a_lowered_limit_denies(self, world: World) -> None:
        store = world.store()

        outcome = await reserve(store, reserve_item(limit=3), counters(await today(store), 7))

        assert isinstance(outcome, Denied)
        assert await counts(store) == (7, 0)

    async def test_a_stale_initial_count_of_a_second_service_changes_nothing(self, world: World) -> None:
        """Both read the ledger; one initialises and charges; then the other comes with the earlier count."""
        first, second = world.store(), world.store()
        initial_counts = counters(await today(first), 1)
        await reserve(first, reserve_item("req_first", limit=3), initial_counts)
        await settle(first, "req_first", await today(first))

        outcome = await reserve(second, reserve_item(limit=3), initial_counts)

        assert isinstance(outcome, Held)
        assert await counts(second) == (2, 1)

    async def test_concurrent_initialisations_take_effect_once(self, world: World) -> None:
        stores = [world.store() for _ in range(6)]
        initial_counts = counters(await today(stores[0]), 4)

        outcomes = await asyncio.gather(*(reserve(store, reserve_item(limit=6), initial_counts) for store in stores))

        assert sum(isinstance(outcome, Held) for outcome in outcomes) == 2
        assert await counts(stores[0]) == (4, 2)

    async def test_an_initial_count_of_another_day_is_not_accepted(self, world: World) -> None:
        store = world.store()

        outcome = await reserve(store, reserve_item(), counters(await today(store) - 1, 5))

        assert isinstance(outcome, Uninitialised)

    async def test_a_charged_hold_stays_counted_and_a_released_one_does_not(self, world: World) -> None:
        store = await world.initialised()
        day = await today(store)
        await store.reserve([reserve_item("req_charged"), reserve_item("req_released"), reserve_item("req_open")], {})

        closed = await store.settle(
            [
                Settlement("req_charged", ACCOUNT, day, Verdict.CHARGED),
                Settlement("req_released", ACCOUNT, day, Verdict.RELEASED),
            ]
        )

        assert closed == [True, True]
        assert await counts(store) == (1, 1)

    @pytest.mark.parametrize("verdict", Verdict)
    async def test_a_hold_settled_twice_is_settled_once(self, world: World, verdict: Verdict) -> None:
        store = await world.initialised()
        day = await today(store)
        await reserve(store, reserve_item("req_twice"))

        closed = [await settle(store, "req_twice", day, verdict) for _ in range(2)]

        assert closed == [True, False]
        assert await counts(store) == (1 if verdict is Verdict.CHARGED else 0, 0)

    async def test_two_racing_settles_of_one_hold_charge_it_once(self, world: World) -> None:
        stores = [await world.initialised(), *(world.store() for _ in range(5))]
        day = await today(stores[0])
        await reserve(stores[0], reserve_item("req_raced"))

        closed = await asyncio.gather(*(settle(store, "req_raced", day) for store in stores))

        assert Tally(closed) == {False: 5, True: 1}
        assert await counts(stores[0]) == (1, 0)

    async def test_a_settle_without_a_hold_changes_nothing(self, world: World) -> None:
        store = await world.initialised(charged=1)

        assert await settle(store, "req_absent", await today(store)) is False
        assert await settle(store, "req_absent", await today(store) - 1) is False
        assert await counts(store) == (1, 0)

    async def test_a_settle_for_a_key_without_a_counter_creates_none(self, world: World) -> None:
        store = world.store()

        assert await settle(store, "req_absent", await today(store)) is False

        assert isinstance((await store.status([KeyRef(ACCOUNT, KEY)]))[0], Uninitialised)

    async def test_a_released_slot_can_be_held_again(self, world: World) -> None:
        store = await world.initialised()
        await reserve(store, reserve_item("req_first", limit=1))
        await settle(store, "req_first", await today(store), Verdict.RELEASED)

        assert isinstance(await reserve(store, reserve_item(limit=1)), Held)

    async def test_a_hold_from_before_midnight_is_charged_to_its_own_day_after_midnight(self, world: World) -> None:
        before, after = await world.initialised(), world.open_at(NOON + DAY_SECONDS)
        await initialise(after, 0)
        held = await reserve(before, reserve_item("req_late"))
        assert isinstance(held, Held)

        assert await settle(after, "req_late", held.status.day) is True

        assert await counts(before) == (1, 0)
        assert await counts(after) == (0, 0)

    async def test_the_limit_starts_again_at_midnight_utc(self, world: World) -> None:
        before, after = world.open_at(DAY_SECONDS - 30), world.open_at(DAY_SECONDS)
        await initialise(before, 5)
        denied = await reserve(before, reserve_item(limit=5))
        assert isinstance(denied, Denied)

        uninitialised = await reserve(after, reserve_item(limit=5))

        assert isinstance(uninitialised, Uninitialised)
        assert uninitialised.day == denied.status.day + 1
        assert uninitialised.reset_at - denied.status.reset_at == pytest.approx(DAY_SECONDS - 30)

    async def test_the_reset_is_at_the_end_of_the_day(self, world: World) -> None:
        noon = await reserve(await world.initialised(), reserve_item())
        assert isinstance(noon, Held)

        assert noon.status.reset_at - noon.reserved_at == pytest.approx(DAY_SECONDS - NOON, abs=20)

    async def test_keys_and_requests_of_one_batch_keep_their_order_and_their_counters(self, world: World) -> None:
        store = await world.initialised()
        await initialise(store, 9, key_id="key_other")
        batch = [
            reserve_item(limit=1),
            reserve_item(limit=10, key_id="key_other"),
            reserve_item(limit=1),
            reserve_item(key_id="key_new"),
        ]

        outcomes = await store.reserve(batch, {})

        assert [type(outcome) for outcome in outcomes] == [Held, Held, Denied, Uninitialised]
        assert await counts(store) == (0, 1)
        assert await counts(store, "key_other") == (9, 1)

    async def test_concurrent_reserves_over_many_replicas_hold_exactly_the_limit(self, world: World) -> None:
        stores = [await world.initialised(), *(world.store() for _ in range(4))]
        batches = [[reserve_item(limit=100) for _ in range(5)] for _ in range(40)]

        outcomes = await asyncio.gather(
            *(store.reserve(batch, {}) for store, batch in zip(itertools.cycle(stores), batches, strict=False))
        )

        assert sum(isinstance(outcome, Held) for batch in outcomes for outcome in batch) == 100
        assert await counts(stores[0]) == (0, 100)

    async def test_the_limit_is_kept_at_every_moment_while_slots_are_reserved_and_settled(self, world: World) -> None:
        stores = [await world.initialised(), world.store()]

        async def live(number: int) -> int:
            store = stores[number % 2]
            outcome = await reserve(store, reserve_item(f"req_live_{number}", limit=4))
            status = outcome.status if isinstance(outcome, Held | Denied) else None
            assert status is not None
            assert status.charged + status.held <= 4
            if isinstance(outcome, Held):
                verdict = Verdict.CHARGED if number % 3 == 0 else Verdict.RELEASED
                assert await settle(store, f"req_live_{number}", status.day, verdict)
            return isinstance(outcome, Held) and number % 3 == 0

        charged = sum(await asyncio.gather(*(live(number) for number in range(60))))

        assert await counts(stores[1]) == (charged, 0)

    async def test_an_account_limit_is_shared_by_all_its_keys_exactly(self, world: World) -> None:
        store = await world.initialised()
        await initialise(store, 0, key_id="key_other")
        batch = [reserve_item(account_limit=3, key_id=key_id) for key_id in (KEY, "key_other") * 3]

        outcomes = await store.reserve(batch, {})

        assert sum(isinstance(outcome, Held) for outcome in outcomes) == 3
        denied = [outcome for outcome in outcomes if isinstance(outcome, Denied)]
        assert {(one.tightest.limit.scope, one.tightest.limit.limit) for one in denied} == {(Scope.ACCOUNT, 3)}
        assert {(one.status.charged, one.status.held) for one in denied} == {(0, 3)}

    async def test_a_request_that_one_limit_denies_takes_nothing_of_the_other(self, world: World) -> None:
        store = await world.initialised()

        by_account = await reserve(store, reserve_item(limit=2, account_limit=0))
        by_key = await reserve(store, reserve_item(limit=0, account_limit=2))

        assert isinstance(by_account, Denied)
        assert isinstance(by_key, Denied)
        assert (by_account.tightest.limit.scope, by_key.tightest.limit.scope) == (Scope.ACCOUNT, Scope.KEY)
        outcomes = await store.reserve([reserve_item(limit=2, account_limit=2) for _ in range(3)], {})
        assert [type(outcome) for outcome in outcomes] == [Held, Held, Denied]

    async def test_the_limit_with_the_least_left_is_shown(self, world: World) -> None:
        store = await world.initialised()

        held = [await reserve(store, reserve_item(limit=limit, account_limit=5)) for limit in (5, 9, 3)]

        shown = [(one.tightest.limit.scope, one.tightest.remaining) for one in held if isinstance(one, Held)]
        assert shown == [(Scope.KEY, 4), (Scope.ACCOUNT, 3), (Scope.KEY, 0)]

    async def test_settled_requests_of_all_keys_are_charged_to_the_account(self, world: World) -> None:
        store = await world.initialised()
        await initialise(store, 0, key_id="key_other")
        items = [reserve_item(f"req_{key_id}", key_id=key_id) for key_id in (KEY, "key_other")]
        await store.reserve([*items, reserve_item("req_released")], {})
        day = await today(store)

        await store.settle(
            [
                Settlement(f"req_{KEY}", ACCOUNT, day, Verdict.CHARGED),
                Settlement("req_key_other", ACCOUNT, day, Verdict.CHARGED),
                Settlement("req_released", ACCOUNT, day, Verdict.RELEASED),
            ]
        )

        outcome = await reserve(store, reserve_item(account_limit=2))
        assert isinstance(outcome, Denied)
        assert (outcome.status.charged, outcome.status.held) == (2, 0)
        assert await counts(store) == (1, 0)

    async def test_a_new_key_does_not_start_the_account_over(self, world: World) -> None:
        store = await world.initialised(charged=4)

        missing = await reserve(store, reserve_item(key_id="key_new", account_limit=4))
        of_key = {Counter(ACCOUNT, "key_new", await today(store)): 0}
        outcome = await reserve(store, reserve_item(key_id="key_new", account_limit=4), of_key)

        assert isinstance(missing, Uninitialised)
        assert [one.key_id for one in missing.counters] == ["key_new"]
        assert isinstance(outcome, Denied)
        assert outcome.tightest.limit.scope is Scope.ACCOUNT

    async def test_a_stale_initial_count_of_an_account_changes_nothing(self, world: World) -> None:
        store = await world.initialised(charged=4)
        stale = counters(await today(store), 0, key_id="key_new")

        outcome = await reserve(store, reserve_item(key_id="key_new", account_limit=4), stale)

        assert isinstance(outcome, Denied)
        assert outcome.status.charged == 4

    async def test_a_reserve_without_an_account_limit_is_counted_for_the_account(self, world: World) -> None:
        store = await world.initialised()
        await reserve(store, reserve_item())

        assert isinstance(await reserve(store, reserve_item(account_limit=1)), Denied)

    async def test_accounts_are_independent(self, world: World) -> None:
        store = await world.initialised()
        await reserve(store, reserve_item(account_limit=1))
        day = await today(store)
        other = Reservation("req_other", "key_other", "acc_other", 10, 1)

        outcome = await reserve(
            store, other, {Counter("acc_other", "key_other", day): 0, Counter("acc_other", "", day): 0}
        )

        assert isinstance(outcome, Held)

    async def test_tokens_are_held_as_an_upper_bound_and_charged_as_used(self, world: World) -> None:
        store = await world.initialised()
        item = reserve_item("req_1", limits=["key:tokens:day=1000", "account:tokens:day=500"], estimate=tokens(100, 50))

        held = await reserve_with_counters(store, item)

        assert isinstance(held, Held)
        assert held.output_tokens == 50
        assert held.tokens is not None
        assert (held.tokens.limit.name, held.tokens.remaining) == ("account:tokens:day", 350)
        names = ("key:tokens:day", "account:tokens:day")
        assert [(await used(store, item))[name] for name in names] == [(0, 150), (0, 150)]
        await store.settle([Settlement("req_1", ACCOUNT, held.status.day, Verdict.CHARGED, Amounts(120, 0))])
        assert [(await used(store, item))[name] for name in names] == [(120, 0), (120, 0)]

    async def test_no_more_is_charged_than_is_held(self, world: World) -> None:
        store = await world.initialised()
        limits = ["key:tokens:day=1000", "key:cost:day=1000"]
        item = reserve_item("req_1", limits=limits, estimate=tokens(10, 10, prompt_cost=3))
        held = await reserve_with_counters(store, item)

        await store.settle([Settlement("req_1", ACCOUNT, held.status.day, Verdict.CHARGED, Amounts(900, 900))])

        found = await used(store, item)
        assert (found["key:tokens:day"], found["key:cost:day"]) == ((20, 0), (3, 0))

    async def test_a_charge_without_amounts_charges_all_that_is_held_and_a_release_nothing(self, world: World) -> None:
        store = await world.initialised()
        item = reserve_item("req_1", limits=["key:tokens:day=1000"], estimate=tokens(100, 50))
        held = await reserve_with_counters(store, item)
        await reserve(store, replace(item, request_id="req_2"))

        await settle(store, "req_1", held.status.day)
        await settle(store, "req_2", held.status.day, Verdict.RELEASED)

        assert (await used(store, item))["key:tokens:day"] == (150, 0)

    async def test_the_output_is_lowered_to_what_all_limits_have_left(self, world: World) -> None:
        store = await world.initialised()
        limits = ["key:tokens:day=1000", "key:cost:day=130"]
        estimate = tokens(100, 5_000, prompt_cost=30, output_cost_per_million=500_000)
        item = reserve_item("req_1", limits=limits, estimate=estimate)

        held = await reserve_with_counters(store, item)

        assert isinstance(held, Held)
        assert held.output_tokens == 200
        found = await used(store, item)
        assert (found["key:tokens:day"], found["key:cost:day"]) == ((0, 300), (0, 130))
        denied = await reserve(store, replace(item, request_id="req_2"))
        assert isinstance(denied, Denied)
        assert denied.tightest.limit.name == "key:cost:day"

    async def test_a_repeated_reserve_has_the_same_output(self, world: World) -> None:
        store = await world.initialised()
        item = reserve_item("req_1", limits=["key:tokens:day=100"], estimate=tokens(40, 90))
        outcomes = [await reserve_with_counters(store, item) for _ in range(2)]

        assert [outcome.output_tokens for outcome in outcomes if isinstance(outcome, Held)] == [60, 60]
        assert (await used(store, item))["key:tokens:day"] == (0, 100)

    async def test_a_prompt_that_does_not_fit_is_denied_by_its_limit_and_changes_nothing(self, world: World) -> None:
        store = await world.initialised()
        item = reserve_item("req_1", limits=["account:tokens:minute=100"], estimate=tokens(100, 1))

        denied = await reserve_with_counters(store, item)

        assert isinstance(denied, Denied)
        assert denied.tightest.limit.name == "account:tokens:minute"
        assert await used(store, item) == {
            "key:requests:day": (0, 0),
            "account:requests:day": (0, 0),
            "account:tokens:minute": (0, 0),
        }

    async def test_concurrent_token_reserves_never_exceed_the_limit_and_use_it_up(self, world: World) -> None:
        stores = [await world.initialised(), *(world.store() for _ in range(3))]
        item = reserve_item("req_0", limit=500, limits=["account:tokens:day=5000"], estimate=tokens(60, 40))
        await reserve_with_counters(stores[0], item)

        outcomes = await asyncio.gather(
            *(reserve(stores[n % 4], replace(item, request_id=f"req_{n}")) for n in range(1, 200))
        )

        held = [outcome for outcome in outcomes if isinstance(outcome, Held)]
        assert len(held) + 1 == 50
        assert (await used(stores[0], item))["account:tokens:day"] == (0, 5_000)

    async def test_a_minute_ends_and_its_late_settlement_changes_nothing_of_the_next(self, world: World) -> None:
        now, later = await world.initialised(), world.open_at(NOON + 60)
        item = reserve_item("req_1", limits=["key:requests:minute=1"])
        held = await reserve_with_counters(now, item)
        assert isinstance(await reserve(now, replace(item, request_id="req_2")), Denied)

        assert isinstance(await reserve(later, replace(item, request_id="req_3")), Held)

        await settle(later, "req_1", held.status.day)
        assert (await used(later, item))["key:requests:minute"] == (0, 1)
        await settle(later, "req_3", held.status.day)
        assert (await used(later, item))["key:requests:minute"] == (1, 0)

    async def test_the_reset_of_a_minute_is_its_end(self, world: World) -> None:
        store = await world.initialised()
        item = reserve_item("req_1", limits=["key:requests:minute=1"])
        held = await reserve_with_counters(store, item)
        assert isinstance(held, Held)

        denied = await reserve(store, replace(item, request_id="req_2"))

        assert isinstance(denied, Denied)
        assert 0 < denied.status.reset_at - held.reserved_at <= 60

    async def test_a_month_counts_on_after_midnight_and_holds_of_the_day_before_stay_in_it(self, world: World) -> None:
        """The store's clock is real, so the test holds on the last day of a month only up to midnight."""
        before, after = await world.initialised(), world.open_at(NOON + DAY_SECONDS)
        item = reserve_item("req_1", limits=["key:cost:month=100"], estimate=tokens(1, 1, prompt_cost=40))
        held = await reserve_with_counters(before, item, charged=0)
        assert (await used(before, item))["key:cost:month"] == (0, 40)

        late = await reserve_with_counters(after, replace(item, request_id="req_2"))

        is_new_month = first_day_of_month(late.status.day) == late.status.day
        assert (await used(after, item))["key:cost:month"] == (0, 40 if is_new_month else 80)
        await after.settle([Settlement("req_1", ACCOUNT, held.status.day, Verdict.CHARGED, Amounts(2, 33))])
        assert (await used(before, item))["key:cost:month"] == (33, 0 if is_new_month else 40)

    async def test_a_month_starts_from_its_initial_count(self, world: World) -> None:
        store = await world.initialised()
        item = reserve_item(limits=["account:cost:month=100"], estimate=tokens(1, 1, prompt_cost=40))
        missing = await reserve(store, item)
        assert isinstance(missing, Uninitialised)
        (counter,) = missing.counters
        assert (counter.key_id, counter.day) == ("", first_day_of_month(missing.day))

        denied = await reserve(store, item, {counter: 61})

        assert isinstance(denied, Denied)
        assert (denied.tightest.limit.name, denied.status.charged) == ("account:cost:month", 61)
        reset = denied.status.reset_at
        noon = await reserve(store, reserve_item(limit=0))
        assert isinstance(noon, Denied)
        days = (reset - noon.status.reset_at) / DAY_SECONDS
        assert days == first_day_of_next_month(missing.day) - 1 - missing.day

    async def test_concurrent_requests_are_limited_until_they_end(self, world: World) -> None:
        store = await world.initialised()
        await initialise(store, 0, key_id="key_other")
        limits = ["account:concurrent_requests=2"]
        items = [reserve_item(f"req_{n}", key_id=key_id, limits=limits) for n, key_id in enumerate((KEY, "key_other"))]
        outcomes = [await reserve(store, item) for item in items]
        denied = await reserve(store, reserve_item("req_2", limits=limits))
        assert [type(outcome) for outcome in (*outcomes, denied)] == [Held, Held, Denied]
        assert isinstance(denied, Denied)
        assert (denied.tightest.limit.name, denied.status.held) == ("account:concurrent_requests", 2)

        await settle(store, "req_0", denied.status.day)

        assert isinstance(await reserve(store, reserve_item("req_2", limits=limits)), Held)

    async def test_requests_in_flight_at_midnight_are_still_concurrent(self, world: World) -> None:
        before, after = await world.initialised(), world.open_at(NOON + DAY_SECONDS)
        await initialise(after, 0)
        limits = ["key:concurrent_requests=1"]
        held = await reserve(before, reserve_item("req_1", limits=limits))
        assert isinstance(held, Held)

        assert isinstance(await reserve(after, reserve_item("req_2", limits=limits)), Denied)

        await settle(after, "req_1", held.status.day)
        assert isinstance(await reserve(after, reserve_item("req_2", limits=limits)), Held)

    async def test_a_request_without_an_estimate_takes_no_tokens(self, world: World) -> None:
        store = await world.initialised()
        item = reserve_item("req_1", limits=["key:tokens:day=10"])

        assert isinstance(await reserve_with_counters(store, item), Held)

        assert (await used(store, item))["key:tokens:day"] == (0, 0)

    async def test_settling_tokens_twice_charges_them_once(self, world: World) -> None:
        store = await world.initialised()
        limits = ["key:tokens:day=1000", "key:cost:month=1000", "key:tokens:minute=1000"]
        item = reserve_item("req_1", limits=limits, estimate=tokens(10, 10, prompt_cost=7))
        held = await reserve_with_counters(store, item)
        settlement = Settlement("req_1", ACCOUNT, held.status.day, Verdict.CHARGED, Amounts(15, 7))

        closed = await store.settle([settlement, settlement])

        found = await used(store, item)
        assert list(closed) == [True, False]
        assert (found["key:tokens:day"], found["key:cost:month"]) == ((15, 0), (7, 0))

    async def test_a_limit_that_is_set_again_starts_from_the_ledger(self, world: World) -> None:
        """While it was not set, requests were charged and not counted."""
        store = await world.initialised()
        limits = ["key:tokens:day=1000", "account:cost:month=1000"]
        item = reserve_item("req_1", limits=limits, estimate=tokens(100, 50, prompt_cost=7))
        held = await reserve_with_counters(store, item)
        await reserve(store, reserve_item("req_2"))
        await store.settle([Settlement("req_1", ACCOUNT, held.status.day, Verdict.CHARGED, Amounts(120, 7))])

        missing = await reserve(store, replace(item, request_id="req_3"))

        assert isinstance(missing, Uninitialised)
        assert {(one.unit, one.window) for one in missing.counters} == {
            (Unit.TOKENS, Window.DAY),
            (Unit.COST, Window.MONTH),
        }
        outcome = await reserve(store, replace(item, request_id="req_3"), dict.fromkeys(missing.counters, 500))
        assert isinstance(outcome, Held)
        found = await used(store, item)
        assert (found["key:tokens:day"], found["account:cost:month"]) == ((500, 150), (500, 7))

    async def test_a_limit_of_a_month_that_was_not_set_for_a_day_starts_from_the_ledger(self, world: World) -> None:
        """The requests of that day were charged and not counted; the day before, the limit was set."""
        day = await today(world.store())
        begin = next(n for n in range(3) if first_day_of_month(day + n) == first_day_of_month(day + n + 2))
        first, second, third = (world.open_at(NOON + (begin + n) * DAY_SECONDS) for n in range(3))
        item = reserve_item("req_1", limits=["key:cost:month=1000"], estimate=tokens(1, 1, prompt_cost=7))
        await reserve_with_counters(first, item)
        await reserve_with_counters(second, reserve_item("req_2"))

        missing = await reserve(third, replace(item, request_id="req_3"))

        assert isinstance(missing, Uninitialised)
        assert (Unit.COST, Window.MONTH) in {(one.unit, one.window) for one in missing.counters}

    async def test_a_limit_of_a_month_that_admitted_nothing_starts_from_the_ledger(self, world: World) -> None:
        """It had a counter, since a request was denied."""
        store = await world.initialised()
        item = reserve_item("req_1", limits=["key:cost:month=1"], estimate=tokens(1, 1, prompt_cost=7))
        assert isinstance(await reserve_with_counters(store, item), Denied)
        await reserve(store, reserve_item("req_2"))

        assert isinstance(await reserve(store, item), Uninitialised)

    async def test_each_request_of_a_batch_takes_its_own_estimate(self, world: World) -> None:
        store = await world.initialised()
        limits = ["key:tokens:day=100", "account:cost:day=50"]
        first = reserve_item(limits=limits, estimate=tokens(10, 30, prompt_cost=5, output_cost_per_million=1_000_000))
        second, third = replace(first, request_id="req_b", estimate=None), replace(first, request_id="req_c")
        fourth = replace(first, request_id="req_d", estimate=tokens(40, 50))
        fifth = replace(first, request_id="req_e", estimate=tokens(90, 1))
        await reserve_with_counters(store, replace(first, request_id="req_0", limit=0))

        outcomes = await store.reserve([first, second, third, fourth, fifth, first], {})

        held = [one.output_tokens if isinstance(one, Held) else None for one in outcomes]
        assert held == [30, 0, 10, None, None, 30]
        found = await used(store, first)
        assert (found["key:requests:day"], found["account:requests:day"]) == ((0, 3), (0, 3))
        assert (found["key:tokens:day"], found["account:cost:day"]) == ((0, 60), (0, 50))

    async def test_each_settlement_of_a_batch_charges_its_own_request(self, world: World) -> None:
        """The holds are alike, but for their amounts, or took of further counters."""
        store = await world.initialised()
        limits = ["key:tokens:day=1000", "key:tokens:minute=1000"]
        item = reserve_item("req_a", limits=limits, estimate=tokens(10, 30))
        further = replace(item, request_id="req_d", limits=parse_limits([*limits, "account:tokens:day=1000"]))
        day = (await reserve_with_counters(store, item)).status.day
        await reserve(store, replace(item, request_id="req_b", estimate=tokens(20, 40)))
        await reserve(store, replace(item, request_id="req_c"))
        await reserve_with_counters(store, further)
        await reserve_with_counters(store, replace(further, request_id="req_e"))
        charged, released = Verdict.CHARGED, Verdict.RELEASED

        closed = await store.settle(
            [
                Settlement("req_a", ACCOUNT, day, charged, Amounts(7, 0)),
                Settlement("req_b", ACCOUNT, day, charged, Amounts(50, 0)),
                Settlement("req_b", ACCOUNT, day, charged, Amounts(50, 0)),
                Settlement("req_c", ACCOUNT, day, released),
                Settlement("req_d", ACCOUNT, day, charged, Amounts(300, 0)),
                Settlement("req_e", ACCOUNT, day, charged),
            ]
        )

        assert list(closed) == [True, True, False, True, True, True]
        found = await used(store, further)
        assert (found["key:requests:day"], found["account:requests:day"]) == ((4, 0), (4, 0))
        assert (found["key:tokens:day"], found["account:tokens:day"]) == ((137, 0), (80, 0))
        assert found["key:tokens:minute"] == (137, 0)

    async def test_a_clock_that_steps_back_by_a_minute_does_not_start_the_minute_over(self, world: World) -> None:
        ahead, behind = world.open_at(NOON + 60), world.open_at(NOON)
        await initialise(ahead, 0)
        limits = ["key:requests:minute=2"]

        outcomes = []
        for number, store in enumerate((ahead, behind, ahead, behind, ahead)):
            outcomes.append(await reserve(store, reserve_item(f"req_{number}", limits=limits)))

        assert [type(outcome) for outcome in outcomes] == [Held, Held, Denied, Denied, Denied]
