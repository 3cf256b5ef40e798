"""Holds: counters initialised from the ledger, on a real server and with a scripted ledger."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

import pytest
from prometheus_client import REGISTRY

from services.common import errors
from services.common.limits import Scope, Window, parse_limits
from services.common.verdict import Verdict
from services.quota import holds
from services.quota.holds import (
    Counter,
    CounterUnavailable,
    DayStatus,
    Denied,
    Held,
    Holds,
    InitialCounts,
    KeyRef,
    Reservation,
    Settlement,
    Uninitialised,
)
from services.quota.redis.store import RedisHoldStore, connect
from tests.contracts.hold_store import ACCOUNT, KEY, initialise, reserve_item
from tests.valkey_backend import valkey_server, valkey_url

__all__ = ["valkey_server", "valkey_url"]


@dataclass
class ScriptedLedger:
    """A ledger with these counts, by key, for the account under the empty id; it fails while it is down."""

    counts: dict[str, int] = field(default_factory=dict)
    is_down: bool = False
    asked: list[list[Counter]] = field(default_factory=list)

    async def count_charged(self, counters: Sequence[Counter]) -> list[int]:
        """Return the counts."""
        self.asked.append(list(counters))
        if self.is_down:
            raise errors.Unavailable("away", reason="ledger_unavailable")
        return [self.counts.get(one.key_id, 0) for one in counters]


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[RedisHoldStore]:
    """A store on an empty server."""
    client = connect(valkey_url, timeout_seconds=10)
    yield RedisHoldStore(client, hold_seconds=60)
    await client.aclose()


async def test_the_first_reserve_of_a_day_starts_from_the_ledgers_count(store: RedisHoldStore) -> None:
    ledger = ScriptedLedger({KEY: 2})

    outcomes = await Holds(store, ledger).reserve([reserve_item(limit=4) for _ in range(3)])

    assert [type(outcome) for outcome in outcomes] == [Held, Held, Denied]


async def test_the_ledger_is_read_once_per_key_and_day(store: RedisHoldStore) -> None:
    ledger = ScriptedLedger()
    holds = Holds(store, ledger)

    await holds.reserve([reserve_item(), reserve_item(), reserve_item(key_id="key_other")])
    await holds.reserve([reserve_item(), reserve_item(key_id="key_other")])

    assert len(ledger.asked) == 1
    assert {one.key_id for one in ledger.asked[0]} == {KEY, "key_other", ""}


def _counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("stack_quota_reservations_total", {"outcome": outcome}) or 0


async def test_an_unavailable_ledger_stops_only_keys_without_a_counter(store: RedisHoldStore) -> None:
    await initialise(store, 0)
    holds = Holds(store, ScriptedLedger(is_down=True))
    held, unavailable = _counted("held"), _counted("unavailable")

    outcomes = await holds.reserve([reserve_item(), reserve_item(key_id="key_new"), reserve_item()])

    assert [type(outcome) for outcome in outcomes] == [Held, CounterUnavailable, Held]
    assert (_counted("held"), _counted("unavailable")) == (held + 2, unavailable + 1)


async def test_nothing_is_held_for_a_key_without_an_initial_count(store: RedisHoldStore) -> None:
    ledger = ScriptedLedger(is_down=True)
    holds = Holds(store, ledger)
    await holds.reserve([reserve_item("req_lost", limit=1)])
    ledger.is_down = False

    (outcome,) = await holds.reserve([reserve_item("req_next", limit=1)])

    assert isinstance(outcome, Held)


async def test_an_emptied_redis_grants_no_charged_request_twice(store: RedisHoldStore) -> None:
    ledger = ScriptedLedger({KEY: 0})
    holds = Holds(store, ledger)
    await holds.reserve([reserve_item(limit=1)])
    ledger.counts[KEY] = 1
    await store._client.flushall()

    (outcome,) = await holds.reserve([reserve_item(limit=1)])

    assert isinstance(outcome, Denied)
    assert outcome.status.charged == 1


async def test_the_status_of_a_key_without_a_counter_is_read_from_the_ledger(store: RedisHoldStore) -> None:
    await initialise(store, 5)
    holds = Holds(store, ScriptedLedger({"key_new": 3}))

    statuses = await holds.status([KeyRef(ACCOUNT, "key_new"), KeyRef(ACCOUNT, KEY)])

    assert [(status.charged, status.held) for status in statuses] == [(3, 0), (5, 0)]


async def test_the_status_of_a_key_without_a_counter_fails_while_the_ledger_is_down(store: RedisHoldStore) -> None:
    with pytest.raises(errors.Unavailable):
        await Holds(store, ScriptedLedger(is_down=True)).status([KeyRef(ACCOUNT, KEY)])


class MidnightStore(RedisHoldStore):
    """A store whose day changes between the first answer and the second."""

    async def reserve(
        self, reservations: Sequence[Reservation], initial_counts: InitialCounts
    ) -> Sequence[Held | Denied | Uninitialised | CounterUnavailable]:
        """Reserve, then pass midnight once."""
        outcomes = await super().reserve(reservations, initial_counts)
        if not initial_counts:
            self._offset += 86_400
        return outcomes


async def test_after_midnight_between_count_and_initialisation_the_count_is_read_again(valkey_url: str) -> None:
    client = connect(valkey_url, timeout_seconds=10)
    ledger = ScriptedLedger()
    holds = Holds(MidnightStore(client, hold_seconds=60), ledger)

    (outcome,) = await holds.reserve([reserve_item()])

    await client.aclose()
    assert isinstance(outcome, Held)
    assert [asked[0].day - ledger.asked[0][0].day for asked in ledger.asked] == [0, 1]


async def test_a_settle_reports_whether_there_was_a_hold(store: RedisHoldStore) -> None:
    holds = Holds(store, ScriptedLedger())
    (held,) = await holds.reserve([reserve_item("req_one")])
    assert isinstance(held, Held)

    settlement = Settlement("req_one", ACCOUNT, held.status.day, Verdict.CHARGED)

    assert await holds.settle([settlement, settlement]) == [True, False]
    assert await holds.status([KeyRef(ACCOUNT, KEY)]) == [DayStatus(held.status.day, 1, 0, held.status.reset_at)]


async def test_more_counters_than_fit_in_one_call_are_counted_in_several(store: RedisHoldStore) -> None:
    """Before, a batch of many new accounts failed as a whole, and again whenever it was repeated."""
    limits = parse_limits(
        f"{scope}:{unit}:{window}=1000" for scope in Scope for unit, window in (("tokens", "day"), ("cost", "day"))
    )
    names = [(f"key_{number}", f"acc_{number}") for number in range(200)]
    items = [replace(reserve_item(key_id=key), account_id=account, limits=limits) for key, account in names]
    ledger = ScriptedLedger()

    outcomes = await Holds(store, ledger).reserve(items)

    assert {type(outcome) for outcome in outcomes} == {Held}
    assert sum(len(some) for some in ledger.asked) == 200 * 6
    assert max(len(some) for some in ledger.asked) <= 1_000


async def test_a_month_that_cannot_be_counted_in_time_stops_only_its_account(
    store: RedisHoldStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SlowForOne(ScriptedLedger):
        async def count_charged(self, counters: Sequence[Counter]) -> list[int]:
            if any(one.window is Window.MONTH and one.account_id == "acc_heavy" for one in counters):
                await asyncio.Event().wait()
            return await super().count_charged(counters)

    monkeypatch.setattr(holds, "_MONTH_SECONDS_MAX", 0.1)
    limits = parse_limits(["account:cost:month=1000"])
    items = [replace(reserve_item(), account_id=one, limits=limits) for one in ("acc_heavy", "acc_light")]

    outcomes = await Holds(store, SlowForOne()).reserve(items)

    assert [type(outcome) for outcome in outcomes] == [CounterUnavailable, Held]
