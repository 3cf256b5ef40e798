"""The live list polls once for all listeners of an account, shows each request once, and ends with the gateway."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import cast

import pytest

from services.common.errors import Throttled, Unavailable
from services.common.receipts import Receipt, ReceiptUsage, iso_time
from services.common.runtime.clock import SystemClock
from services.gateway.console.ports import RequestFilter, RequestPage, UsageClient
from services.gateway.console.usage.live import LISTENERS, LISTENERS_PER_ACCOUNT, LiveRequests

_POLL = 0.02
_START = 1_700_000_000.0


def receipt(number: int, *, ended: float, duration: float = 1.0) -> Receipt:
    """Return a request that ended some seconds after the start."""
    return Receipt(
        id=f"req_{number:026}", key_id="key_1", day="2023-11-14", created_at=iso_time(_START + ended - duration),
        model="m", surface=None, stream=False, outcome="answered", charged=True, refund_reason=None,
        usage=ReceiptUsage(1, 1, 2, 0, 0, "reported"), cost_microdollars=None, cost_usd=None, attempts=1,
        time_to_first_token_ms=None, duration_ms=round(duration * 1000),
    )  # fmt: skip


@dataclass
class Ledger:
    """Returns the rows that match, and counts the polls."""

    rows: list[Receipt] = field(default_factory=list)
    polls: list[float | None] = field(default_factory=list)
    is_down: bool = False

    async def requests(self, filters: RequestFilter, *, count: int, scan_max: int) -> RequestPage:
        self.polls.append(filters.ended_from)
        await asyncio.sleep(0)
        if self.is_down:
            raise Unavailable("down", reason="inference_unavailable")
        found = [one for one in self.rows if filters.ended_from is None or _end(one) >= filters.ended_from]
        return RequestPage(sorted(found, key=lambda one: one.id, reverse=True)[:count], "")


def _end(one: Receipt) -> float:
    number = int(one.id[4:])
    return next(_START + ended for candidate, ended in _ENDS if candidate == number)


_ENDS = [(1, 10.0), (2, 11.0), (3, 12.0), (4, 11.5), (9, 1.0)]


def _live(*, is_draining: bool = False) -> tuple[LiveRequests, Ledger, list[bool]]:
    draining = [is_draining]
    return LiveRequests(SystemClock(), is_draining=lambda: draining[0], poll_seconds=_POLL), Ledger(), draining


async def _heard(live: LiveRequests, ledger: Ledger, polls: int) -> list[Sequence[Receipt] | None]:
    heard: list[Sequence[Receipt] | None] = []
    async with aclosing(live.listen("acc_1", cast(UsageClient, ledger))) as events:
        async for event in events:
            heard.append(event)
            if len(heard) == polls:
                break
    return heard


def _ids(event: Sequence[Receipt] | None) -> list[int]:
    assert event is not None
    return [int(one.id[4:]) for one in event]


async def test_a_request_that_ends_appears_once_however_early_it_began() -> None:
    live, ledger, _ = _live()
    ledger.rows = [receipt(1, ended=10.0), receipt(2, ended=11.0)]
    events = live.listen("acc_1", cast(UsageClient, ledger))
    assert _ids(await anext(events)) == [2, 1]
    assert _ids(await anext(events)) == []
    ledger.rows += [receipt(3, ended=12.0), receipt(4, ended=11.5, duration=11.0)]
    assert sorted(_ids(await anext(events))) == [3, 4]
    assert _ids(await anext(events)) == []
    await events.aclose()
    assert ledger.polls[:3] == [None, _START + 11.0 - 5.0, _START + 11.0 - 5.0]
    assert ledger.polls[3] == _START + 12.0 - 5.0


async def test_listeners_of_an_account_share_the_polls_and_a_new_one_gets_the_recent_requests() -> None:
    live, ledger, _ = _live()
    ledger.rows = [receipt(1, ended=10.0)]
    started = asyncio.get_running_loop().time()
    heard = await asyncio.gather(*(_heard(live, ledger, 5) for _ in range(4)))
    seconds = asyncio.get_running_loop().time() - started
    assert len(ledger.polls) <= seconds / _POLL + 2
    assert all([_ids(event) for event in one] == [[1], [], [], [], []] for one in heard)

    events = live.listen("acc_1", cast(UsageClient, ledger))
    await anext(events)
    assert _ids((await _heard(live, ledger, 1))[0]) == [1], "the page of a new listener may be older than the request"
    await events.aclose()
    assert not live._feeds, "nobody listens"


async def test_while_the_ledger_is_down_listeners_are_told_and_polls_do_not_become_more() -> None:
    live, ledger, _ = _live()
    ledger.is_down = True
    started = asyncio.get_running_loop().time()
    heard = await asyncio.gather(*(_heard(live, ledger, 2) for _ in range(3)))
    seconds = asyncio.get_running_loop().time() - started
    assert heard == [[None, None]] * 3
    assert len(ledger.polls) <= seconds / _POLL + 2
    ledger.is_down, ledger.rows = False, [receipt(1, ended=10.0)]
    assert _ids((await _heard(live, ledger, 1))[0]) == [1]


async def test_a_draining_gateway_ends_all_listening_at_once() -> None:
    live, ledger, draining = _live()
    live._poll_seconds = 60.0
    listening = [asyncio.create_task(_heard(live, ledger, 9)) for _ in range(3)]
    await asyncio.sleep(0.05)
    draining[0] = True
    async with asyncio.timeout(2):
        assert [len(one) for one in await asyncio.gather(*listening)] == [1, 1, 1]
    assert await _heard(live, ledger, 1) == []


async def test_listeners_are_limited_per_account_and_in_all() -> None:
    live, _, _ = _live()
    slots = [await live.acquire("acc_0") for _ in range(LISTENERS_PER_ACCOUNT)]
    with pytest.raises(Throttled):
        await live.acquire("acc_0")
    slots += [await live.acquire(f"acc_{number}") for number in range(1, LISTENERS - LISTENERS_PER_ACCOUNT + 1)]
    with pytest.raises(Throttled):
        await live.acquire("acc_new")
    slots[0].release()
    (await live.acquire("acc_0")).release()
