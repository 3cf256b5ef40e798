"""Authorization requests expire, and cached documents of providers are fetched again when needed."""

import asyncio

import pytest

from services.auth.identities.authorization import AuthorizationAnswer, Authorizations
from services.auth.identities.cached import Cached
from services.auth.keys.pepper import Pepper
from services.common.errors import PermissionDenied, Unavailable
from tests.contracts.user_stores import ManualClock


@pytest.mark.parametrize(("seconds", "is_accepted"), [(0, True), (599, True), (601, False), (-60, False)])
def test_an_authorization_is_valid_for_ten_minutes_also_if_the_clock_is_set_back(
    seconds: int, is_accepted: bool
) -> None:
    clock = ManualClock()
    authorizations = Authorizations(Pepper(b"secret"), clock)
    started = authorizations.start("oidc")
    answer = AuthorizationAnswer("oidc", started.token, started.state, "code", "")
    clock.seconds += seconds

    if is_accepted:
        assert authorizations.check(answer) == started
    else:
        with pytest.raises(PermissionDenied):
            authorizations.check(answer)


def test_an_authorization_of_another_pepper_is_refused() -> None:
    clock = ManualClock()
    started = Authorizations(Pepper(b"secret"), clock).start("oidc")

    with pytest.raises(PermissionDenied):
        Authorizations(Pepper(b"another"), clock).check(
            AuthorizationAnswer("oidc", started.token, started.state, "code", "")
        )


class _Source:
    """Counts fetches, and fails on request."""

    def __init__(self) -> None:
        self.fetched = 0
        self.is_down = False

    async def fetch(self) -> int:
        await asyncio.sleep(0)
        self.fetched += 1
        if self.is_down:
            raise Unavailable("down")
        return self.fetched


async def test_a_cached_value_is_fetched_once_an_hour_and_on_request_once_a_minute() -> None:
    clock, source = ManualClock(), _Source()
    cached = Cached(source.fetch, clock)

    assert await asyncio.gather(*(cached.get() for _ in range(9))) == [1] * 9
    assert await cached.newer() == 1
    clock.seconds += 61
    assert (await cached.get(), await cached.newer(), await cached.newer()) == (1, 2, 2)
    clock.seconds += 3_601
    assert await cached.get() == 3


async def test_callers_that_waited_for_a_failure_share_it_and_the_next_attempt_is_five_seconds_later() -> None:
    clock, source = ManualClock(), _Source()
    source.is_down = True
    cached = Cached(source.fetch, clock)

    failures = await asyncio.gather(*(cached.get() for _ in range(9)), return_exceptions=True)

    assert (source.fetched, {type(one) for one in failures}) == (1, {Unavailable})
    source.is_down = False
    clock.seconds += 5
    assert await cached.get() == 2


async def test_a_caller_that_leaves_during_a_fetch_does_not_block_the_next() -> None:
    clock, source = ManualClock(), _Source()
    cached = Cached(source.fetch, clock)
    leaver = asyncio.create_task(cached.get())
    await asyncio.sleep(0)
    leaver.cancel()

    assert await asyncio.wait_for(cached.get(), 1) == 1
