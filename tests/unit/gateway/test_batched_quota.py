"""A reserve that meets a settle in flight, with a scripted quota."""

import asyncio
from collections.abc import Sequence

import pytest

from services.common.errors import Unavailable
from services.common.verdict import CHARGED, RELEASED, RowVerdict
from services.gateway.clients.batched_quota import BatchedQuota, ReserveItem, SettleItem
from services.gateway.requests.types import Hold, LimitReached, Principal, RateLimit

_PRINCIPAL = Principal("key_1", "acc_1", 1, None)
_HOLD = Hold("req_1", _PRINCIPAL, "2024-10-04", 1.0, RateLimit(1, 0, 1, 2.0))


class ScriptedQuota:
    """Answers the first reserve after a settle that came later in quota: one slot is still held."""

    def __init__(self) -> None:
        self.settled = asyncio.Event()
        self.reserves = 0

    async def reserve(self, items: Sequence[ReserveItem]) -> Sequence[Hold | LimitReached | Unavailable]:
        self.reserves += 1
        is_first = self.reserves == 1
        await asyncio.wait_for(self.settled.wait(), 5)
        await asyncio.sleep(0.05)
        return [LimitReached(RateLimit(1, 0, 1, 2.0) if is_first else RateLimit(1, 1, 0, 2.0))] * len(items)

    async def settle(self, items: Sequence[SettleItem]) -> Sequence[Unavailable | None]:
        self.settled.set()
        return [None] * len(items)


@pytest.mark.parametrize("verdict", [CHARGED, RELEASED], ids=["charged", "released"])
async def test_a_reserve_is_repeated_if_a_settle_in_flight_was_answered_first(verdict: RowVerdict) -> None:
    """Otherwise a client at its limit gets "in use", waits and retries, although the limit is used up."""
    scripted = ScriptedQuota()
    quota = BatchedQuota(scripted)
    settled = quota.settle(_HOLD, verdict)

    with pytest.raises(LimitReached) as raised:
        await quota.reserve("req_2", _PRINCIPAL)

    assert settled.done()
    assert (raised.value.rate_limit.charged, raised.value.rate_limit.held) == (1, 0)


async def test_a_reserve_without_a_settle_in_flight_is_not_repeated() -> None:
    scripted = ScriptedQuota()
    scripted.settled.set()

    with pytest.raises(LimitReached):
        await BatchedQuota(scripted).reserve("req_2", _PRINCIPAL)

    assert scripted.reserves == 1
