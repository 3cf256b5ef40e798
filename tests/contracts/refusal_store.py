"""The contract of `RefusalStore`; each implementation subclasses this and provides a `world` fixture."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from services.quota.holds import KeyRef
from services.quota.refusals import OTHER, SECONDS_MAX, Refusal, RefusalStore, RefusedRequests

KEY = KeyRef("acc_contract", "key_contract")
KEYS = [KeyRef(f"acc_{number % 40}", f"key_{number}") for number in range(100)]
_HOUR_SECONDS = 3_600


@dataclass(frozen=True, slots=True)
class RefusalWorld:
    """A store on an empty server, and the server's clock."""

    store: RefusalStore
    now: Callable[[], Awaitable[int]]


def refused(
    count: int = 1, *, key: KeyRef = KEY, status: int = 400, code: str = "invalid_type", age_seconds: int = 0
) -> RefusedRequests:
    """Return a number of refused requests."""
    return RefusedRequests(key, status, code, count, age_seconds)


def total(refusals: Sequence[Refusal]) -> int:
    """Return the number of all requests."""
    return sum(sum(one.hours.values()) for one in refusals)


class RefusalStoreContract:
    """What every store keeps."""

    async def test_numbers_are_added_up_by_status_code_and_hour(self, world: RefusalWorld) -> None:
        now = await world.now()
        await world.store.record([refused(2), refused(3), refused(4, age_seconds=2 * _HOUR_SECONDS)])
        await world.store.record([refused(5), refused(1, status=429, code="rate_limit_exceeded")])
        (found,) = await world.store.list([KEY])
        by_code = {(one.status, one.code): one for one in found}
        assert by_code.keys() == {(400, "invalid_type"), (429, "rate_limit_exceeded")}
        hours = by_code[400, "invalid_type"].hours
        assert list(hours) == sorted(hours)
        assert all(hour % _HOUR_SECONDS == 0 for hour in hours)
        assert sorted(hours.values()) in ([4, 10], [4, 5, 5]), "the second one if an hour ended between the calls"
        assert now <= by_code[400, "invalid_type"].last_at <= await world.now()

    async def test_the_time_of_the_last_request_is_the_latest(self, world: RefusalWorld) -> None:
        now = await world.now()
        await world.store.record([refused(age_seconds=100)])
        await world.store.record([refused(age_seconds=5_000)])
        ((found,),) = await world.store.list([KEY])
        assert now - 100 <= found.last_at <= await world.now() - 100

    async def test_seven_days_are_listed(self, world: RefusalWorld) -> None:
        ages = [0, 86_400, 6 * 86_400 + 80_000, SECONDS_MAX]
        await world.store.record([refused(10**n, age_seconds=age) for n, age in enumerate(ages)])
        (found,) = await world.store.list([KEY])
        assert total(found) == 111, "the hour of what is seven days old began earlier"

    async def test_each_key_has_its_own_numbers(self, world: RefusalWorld) -> None:
        await world.store.record([refused(number + 1, key=key) for number, key in enumerate(KEYS)])
        found = await world.store.list([*KEYS, KEY])
        assert [total(one) for one in found] == [*range(1, len(KEYS) + 1), 0]

    async def test_a_key_of_another_account_has_none(self, world: RefusalWorld) -> None:
        await world.store.record([refused()])
        assert await world.store.list([KeyRef("acc_other", KEY.key_id)]) == [[]]

    async def test_concurrent_calls_lose_nothing(self, world: RefusalWorld) -> None:
        await asyncio.gather(*(world.store.record([refused(), refused(code="")]) for _ in range(50)))
        (found,) = await world.store.list([KEY])
        assert total(found) == 100

    async def test_many_different_codes_are_counted_as_other(self, world: RefusalWorld) -> None:
        codes = [f"code_{number}" for number in range(500)]
        for _ in range(2):
            await world.store.record([refused(code=code) for code in codes])
        (found,) = await world.store.list([KEY])
        others = [one for one in found if (one.status, one.code) == (0, OTHER)]
        assert total(found) == 1_000
        assert len(others) == 1
        assert len(found) < 150

    async def test_a_code_that_is_none_is_other(self, world: RefusalWorld) -> None:
        await world.store.record([refused(code="A b:c"), refused(code="x" * 65), refused(code="")])
        (found,) = await world.store.list([KEY])
        assert {(one.status, one.code): total([one]) for one in found} == {(400, OTHER): 2, (400, ""): 1}
