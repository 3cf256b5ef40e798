"""Live streams end when their key is revoked: every stream holds its key's lifeline, and a revocation cuts it."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from weakref import WeakValueDictionary

from services.common.errors import Unauthenticated
from services.gateway.refusals import refused

_ASKING_MAX = 50
_REVOKED_MAX = 10_000
"""Revoked keys remembered for streams that are about to begin, which takes a minute at most."""


IsRevoked = Callable[[], Awaitable[bool]]
"""Asks whether a key is revoked; nobody's knowing is no."""


class Lifeline:
    """What the streams of one API key hang on.

    Attributes:
        key_id: Public id of the key.
        api_key: The key itself, to ask about it again; empty while only the console's playground has streams of it.
        owner_says: Asks auth with the owner's session whether the key is revoked, for streams of the playground.
    """

    def __init__(self, key_id: str, api_key: str, owner_says: IsRevoked | None = None) -> None:
        """Begin whole."""
        self.key_id = key_id
        self.api_key = api_key
        self.owner_says = owner_says
        self._cut = asyncio.Event()

    @property
    def is_cut(self) -> bool:
        """Whether the key is revoked."""
        return self._cut.is_set()

    @property
    def refusal(self) -> Unauthenticated:
        """What a stream that is cut ends with."""
        return refused(self.api_key, "revoked")

    def cut(self) -> None:
        """End the key's streams, now and for good."""
        self._cut.set()

    async def until_cut(self) -> None:
        """Return when the key is revoked."""
        await self._cut.wait()


class Lifelines:
    """Gives all streams of a key the same lifeline, which lives as long as one of them does."""

    def __init__(self) -> None:
        """Begin without streams."""
        self._lifelines: WeakValueDictionary[str, Lifeline] = WeakValueDictionary()
        self._revoked: dict[str, None] = {}

    def of(self, key_id: str, api_key: str, owner_says: IsRevoked | None = None) -> Lifeline:
        """Return a key's lifeline; it is cut already when the key was revoked since it was authenticated."""
        lifeline = self._lifelines.get(key_id)
        if lifeline is None:
            lifeline = self._lifelines[key_id] = Lifeline(key_id, api_key)
            if key_id in self._revoked:
                lifeline.cut()
        lifeline.api_key = lifeline.api_key or api_key
        lifeline.owner_says = owner_says or lifeline.owner_says
        return lifeline

    def cut(self, key_id: str) -> None:
        """End the streams of a revoked key, and those that are about to begin."""
        self._revoked[key_id] = None
        if len(self._revoked) > _REVOKED_MAX:
            del self._revoked[next(iter(self._revoked))]
        lifeline = self._lifelines.get(key_id)
        if lifeline is not None:
            lifeline.cut()

    async def cut_revoked(self, is_revoked: Callable[[str], Awaitable[bool]]) -> None:
        """Ask about every key that has streams, a bounded number at the same time, and cut those revoked."""
        gate = asyncio.Semaphore(_ASKING_MAX)

        async def ask(lifeline: Lifeline, question: IsRevoked) -> None:
            async with gate:
                if await question():
                    self.cut(lifeline.key_id)

        async with asyncio.TaskGroup() as tasks:
            for lifeline in list(self._lifelines.values()):
                if lifeline.api_key:
                    tasks.create_task(ask(lifeline, partial(is_revoked, lifeline.api_key)))
                elif lifeline.owner_says:
                    tasks.create_task(ask(lifeline, lifeline.owner_says))
