"""The view of Groq's limits: the same rules in memory and in Redis, and one view for all replicas."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from services.common.runtime.clock import SystemClock
from services.inference.allowance.model import AllowanceView, Demand, Observation, Settlement, Window
from services.inference.allowance.own_view import OwnView
from services.inference.allowance.shared_view import PREFIX, SharedView, connect
from tests.valkey_backend import ValkeyServer, own_valkey, valkey_server, valkey_url

__all__ = ["own_valkey", "valkey_server", "valkey_url"]

TPM, RPM, RPD = Window.TOKENS_PER_MINUTE, Window.REQUESTS_PER_MINUTE, Window.REQUESTS_PER_DAY
LIMITS = {"m": {TPM: 6_000, RPM: 1_000}}
MODEL = "m"
GROQ_KEYS = ("gsk_one", "gsk_two", "gsk_three")


def demand(account: str = "acc_1", tokens: int = 100, *, weight: int = 1, waiting: int = 0, keys: int = 1) -> Demand:
    """Return a demand; `waiting` requests of the same size wait in the same process."""
    return Demand(account, weight, tokens, list(range(keys)), waiting * tokens, waiting)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Yield a stack that is closed after the test."""
    async with AsyncExitStack() as stack:
        yield stack


def shared(stack: AsyncExitStack, url: str, *, groq_keys: Sequence[str] = GROQ_KEYS, **options: Any) -> SharedView:
    """Return the view of one replica."""
    client = connect(url)
    stack.push_async_callback(client.aclose)
    own = OwnView(SystemClock(), **{"configured": LIMITS, **options})
    view = SharedView(client, own, SystemClock(), keys=groq_keys)
    stack.push_async_callback(view.close)
    return view


@pytest.fixture(params=["own", "shared"])
def view(request: pytest.FixtureRequest, stack: AsyncExitStack, valkey_url: str) -> AllowanceView:
    """Return each kind of view in turn."""
    return OwnView(SystemClock(), configured=LIMITS) if request.param == "own" else shared(stack, valkey_url)


async def recorded(view: AllowanceView) -> None:
    """Return when the view has recorded everything."""
    if isinstance(view, SharedView) and view._recorder is not None:
        await view._recorder


async def take(view: AllowanceView, *demands: Demand, is_waiting: bool = False) -> tuple[list[tuple[int, int]], float]:
    """Return the grants as position and key, and the time to wait for the rest."""
    turn = await view.acquire(MODEL, demands, grants_max=100, is_waiting=is_waiting)
    return [(grant.position, grant.key) for grant in turn.grants], turn.seconds


async def ask(view: AllowanceView, *demands: Demand) -> None:
    """Ask for waiting requests without a grant, as if there were no allowance left for them."""
    assert not (await view.acquire(MODEL, demands, grants_max=0, is_waiting=True)).grants


async def test_a_request_waits_exactly_for_the_tokens_that_are_missing(view: AllowanceView) -> None:
    assert await take(view, demand(tokens=5_000)) == ([(0, 0)], 0)

    grants, seconds = await take(view, demand(tokens=1_443))

    assert grants == []
    assert seconds == pytest.approx((5_000 + 1_443 - 6_000 * 0.98) / 100, abs=0.2)


async def test_a_request_larger_than_the_limit_is_sent_when_nothing_is_used(view: AllowanceView) -> None:
    assert (await take(view, demand(tokens=50_000)))[0] == [(0, 0)]

    assert (await take(view, demand(tokens=3_000)))[0] == []


async def test_a_request_takes_at_most_what_refills_in_a_minute_and_returns_as_much(view: AllowanceView) -> None:
    assert (await take(view, demand(tokens=10**9)))[0] == [(0, 0)]

    other = await view.admit(MODEL, demand("acc_2"), wait_max=60, wait_min=0)
    assert other.is_admitted
    assert other.seconds < 30
    view.leave(MODEL, "acc_2")
    view.settle(Settlement(MODEL, 0, "acc_1", 1, estimated=10**9, used=5_000))
    await recorded(view)
    assert (await take(view, demand("acc_2", 2_000)))[0] == []
    assert (await take(view, demand("acc_2", 880)))[0] == [(0, 0)]


async def test_the_key_with_most_left_is_used(view: AllowanceView) -> None:
    await take(view, Demand("acc_1", 1, 3_000, [0]))
    await take(view, Demand("acc_1", 1, 1_000, [1]))

    assert (await take(view, demand(keys=3)))[0] == [(0, 2)]
    await take(view, Demand("acc_1", 1, 5_000, [2]))
    assert (await take(view, demand(keys=3)))[0] == [(0, 1)]


async def test_tokens_that_were_not_used_are_given_back(view: AllowanceView) -> None:
    await take(view, demand(tokens=5_800))
    assert (await take(view, demand(tokens=1_000)))[0] == []

    view.settle(Settlement(MODEL, 0, "acc_1", 1, estimated=5_800, used=300))
    await recorded(view)

    assert (await take(view, demand(tokens=1_000)))[0] == [(0, 0)]


async def test_what_groq_has_counted_replaces_a_lower_count(view: AllowanceView) -> None:
    view.observe(MODEL, 0, [Observation(TPM, 6_000, 5_900)])
    await recorded(view)

    assert (await take(view, demand(tokens=500)))[0] == []


async def test_limits_are_learned_and_a_lost_request_does_not_count_all_day(view: AllowanceView) -> None:
    for _ in range(20):
        await view.acquire("other", [demand(tokens=10)], grants_max=1, is_waiting=False)
    view.observe("other", 0, [Observation(RPD, 20, 20)])
    await recorded(view)
    assert not (await view.acquire("other", [demand()], grants_max=1, is_waiting=False)).grants

    view.observe("other", 0, [Observation(RPD, 20, 5)])
    await recorded(view)

    assert (await view.acquire("other", [demand()], grants_max=1, is_waiting=False)).grants


async def test_accounts_are_served_by_the_tokens_that_each_got_per_weight(view: AllowanceView) -> None:
    accounts = [demand("acc_a", 500, waiting=50), demand("acc_b", 100, waiting=50), demand("acc_c", 100, weight=3)]
    accounts[2] = Demand("acc_c", 3, 100, [0], 5_000, 50)
    for one in accounts:
        await view.admit(MODEL, one, wait_max=1_000, wait_min=0)
    served = {"acc_a": 0, "acc_b": 0, "acc_c": 0}
    while True:
        turn = await view.acquire(MODEL, accounts, grants_max=1, is_waiting=True)
        if not turn.grants:
            break
        one = accounts[turn.grants[0].position]
        served[one.account_id] += one.tokens

    assert sum(served.values()) > 5_000
    assert served["acc_a"] == pytest.approx(served["acc_b"], abs=500)
    assert served["acc_c"] == pytest.approx(3 * served["acc_b"], abs=600)


@pytest.mark.long
async def test_a_request_that_would_wait_too_long_is_told_when_to_return_and_is_then_served_first(
    stack: AsyncExitStack, valkey_url: str
) -> None:
    for view in (
        OwnView(SystemClock(), configured={"m": {RPM: 60}}, minute_seconds=6.0),
        shared(stack, valkey_url, configured={"m": {RPM: 60}}, minute_seconds=6.0),
    ):
        for _ in range(58):
            await take(view, demand(tokens=1))
        waiting = demand(tokens=1, waiting=20)  # Two seconds at ten a second.
        refused = await view.admit(MODEL, waiting, wait_max=1.0, wait_min=0)
        later = await view.admit(MODEL, waiting, wait_max=1.0, wait_min=0)
        assert (refused.is_admitted, later.is_admitted) == (False, False)
        assert 1 <= refused.seconds <= later.seconds <= 3

        newcomer = await view.admit(MODEL, demand(tokens=1, waiting=8), wait_max=1.0, wait_min=0)
        assert not newcomer.is_admitted, "its place was given to the others"
        await asyncio.sleep(refused.seconds + 0.05)
        returning = await view.admit(MODEL, demand(tokens=1, waiting=8), wait_max=1.0, wait_min=0)

        assert returning.is_admitted


async def test_another_account_is_admitted_although_one_has_a_long_queue(view: AllowanceView) -> None:
    await take(view, demand(tokens=5_800))
    assert not (await view.admit(MODEL, demand(waiting=50), wait_max=5, wait_min=0)).is_admitted

    assert (await view.admit(MODEL, demand("acc_2"), wait_max=5, wait_min=0)).is_admitted


async def test_replicas_share_one_allowance(stack: AsyncExitStack, valkey_url: str) -> None:
    first, second = shared(stack, valkey_url), shared(stack, valkey_url)
    await take(first, demand(tokens=5_500))

    assert (await take(second, demand(tokens=500)))[0] == []

    first.observe("other", 0, [Observation(TPM, 1_000, 990)])
    await recorded(first)
    assert not (await second.acquire("other", [demand()], grants_max=1, is_waiting=False)).grants, "limits too"


async def test_what_is_taken_for_a_caller_that_leaves_is_given_back(stack: AsyncExitStack, valkey_url: str) -> None:
    view = shared(stack, valkey_url)
    await take(view, demand(tokens=100))
    cancelled = 0
    for turns in range(30):  # So many turns of the event loop after its start, a caller leaves.
        task = asyncio.create_task(take(view, demand(tokens=180)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        cancelled += isinstance(result, asyncio.CancelledError)
        if not isinstance(result, BaseException) and result[0]:
            view.settle(Settlement(MODEL, 0, "acc_1", 1, estimated=180, used=0, requests=0))

    await view.close()

    assert cancelled >= 5
    assert (await take(view, demand(tokens=5_700)))[0] == [(0, 0)]


async def test_an_account_that_got_less_is_served_first_although_it_waits_at_another_replica(
    stack: AsyncExitStack, valkey_url: str
) -> None:
    first, second = shared(stack, valkey_url), shared(stack, valkey_url)
    heavy, light = demand("acc_heavy", 100, waiting=1), demand("acc_light", 100, waiting=1)
    await ask(second, light)
    for _ in range(5):
        await first.acquire(MODEL, [heavy], grants_max=1, is_waiting=True)

    grants, seconds = await take(first, heavy, is_waiting=True)

    assert grants == []
    assert 0 < seconds < 0.1, "asks again soon"
    assert (await take(second, light, is_waiting=True))[0] == [(0, 0)]
    assert (await take(first, heavy, is_waiting=True))[0] == [(0, 0)]


async def test_an_account_that_waits_but_could_not_be_served_holds_up_no_other(
    stack: AsyncExitStack, valkey_url: str
) -> None:
    first, second = shared(stack, valkey_url), shared(stack, valkey_url)
    heavy, light = demand("acc_heavy", 100, waiting=1), demand("acc_light", 100, waiting=1)
    await ask(second, light)
    for _ in range(5):
        await take(first, heavy, is_waiting=True)
    assert (await take(first, heavy, is_waiting=True))[0] == []

    second.pause(MODEL, "acc_light")
    await second.admit(MODEL, light, wait_max=100, wait_min=0)  # Another request of it waits, for the same reason.
    await recorded(second)

    for _ in range(5):
        assert (await take(first, heavy, is_waiting=True))[0] == [(0, 0)]
    await ask(second, light)
    assert (await take(second, light, is_waiting=True))[0] == [(0, 0)]


async def test_an_account_cannot_save_up_its_share_while_it_could_not_be_served(view: AllowanceView) -> None:
    limited, other = demand("acc_limited", 100, waiting=9), demand("acc_other", 100, waiting=9)
    await ask(view, limited, other)
    view.pause(MODEL, "acc_limited")
    await recorded(view)
    for _ in range(10):
        assert (await take(view, other, is_waiting=True))[0] == [(0, 0)]

    grants = [(await view.acquire(MODEL, [limited, other], grants_max=1, is_waiting=True)).grants for _ in range(10)]

    assert sum(position == 0 for ((position, _),) in grants) in (5, 6)


@pytest.mark.long
async def test_what_waits_at_a_replica_that_ended_holds_nobody_up_for_long(
    stack: AsyncExitStack, valkey_url: str
) -> None:
    first, ended = shared(stack, valkey_url), shared(stack, valkey_url)
    await ask(ended, demand("acc_light", waiting=1))
    heavy = demand("acc_heavy", 100, waiting=1)
    while (await take(first, heavy, is_waiting=True))[0]:
        pass

    began = time.monotonic()
    while not (await take(first, heavy, is_waiting=True))[0]:
        await asyncio.sleep(0.05)
        assert time.monotonic() - began < 10

    assert 1 < time.monotonic() - began < 5


async def test_limits_stay_with_their_groq_key_if_keys_are_replaced_or_reordered(
    stack: AsyncExitStack, valkey_url: str
) -> None:
    before = shared(stack, valkey_url, groq_keys=("gsk_one", "gsk_two"))
    before.observe("other", 0, [Observation(RPD, 1_000, 1_000)])
    await recorded(before)

    after = shared(stack, valkey_url, groq_keys=("gsk_new", "gsk_two", "gsk_one"))

    for index, is_free in enumerate((True, True, False)):
        turn = await after.acquire("other", [Demand("acc_1", 1, 1, [index])], grants_max=1, is_waiting=False)
        assert [grant.key for grant in turn.grants] == ([index] if is_free else [])
    client: Any = connect(valkey_url)
    stack.push_async_callback(client.aclose)
    assert not [name for name in await client.hgetall(f"{PREFIX}:{{other}}:state") if b"gsk" in name]


async def test_groq_keys_that_were_removed_leave_nothing_after_two_days(stack: AsyncExitStack, valkey_url: str) -> None:
    view = shared(stack, valkey_url)
    view.observe("other", 0, [Observation(RPD, 1_000, 1_000)])
    view.observe("other", 1, [Observation(RPD, 1_000, 1_000)])
    await recorded(view)
    client: Any = connect(valkey_url)
    stack.push_async_callback(client.aclose)
    state = f"{PREFIX}:{{other}}:state"
    fields = [name for name in await client.hkeys(state) if name.endswith(b":at")]
    await client.hset(state, fields[0], str(time.time() - 3 * 86_400))

    await view.acquire("other", [demand(keys=3)], grants_max=1, is_waiting=False)

    removed = fields[0].partition(b":")[0]
    left = await client.hkeys(state)
    assert not [name for name in left if name.startswith(removed)]
    assert fields[1] in left


async def test_models_that_groq_does_not_know_leave_no_keys_for_long(stack: AsyncExitStack, valkey_url: str) -> None:
    view = shared(stack, valkey_url, configured={"*": {RPM: 2}})
    client: Any = connect(valkey_url)
    stack.push_async_callback(client.aclose)

    async def use(model: str) -> list[int]:
        """Grant a request, refuse one and let one wait, and return how long each Redis key of the model lives."""
        for wait_max in (-1, 1_000):
            await view.acquire(model, [demand()], grants_max=1, is_waiting=False)
            await view.admit(model, demand(), wait_max=wait_max, wait_min=1)
        return [await client.ttl(key) for key in await client.keys(f"{PREFIX}:{{{model}}}:*")]

    unknown = await use("unknown")
    view.observe("known", 0, [Observation(RPD, 1_000, 1)])
    await recorded(view)
    known = await use("known")

    assert len(unknown) == len(known) == 5
    assert all(0 < seconds <= 120 for seconds in unknown)
    assert max(known) > 100_000


@pytest.mark.long
async def test_a_clock_that_is_set_back_stops_no_refill(stack: AsyncExitStack, valkey_url: str) -> None:
    view, ended = (shared(stack, valkey_url, configured={MODEL: {RPM: 60}}) for _ in range(2))
    while (await take(view, demand(tokens=1)))[0]:
        pass
    await ask(ended, demand("acc_ended", waiting=1))
    client: Any = connect(valkey_url)
    stack.push_async_callback(client.aclose)
    state, waiting = (f"{PREFIX}:{{{MODEL}}}:{part}" for part in ("state", "waiting"))
    for name, value in (await client.hgetall(state)).items():  # As if the clock had been ten minutes ahead until now.
        if name.endswith(b":at"):
            await client.hset(state, name, str(float(value) + 600))
    for name, value in (await client.hgetall(waiting)).items():
        *numbers, expiry, is_asking = value.decode().split()
        await client.hset(waiting, name, " ".join([*numbers, str(float(expiry) + 600), is_asking]))

    began = time.monotonic()
    for _ in range(3):
        while not (await take(view, demand("acc_2", tokens=1, waiting=9), is_waiting=True))[0]:
            await asyncio.sleep(0.05)
            assert time.monotonic() - began < 10, "one request a second becomes free"


async def test_many_calls_at_once_wait_for_a_connection_and_stay_shared(stack: AsyncExitStack, valkey_url: str) -> None:
    views = [shared(stack, valkey_url, configured={MODEL: {RPM: 30}}) for _ in range(3)]

    taken = await asyncio.gather(*(take(view, demand(f"acc_{n}", 1)) for view in views for n in range(200)))

    assert all(view.is_shared for view in views)
    assert 29 <= sum(len(grants) for grants, _ in taken) <= 33, "29 at once, and one every two seconds"


async def test_a_redis_that_hangs_delays_requests_shortly_and_once(
    stack: AsyncExitStack, own_valkey: ValkeyServer
) -> None:
    view = shared(stack, own_valkey.url)
    await take(view, demand(tokens=1_000))
    assert view.is_shared
    own_valkey.send(signal.SIGSTOP)
    try:
        began = time.monotonic()
        results = await asyncio.gather(*(take(view, demand(tokens=10)) for _ in range(20)))
        first = time.monotonic() - began
        began = time.monotonic()
        await take(view, demand(tokens=10))
        second = time.monotonic() - began
        assert not view.is_shared
        assert (await take(view, demand(tokens=5_000)))[0] == [], "the own view knows what was sent"
    finally:
        own_valkey.send(signal.SIGCONT)

    assert all(grants == [(0, 0)] for grants, _ in results)
    assert first < 1
    assert second < 0.1
    await asyncio.sleep(1.1)
    await take(view, demand(tokens=1))
    assert view.is_shared


async def test_a_redis_that_is_not_reachable_breaks_no_request(stack: AsyncExitStack) -> None:
    view = shared(stack, "redis://127.0.0.1:1/0")

    assert (await take(view, demand()))[0] == [(0, 0)]
    view.settle(Settlement(MODEL, 0, "acc_1", 1, estimated=100, used=1))

    assert not view.is_shared
