"""The queue for calls to Groq: order, limits, deadlines, and no lost slot."""

import asyncio
import time
from typing import Any

import pytest

from services.common.runtime.clock import SystemClock
from services.inference.allowance.model import Limits as WindowLimits
from services.inference.allowance.model import Settlement, Turn, Window
from services.inference.allowance.own_view import OwnView
from services.inference.groq.errors import KeyLimited, KeyRefused, UpstreamBusy, UpstreamError
from services.inference.key_pool.pool import KeyPool
from services.inference.requests.queue import UpstreamQueue
from services.inference.requests.slots import Limits, Slot, Waiter

TPM, RPM = Window.TOKENS_PER_MINUTE, Window.REQUESTS_PER_MINUTE


class Calls:
    """Calls that hold their slot until the test ends them. A call is named by its account and a number."""

    def __init__(
        self,
        *,
        calls_max: int = 100,
        per_account_max: int = 100,
        waiting_max: int = 100,
        is_shared: bool = True,
        keys: int = 1,
        limits: WindowLimits | None = None,
        wait_max: float = 30,
    ) -> None:
        clock = SystemClock()
        self.pool = KeyPool(keys, clock, cooldown_seconds_max=3600, failures_max=5)
        self.view = OwnView(clock, configured={"m": limits or {}}, minute_seconds=1.0)
        self.queue = UpstreamQueue(
            self.pool, self.view, Limits(calls_max, per_account_max, waiting_max), clock=clock, is_shared=is_shared
        )
        self.begun: list[str] = []
        self.slots: dict[str, Slot] = {}
        self.tasks: dict[str, asyncio.Task[Any]] = {}
        self.wait_max = wait_max

    async def begin(self, *names: str, tokens: int = 1, weight: int = 1, models: tuple[str, ...] = ("m",)) -> None:
        """Begin calls, in this order."""
        for name in names:
            task = asyncio.create_task(self._acquire(name, Waiter(name[:-1], weight, tokens), models))
            self.tasks[name] = task
            await asyncio.sleep(0.002)

    async def end(self, *names: str) -> None:
        """End calls, each when it has begun."""
        for name in names:
            await asyncio.wait_for(self.tasks[name], 10)
            self.slots.pop(name).release()
            await asyncio.sleep(0.002)

    async def cancel(self, name: str) -> None:
        """Cancel a call that waits."""
        self.tasks[name].cancel()
        await asyncio.gather(self.tasks[name], return_exceptions=True)
        await asyncio.sleep(0.002)

    async def refused(self, name: str, **options: Any) -> UpstreamError:
        """Begin a call that must be refused, and return its error."""
        await self.begin(name, **options)
        with pytest.raises(UpstreamError) as raised:
            await asyncio.wait_for(self.tasks[name], 10)
        return raised.value

    @property
    def is_unused(self) -> bool:
        """Whether the queue holds no state of any call."""
        queue = self.queue
        return (queue.calls, dict(queue._permits._of_accounts), queue._models, queue._waiting.value) == (0, {}, {}, 0)

    async def _acquire(self, name: str, waiter: Waiter, models: tuple[str, ...]) -> None:
        self.slots[name] = await self.queue.acquire(waiter, models, wait_max=self.wait_max)
        self.begun.append(name)


async def test_a_call_waits_for_a_free_permit() -> None:
    one = Calls(calls_max=2)
    await one.begin("a1", "a2", "a3")
    assert one.begun == ["a1", "a2"]

    await one.end("a1")

    assert one.begun == ["a1", "a2", "a3"]
    await one.end("a2", "a3")
    assert one.is_unused


async def test_an_account_with_many_waiting_calls_delays_others_by_one() -> None:
    one = Calls(calls_max=1)
    await one.begin("a1", "a2", "a3", "a4", "b1", "c1")

    await one.end("a1", "b1", "c1", "a2", "a3", "a4")

    assert one.begun == ["a1", "b1", "c1", "a2", "a3", "a4"]
    assert one.is_unused


async def test_an_account_at_its_limit_does_not_block_others() -> None:
    one = Calls(calls_max=3, per_account_max=2)

    await one.begin("a1", "a2", "a3", "b1")

    assert one.begun == ["a1", "a2", "b1"]
    await one.end("b1")
    assert "a3" not in one.begun
    await one.end("a1", "a2", "a3")
    assert one.begun[-1] == "a3"


async def test_a_single_account_may_use_every_permit_until_another_one_arrives() -> None:
    one = Calls(calls_max=3, per_account_max=1, is_shared=False)

    await one.begin("a1", "a2", "a3")
    assert one.begun == ["a1", "a2", "a3"]
    await one.begin("b1")
    await one.end("a1")
    assert one.begun[-1] == "b1"
    await one.begin("a4")
    await one.end("a2")
    assert "a4" not in one.begun, "there are two accounts now, and it has one permit of three"

    await one.end("a3", "a4", "b1")
    assert one.is_unused


async def test_calls_without_an_account_have_no_limit_per_account() -> None:
    one = Calls(per_account_max=1)

    for _ in range(3):
        await one.queue.acquire(Waiter("", 1, 1), ["m"], wait_max=0)

    assert one.queue.calls == 3


@pytest.mark.parametrize("is_granted", [False, True])
async def test_a_call_that_is_cancelled_while_it_waits_keeps_no_slot(is_granted: bool) -> None:
    one = Calls(calls_max=1)
    await one.begin("a1", "a2", "b1")

    if is_granted:
        one.slots.pop("a1").release()
        while one.queue._waiting.value == 2:
            await asyncio.sleep(0)  # Until a slot is granted to a call that has not run yet.
        name = next(name for name in ("a2", "b1") if name not in one.begun)
        await one.cancel(name)
        rest = "b1" if name == "a2" else "a2"
    else:
        await one.cancel("a2")
        rest = "b1"
        await one.end("a1")
    await one.end(rest)

    assert one.is_unused


async def test_a_caller_that_leaves_as_its_turn_comes_disturbs_no_other() -> None:
    one = Calls(calls_max=1)
    await one.begin("a1", "a2", "a3", "b1")

    one.tasks["a2"].cancel()
    one.tasks["b1"].cancel()
    one.slots.pop("a1").release()  # The queue serves the next before the two have noticed.
    await one.end("a3")

    assert one.begun == ["a1", "a3"]
    assert one.is_unused


async def test_a_caller_that_leaves_while_the_queue_fails_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Calls(calls_max=1)
    await one.begin("a1", "b1", "c1")
    serving = one.queue._models["m"].task
    assert serving is not None

    async def fail(*_: Any, **__: Any) -> Turn:
        one.tasks["b1"].cancel()
        raise RuntimeError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(one.view, "acquire", fail)
        one.slots.pop("a1").release()
        with pytest.raises(RuntimeError):
            await asyncio.wait_for(serving, 10)

    assert isinstance((await asyncio.gather(one.tasks["c1"], return_exceptions=True))[0], UpstreamBusy)
    assert one.is_unused
    await one.begin("b2")
    await one.end("b2")


async def test_a_call_that_finds_the_queue_full_does_not_count_as_waiting() -> None:
    one = Calls(calls_max=1, waiting_max=0, limits={TPM: 100_000})
    await one.begin("a1")

    await one.refused("b1")

    assert one.view._model("m").shares.waiting == {}
    await one.end("a1")


async def test_a_grant_for_a_request_that_left_is_not_used_for_a_larger_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Calls(calls_max=1, limits={TPM: 1_000_000})
    await one.begin("a1")
    await one.begin("b1", tokens=10)
    await one.begin("b2", tokens=500_000)
    acquire, asked = one.view.acquire, asyncio.Event()

    async def acquire_slowly(*args: Any, **options: Any) -> Turn:
        turn = await acquire(*args, **options)
        if not asked.is_set():
            asked.set()
            await asyncio.sleep(0.01)
        return turn

    settled: list[Settlement] = []
    monkeypatch.setattr(one.view, "acquire", acquire_slowly)
    monkeypatch.setattr(one.view, "settle", settled.append)
    one.slots.pop("a1").release()
    await asked.wait()
    await one.cancel("b1")
    await asyncio.wait_for(one.tasks["b2"], 10)

    assert sum(left for *_, window, left in one.view.remaining() if window is TPM) == pytest.approx(
        500_000, abs=100_000
    )
    await one.end("b2")
    assert one.is_unused


async def test_accounts_are_served_by_weight_while_the_allowance_is_short() -> None:
    one = Calls(limits={TPM: 400})  # A minute lasts a second.
    waiting = [f"{account}{number}" for number in range(9) for account in "ab"]
    await one.begin("c0", tokens=392)
    for name in waiting:
        await one.begin(name, tokens=20, weight=3 if name[0] == "a" else 1)

    while len(one.begun) < 9:
        await asyncio.sleep(0.01)

    served = [name[0] for name in one.begun[1:9]]
    assert served.count("a") in (5, 6), one.begun
    for name in waiting:
        await one.cancel(name)


async def test_every_one_of_many_accounts_has_its_turn() -> None:
    one = Calls(limits={RPM: 200}, calls_max=1_000, waiting_max=1_000)  # A minute lasts a second.
    heavy = [f"h{account}_{number}" for number in range(7) for account in range(64)]
    for name in heavy:
        one.tasks[name] = asyncio.create_task(one._acquire(name, Waiter(name[:-1], 1, 1), ("m",)))
    await asyncio.sleep(0.01)
    before = len(one.begun)
    await one.begin("l1")

    await asyncio.wait_for(one.tasks["l1"], 20)

    assert one.begun.index("l1") - before < 150, "each of the others is served about once before"
    await asyncio.gather(*(one.cancel(name) for name in heavy))


async def test_a_call_that_would_wait_too_long_is_refused_at_once_and_served_after_the_time_that_it_is_given() -> None:
    one = Calls(limits={TPM: 100}, wait_max=0.3)  # A minute lasts a second.
    await one.begin("a0", tokens=98)

    began = time.monotonic()
    error = await one.refused("a1", tokens=98)

    assert time.monotonic() - began < 0.3
    assert (error.reason, error.details.retry_after_seconds) == ("upstream_busy", 1)
    await asyncio.sleep(1)
    await one.begin("a2", tokens=98)
    await one.end("a0", "a2")
    assert one.is_unused


async def test_a_call_is_refused_at_its_deadline() -> None:
    one = Calls(calls_max=1, wait_max=0.05)
    await one.begin("a1")

    error = await one.refused("b1")

    assert (error.reason, error.details.retry_after_seconds) == ("upstream_busy", 1)
    await one.end("a1")
    assert one.is_unused


async def test_a_full_queue_drops_the_newest_call_of_the_longest_queue() -> None:
    one = Calls(calls_max=1, waiting_max=3)
    await one.begin("a1", "a2", "a3", "a4")

    await one.begin("b1")

    assert [name for name, task in one.tasks.items() if task.done()] == ["a1", "a4"]
    assert isinstance(one.tasks["a4"].exception(), UpstreamBusy)
    assert (await one.refused("a5")).reason == "upstream_busy"
    await one.end("a1", "b1", "a2", "a3")
    assert one.is_unused


async def test_a_model_with_room_is_chosen_before_one_that_needs_a_wait() -> None:
    one = Calls(limits={RPM: 1})
    await one.begin("a1")

    await one.begin("a2", models=("m", "second"))

    assert one.slots["a2"].model == "second"
    await one.end("a1", "a2")


async def test_calls_wait_for_a_key_that_cools_down_and_fail_at_once_without_an_accepted_one() -> None:
    one = Calls()
    with pytest.raises(KeyLimited), one.pool.lease("m", "a"):
        raise KeyLimited(retry_seconds=0.05)
    await one.begin("a1")
    assert one.begun == []
    await one.end("a1")

    with pytest.raises(KeyRefused), one.pool.lease("other", "a"):
        raise KeyRefused
    with pytest.raises(UpstreamError), one.pool.lease("m", "a"):
        raise UpstreamError
    assert one.begun == ["a1"]
    assert one.is_unused


async def test_a_request_larger_than_the_limit_is_sent_without_waiting_for_an_empty_allowance() -> None:
    """Before, it waited for a time at which nothing was used, which never came while others sent anything."""
    one = Calls(limits={TPM: 6_000})
    await one.begin("a1", tokens=3_000)

    await one.begin("b1", tokens=8_000)

    assert one.begun == ["a1", "b1"]
    await one.begin("c1", tokens=2_000)
    assert one.begun == ["a1", "b1", "c1"], "it takes no more than a usual request"
    await one.end("a1", "b1", "c1")
    assert one.is_unused
