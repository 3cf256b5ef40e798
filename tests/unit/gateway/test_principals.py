"""The cache of principals: as good as auth's own answer while the watch lives, and never wrong for longer than 5 s."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from services.common import checked_token
from services.common.errors import Unauthenticated, Unavailable
from services.gateway.pipeline import Principal
from services.gateway.principals import Authentication, PrincipalCache, WatchEvent

_KEY = checked_token.mint("sk_stk_")
_OTHER = checked_token.mint("sk_stk_")
_PRINCIPAL = Principal(key_id="key_1", account_id="acc_1", daily_limit=1000, expires_at=None)


class ManualClock:
    """A clock that tests move by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds


class ScriptedAuthority:
    """Auth as a test wants it; records what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Authentication] = {_KEY: Authentication(_PRINCIPAL, "", 1)}
        self.asked: list[str] = []
        self.is_away = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.resumed_from: list[int | None] = []
        self._events: asyncio.Queue[WatchEvent | None] = asyncio.Queue()

    async def authenticate(self, api_key: str) -> Authentication:
        self.asked.append(api_key)
        if self.is_away:
            raise Unavailable("away", reason="auth_unavailable")
        answer = self.answers.get(api_key, Authentication(None, "unknown", 1))
        await self.gate.wait()
        return answer

    async def watch(self, after_revision: int | None) -> AsyncIterator[WatchEvent]:
        self.resumed_from.append(after_revision)
        while (event := await self._events.get()) is not None:
            yield event

    async def tell(self, revision: int, changed_key_id: str = "") -> None:
        """Send an event and let it be taken."""
        self._events.put_nowait(WatchEvent(revision, changed_key_id))
        await _settle()

    async def end_watch(self) -> None:
        """End the stream, as a drain of auth does."""
        self._events.put_nowait(None)
        await _settle()


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def authority() -> ScriptedAuthority:
    return ScriptedAuthority()


@pytest.fixture
def cache(authority: ScriptedAuthority, clock: ManualClock) -> PrincipalCache:
    return PrincipalCache(authority, clock, principals_max=2)


@asynccontextmanager
async def _watching(cache: PrincipalCache) -> AsyncIterator[None]:
    task = asyncio.create_task(cache.keep_true())
    await _settle()
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_key_is_asked_about_once(cache: PrincipalCache, authority: ScriptedAuthority) -> None:
    assert await cache.authenticate(_KEY) == _PRINCIPAL
    assert await cache.authenticate(_KEY) == _PRINCIPAL
    assert authority.asked == [_KEY]


async def test_callers_with_the_same_new_key_share_one_question(
    cache: PrincipalCache, authority: ScriptedAuthority
) -> None:
    authority.gate.clear()
    waiting = [asyncio.create_task(cache.authenticate(_KEY)) for _ in range(50)]
    await _settle()
    authority.gate.set()
    assert set(await asyncio.gather(*waiting)) == {_PRINCIPAL}
    assert authority.asked == [_KEY]


@pytest.mark.parametrize(
    "api_key",
    ["", "sk_stk_", "sk_stk_short", "x" * 10_000, _KEY[:-1] + "!", "sk_stk_é" + _KEY],
    ids=["empty", "prefix", "short", "long", "punctuation", "not ASCII"],
)
async def test_a_malformed_key_never_leaves_the_gateway(
    cache: PrincipalCache, authority: ScriptedAuthority, api_key: str
) -> None:
    with pytest.raises(Unauthenticated):
        await cache.authenticate(api_key)
    assert authority.asked == []


async def test_a_refusal_shows_no_more_of_the_key_than_its_owner_needs(cache: PrincipalCache) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await cache.authenticate(_OTHER)
    assert _OTHER not in refused.value.message
    assert _OTHER[-4:] in refused.value.message


async def test_a_change_is_believed_at_once(
    cache: PrincipalCache, authority: ScriptedAuthority, clock: ManualClock
) -> None:
    async with _watching(cache):
        await authority.tell(1)
        await cache.authenticate(_KEY)
        authority.answers[_KEY] = Authentication(None, "revoked", 2)
        await authority.tell(2, "key_1")
        with pytest.raises(Unauthenticated) as refused:
            await cache.authenticate(_KEY)
    assert refused.value.reason == "revoked"


async def test_an_answer_older_than_the_last_change_seen_is_dropped(
    cache: PrincipalCache, authority: ScriptedAuthority
) -> None:
    """The look-up read before the revocation and arrives after it: believed, it would outlive the revocation."""
    async with _watching(cache):
        await authority.tell(1)
        authority.gate.clear()
        asking = asyncio.create_task(cache.authenticate(_KEY))
        await _settle()
        authority.answers[_KEY] = Authentication(None, "revoked", 2)
        await authority.tell(2, "key_1")
        authority.gate.set()
        with pytest.raises(Unauthenticated):
            await asking
    assert len(authority.asked) == 2


async def test_an_answer_that_was_read_before_the_first_watch_began_is_not_believed(
    cache: PrincipalCache, authority: ScriptedAuthority
) -> None:
    """The revoke fell between the look-up and the watch's first event, so that the watch never tells it."""
    authority.gate.clear()
    asking = asyncio.create_task(cache.authenticate(_KEY))
    await _settle()
    authority.answers[_KEY] = Authentication(None, "revoked", 2)
    async with _watching(cache):
        await authority.tell(2)
        authority.gate.set()
        with pytest.raises(Unauthenticated):
            await asking


async def test_an_auth_that_never_catches_up_is_an_outage_and_no_endless_loop(
    cache: PrincipalCache, authority: ScriptedAuthority
) -> None:
    async with _watching(cache):
        await authority.tell(9, "key_1")
        with pytest.raises(Unavailable):
            await cache.authenticate(_KEY)
    assert len(authority.asked) < 20


async def test_heartbeats_keep_every_principal_alive(
    cache: PrincipalCache, authority: ScriptedAuthority, clock: ManualClock
) -> None:
    async with _watching(cache):
        await authority.tell(1)
        await cache.authenticate(_KEY)
        for _ in range(100):
            clock.seconds += 0.5
            await authority.tell(1)
        await cache.authenticate(_KEY)
    assert authority.asked == [_KEY]


async def test_without_a_heartbeat_a_principal_lives_five_seconds(
    cache: PrincipalCache, authority: ScriptedAuthority, clock: ManualClock
) -> None:
    await cache.authenticate(_KEY)
    clock.seconds += 4.9
    await cache.authenticate(_KEY)
    assert authority.asked == [_KEY]
    clock.seconds += 0.2
    await cache.authenticate(_KEY)
    assert authority.asked == [_KEY, _KEY]


async def test_with_auth_away_an_unconfirmed_key_is_unavailable_and_never_refused(
    cache: PrincipalCache, authority: ScriptedAuthority, clock: ManualClock
) -> None:
    await cache.authenticate(_KEY)
    authority.is_away = True
    clock.seconds += 4.9
    assert await cache.authenticate(_KEY) == _PRINCIPAL
    clock.seconds += 0.2
    with pytest.raises(Unavailable):
        await cache.authenticate(_KEY)


async def test_a_broken_watch_is_resumed_where_it_broke(cache: PrincipalCache, authority: ScriptedAuthority) -> None:
    async with _watching(cache):
        await authority.tell(7)
        await authority.end_watch()
        async with asyncio.timeout(2):
            while len(authority.resumed_from) < 2:
                await asyncio.sleep(0.01)
    assert authority.resumed_from == [None, 7]


async def test_when_auth_goes_back_in_time_everything_is_forgotten(
    cache: PrincipalCache, authority: ScriptedAuthority
) -> None:
    async with _watching(cache):
        authority.answers[_KEY] = Authentication(_PRINCIPAL, "", 7)
        await authority.tell(7)
        await cache.authenticate(_KEY)
        authority.answers[_KEY] = Authentication(_PRINCIPAL, "", 3)
        await authority.tell(3)
        await cache.authenticate(_KEY)
    assert authority.asked == [_KEY, _KEY]


async def test_an_expired_key_is_refused_though_it_is_remembered(
    cache: PrincipalCache, authority: ScriptedAuthority, clock: ManualClock
) -> None:
    authority.answers[_KEY] = Authentication(replace(_PRINCIPAL, expires_at=clock.seconds + 2), "", 1)
    await cache.authenticate(_KEY)
    clock.seconds += 2
    with pytest.raises(Unauthenticated) as refused:
        await cache.authenticate(_KEY)
    assert refused.value.reason == "expired"


async def test_the_longest_unused_principal_is_forgotten_first(
    cache: PrincipalCache, authority: ScriptedAuthority
) -> None:
    keys = [checked_token.mint("sk_stk_") for _ in range(3)]
    for number, key in enumerate(keys):
        authority.answers[key] = Authentication(replace(_PRINCIPAL, key_id=f"key_{number}"), "", 1)
    for key in (keys[0], keys[1], keys[0], keys[2], keys[0]):
        await cache.authenticate(key)
    assert authority.asked == keys
    await cache.authenticate(keys[1])
    assert authority.asked == [*keys, keys[1]]
