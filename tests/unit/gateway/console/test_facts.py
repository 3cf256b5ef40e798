"""What public pages know is read once for many pages, and kept while a service is away."""

import asyncio
from collections.abc import Sequence
from typing import cast

from services.common.errors import Unavailable
from services.gateway.console.facts import Facts
from services.gateway.console.ports import ModelList, ModelsClient, SessionClient, SignUp


class Clock:
    """A clock that a test moves."""

    seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


class Services:
    """Auth and inference, which count their calls and answer when the test lets them."""

    def __init__(self) -> None:
        self.calls = 0
        self.is_up = True
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def describe_sign_up(self, invite: str) -> SignUp:
        self.calls += 1
        await self.may_answer.wait()
        if not self.is_up:
            raise Unavailable("away", reason="auth_unavailable")
        return SignUp("open", has_mail=False, daily_limit=self.calls)

    async def list_models(self, permitted: Sequence[str] = ()) -> ModelList:
        if not self.is_up:
            raise Unavailable("away", reason="inference_unavailable")
        return ModelList([], "default")


def _facts(services: Services, clock: Clock) -> Facts:
    return Facts(cast(SessionClient, services), cast(ModelsClient, services), clock)


async def test_the_facts_are_read_every_ten_seconds_and_kept_during_an_outage() -> None:
    services, clock = Services(), Clock()
    facts = _facts(services, clock)
    for _ in range(3):
        await facts.refresh()
    assert services.calls == 1
    services.is_up = False
    clock.seconds = 11
    await facts.refresh()
    assert facts.sign_up == SignUp("open", has_mail=False, daily_limit=1)
    assert facts.models is not None
    services.is_up = True
    clock.seconds = 22
    await facts.refresh()
    assert facts.sign_up == SignUp("open", has_mail=False, daily_limit=3)


async def test_the_first_pages_wait_for_one_read_and_later_ones_for_none() -> None:
    services, clock = Services(), Clock()
    facts = _facts(services, clock)
    services.may_answer.clear()
    first = [asyncio.ensure_future(facts.refresh()) for _ in range(5)]
    await asyncio.sleep(0)
    services.may_answer.set()
    await asyncio.gather(*first)
    assert services.calls == 1
    assert facts.sign_up is not None

    services.may_answer.clear()
    clock.seconds = 11
    reading = asyncio.ensure_future(facts.refresh())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    async with asyncio.timeout(1):
        await facts.refresh()
    assert not reading.done()
    services.may_answer.set()
    await reading
