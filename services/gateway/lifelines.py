"""Live streams end when their key is revoked, and streams of the playground also when their session ends.

A stream holds the lifeline of the identity that began it: an API key, or a session that uses a key by its id. The two
are different types and are never taken for one another: a revoked key cuts the lifelines of both kinds that use it, an
ended session cuts its own lifelines alone.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from functools import partial
from typing import TypeVar
from weakref import WeakValueDictionary

from services.common.clock import Clock
from services.common.errors import Unauthenticated
from services.gateway.pipeline import Departure
from services.gateway.refusals import refused

Identity = TypeVar("Identity")

_ASKING_MAX = 50
_REVOKED_MAX = 10_000
_REVOKED_SECONDS = 120.0
"""How long a revocation is remembered for streams that have not begun; a body may take 60 s to arrive."""


class Standing(Enum):
    """What auth says of the identity of a stream."""

    GOOD = "good"
    """The stream may go on. A key that expired is good in this sense: what it began before may end."""
    REVOKED = "revoked"
    """The key was revoked."""
    SESSION_ENDED = "session_ended"
    """The session that uses the key has ended."""
    UNKNOWN = "unknown"
    """Auth did not answer, which ends no stream."""


Ask = Callable[[], Awaitable[Standing]]
"""Asks auth about the identity of a stream."""


class Lifeline:
    """What the streams of one identity hold.

    Attributes:
        key_id: Public id of the key that is used.
    """

    def __init__(self, key_id: str, api_key: str = "", ask: Ask | None = None) -> None:
        """Begin uncut; `api_key` is the key itself where it was shown, of which a refusal tells the ends."""
        self.key_id = key_id
        self._api_key = api_key
        self._ask = ask or _unknown
        self._cut = asyncio.Event()
        self._reason = Standing.REVOKED

    @property
    def is_cut(self) -> bool:
        """Whether the streams have ended."""
        return self._cut.is_set()

    @property
    def departure(self) -> Departure:
        """Why a stream that is cut does not reach its client."""
        return Departure.SESSION_ENDED if self._reason is Standing.SESSION_ENDED else Departure.KEY_REVOKED

    @property
    def refusal(self) -> Unauthenticated:
        """What a stream that is cut ends with."""
        if self._reason is Standing.SESSION_ENDED:
            return Unauthenticated("Your session has ended. Log in again.", reason="session_ended")
        return refused(self._api_key, "revoked")

    def cut(self, reason: Standing = Standing.REVOKED) -> None:
        """End the streams, now and for good."""
        if not self.is_cut:
            self._reason = reason
            self._cut.set()

    async def until_cut(self) -> None:
        """Return when the streams must end."""
        await self._cut.wait()

    async def check(self) -> Standing:
        """Ask auth, and cut where it says so; its silence cuts nothing."""
        standing = await self._ask()
        if standing in (Standing.REVOKED, Standing.SESSION_ENDED):
            self.cut(standing)
        return standing


async def _unknown(api_key: str = "") -> Standing:
    """Default check that reports the state of every identity as unknown."""
    return Standing.UNKNOWN


class Lifelines:
    """Gives all streams of an identity the same lifeline, which lives as long as one of them does."""

    def __init__(self, clock: Clock) -> None:
        """Begin without streams."""
        self._clock = clock
        self._of_keys: WeakValueDictionary[str, Lifeline] = WeakValueDictionary()
        self._of_sessions: WeakValueDictionary[tuple[str, str], Lifeline] = WeakValueDictionary()
        self._revoked: OrderedDict[str, float] = OrderedDict()
        """Recently revoked keys, with the time at which each entry expires (monotonic seconds)."""
        self.ask_about_key: Callable[[str], Awaitable[Standing]] = _unknown
        """Asks auth about an API key."""

    async def of_key(self, key_id: str, api_key: str) -> Lifeline:
        """Return the lifeline of a key; it is cut already when the key was revoked since it was authenticated."""
        return await self._of(self._of_keys, key_id, Lifeline(key_id, api_key, partial(self.ask_about_key, api_key)))

    async def of_session(self, session_id: str, key_id: str, ask: Ask) -> Lifeline:
        """Return the lifeline of a session that uses a key of its account; `ask` asks auth about both."""
        return await self._of(self._of_sessions, (session_id, key_id), Lifeline(key_id, ask=ask))

    def cut(self, key_id: str) -> None:
        """End the streams of a revoked key, and those that are about to begin."""
        self._revoked[key_id] = self._clock.monotonic() + _REVOKED_SECONDS
        self._revoked.move_to_end(key_id)
        self._forget_old()
        if lifeline := self._of_keys.get(key_id):
            lifeline.cut()
        for lifeline in list(self._of_sessions.values()):
            if lifeline.key_id == key_id:
                lifeline.cut()

    async def check_keys(self) -> None:
        """Ask auth about every key that has streams and cut those that were revoked."""
        await _check(list(self._of_keys.values()))

    async def check_sessions(self) -> None:
        """Ask auth about every session that has streams and cut those that ended, or whose key was revoked."""
        await _check(list(self._of_sessions.values()))

    async def _of(
        self, known: "WeakValueDictionary[Identity, Lifeline]", identity: Identity, new: Lifeline
    ) -> Lifeline:
        lifeline = known.get(identity)
        if lifeline is not None and not lifeline.is_cut:
            return lifeline
        known[identity] = new  # Before the first await, so that a concurrent revocation reaches it.
        if self._is_revoked(new.key_id):
            await self._confirm(new)
        return new

    async def _confirm(self, lifeline: Lifeline) -> None:
        """Let auth have the last word on a revocation that is remembered; where it gives none, the memory holds.

        The memory can be wrong, after a database was restored say.
        """
        remembered = self._revoked.get(lifeline.key_id)
        if await lifeline.check() is not Standing.GOOD:
            lifeline.cut()
        elif self._revoked.get(lifeline.key_id) == remembered:
            self._revoked.pop(lifeline.key_id, None)

    def _is_revoked(self, key_id: str) -> bool:
        self._forget_old()
        return key_id in self._revoked

    def _forget_old(self) -> None:
        now = self._clock.monotonic()
        while self._revoked and (len(self._revoked) > _REVOKED_MAX or next(iter(self._revoked.values())) <= now):
            self._revoked.popitem(last=False)


async def _check(lifelines: Sequence[Lifeline]) -> None:
    """Ask about all of these, a bounded number at the same time."""
    gate = asyncio.Semaphore(_ASKING_MAX)

    async def check(lifeline: Lifeline) -> None:
        async with gate:
            await lifeline.check()

    async with asyncio.TaskGroup() as tasks:
        for lifeline in lifelines:
            tasks.create_task(check(lifeline))
