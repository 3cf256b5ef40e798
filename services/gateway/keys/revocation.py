"""Cancellation of live streams whose API key is revoked, and of playground streams whose session ends.

A stream holds the `Revocation` of the identity that started it: an API key, or a session that uses a key by its id. The
registry keeps the two kinds separate. Revoking a key cancels the streams of both kinds that use it. The end of a
session cancels only the streams of that session.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from functools import partial
from typing import TypeVar
from weakref import WeakValueDictionary

from services.common.errors import Unauthenticated
from services.common.runtime.clock import Clock
from services.gateway.keys.denials import stream_refused
from services.gateway.requests.types import Departure

Identity = TypeVar("Identity")

_log = logging.getLogger(__name__)
_CHECKS_MAX = 50
_REVOKED_MAX = 10_000
_REVOKED_SECONDS = 120.0
"""How long a revocation is kept for streams that have not started yet. A request body may take 60 s to arrive."""


class IdentityState(Enum):
    """The state of a stream's identity, according to auth."""

    VALID = "valid"
    """The stream may continue. This includes expired keys, whose streams may finish."""
    REVOKED = "revoked"
    """The key was revoked."""
    SESSION_ENDED = "session_ended"
    """The session that uses the key has ended."""
    UNKNOWN = "unknown"
    """Auth did not answer. The stream continues."""


IdentityCheck = Callable[[], Awaitable[IdentityState]]
"""Asks auth about the identity of a stream."""


class Revocation:
    """The revocation state shared by all streams of one identity.

    Attributes:
        key_id: Public id of the key that the streams use.
    """

    def __init__(self, key_id: str, api_key: str = "", ask: IdentityCheck | None = None) -> None:
        """Create a revocation in the valid state.

        Args:
            key_id: Public id of the key.
            api_key: The key itself, for the masked key in error messages; empty if it is not known.
            ask: Asks auth for the state of the identity. By default, the state is always unknown.
        """
        self.key_id = key_id
        self._api_key = api_key
        self._ask = ask or _unknown
        self._cancelled = asyncio.Event()
        self._reason = IdentityState.REVOKED

    @property
    def is_revoked(self) -> bool:
        """Whether the streams have been cancelled."""
        return self._cancelled.is_set()

    @property
    def departure(self) -> Departure:
        """Why a cancelled stream did not reach its client."""
        return Departure.SESSION_ENDED if self._reason is IdentityState.SESSION_ENDED else Departure.KEY_REVOKED

    @property
    def refusal(self) -> Unauthenticated:
        """The error with which a cancelled stream ends."""
        if self._reason is IdentityState.SESSION_ENDED:
            return Unauthenticated("Your session has ended. Log in again.", reason="session_ended")
        return stream_refused(self._api_key)

    def cancel(self, reason: IdentityState = IdentityState.REVOKED) -> None:
        """Cancel the streams, permanently."""
        if not self.is_revoked:
            self._reason = reason
            self._cancelled.set()

    async def until_revoked(self) -> None:
        """Wait until the streams are cancelled."""
        await self._cancelled.wait()

    async def check(self) -> IdentityState:
        """Ask auth for the state, and cancel the streams if the key was revoked or the session has ended."""
        state = await self._ask()
        if state in (IdentityState.REVOKED, IdentityState.SESSION_ENDED):
            self.cancel(state)
        return state


async def _unknown(api_key: str = "") -> IdentityState:
    """Report an unknown state. The default check."""
    return IdentityState.UNKNOWN


class RevocationRegistry:
    """Provides the revocation of an identity, which all its streams share for as long as one of them lives."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._of_keys: WeakValueDictionary[str, Revocation] = WeakValueDictionary()
        self._of_sessions: WeakValueDictionary[tuple[str, str], Revocation] = WeakValueDictionary()
        self._revoked: OrderedDict[str, float] = OrderedDict()
        """Recently revoked keys, with the time at which each entry expires (monotonic seconds)."""
        self.check_key: Callable[[str], Awaitable[IdentityState]] = _unknown
        """Asks auth about an API key."""

    async def of_key(self, key_id: str, api_key: str) -> Revocation:
        """Return the revocation of a key. It is already cancelled if the key was revoked after its authentication."""
        return await self._of(self._of_keys, key_id, Revocation(key_id, api_key, partial(self.check_key, api_key)))

    async def of_session(self, session_id: str, key_id: str, ask: IdentityCheck) -> Revocation:
        """Return the revocation of a session that uses a key of its account. `ask` checks both with auth."""
        return await self._of(self._of_sessions, (session_id, key_id), Revocation(key_id, ask=ask))

    def cancel(self, key_id: str) -> None:
        """Cancel the streams of a revoked key, including those that are about to start."""
        self._revoked[key_id] = self._clock.monotonic() + _REVOKED_SECONDS
        self._revoked.move_to_end(key_id)
        self._forget_old()
        if revocation := self._of_keys.get(key_id):
            revocation.cancel()
        for revocation in list(self._of_sessions.values()):
            if revocation.key_id == key_id:
                revocation.cancel()

    async def check_keys(self) -> None:
        """Ask auth about every key with streams, and cancel the streams of revoked ones."""
        await _check(list(self._of_keys.values()))

    async def check_sessions(self) -> None:
        """Ask auth about every session with streams, and cancel those streams if it ended or its key was revoked."""
        await _check(list(self._of_sessions.values()))

    async def _of(
        self, known: "WeakValueDictionary[Identity, Revocation]", identity: Identity, new: Revocation
    ) -> Revocation:
        revocation = known.get(identity)
        if revocation is not None and not revocation.is_revoked:
            return revocation
        known[identity] = new  # Before the first await, so that a concurrent revocation applies to it.
        if self._is_revoked(new.key_id):
            await self._confirm(new)
        return new

    async def _confirm(self, revocation: Revocation) -> None:
        """Confirm a recorded revocation with auth. If auth does not answer, the record applies.

        The record can be wrong, such as after a database was restored.
        """
        recorded = self._revoked.get(revocation.key_id)
        if await revocation.check() is not IdentityState.VALID:
            revocation.cancel()
        elif self._revoked.get(revocation.key_id) == recorded:
            self._revoked.pop(revocation.key_id, None)

    def _is_revoked(self, key_id: str) -> bool:
        self._forget_old()
        return key_id in self._revoked

    def _forget_old(self) -> None:
        now = self._clock.monotonic()
        while self._revoked and (len(self._revoked) > _REVOKED_MAX or next(iter(self._revoked.values())) <= now):
            self._revoked.popitem(last=False)


async def _check(revocations: Sequence[Revocation]) -> None:
    """Check all revocations, with limited concurrency."""
    semaphore = asyncio.Semaphore(_CHECKS_MAX)

    async def check(revocation: Revocation) -> None:
        async with semaphore:
            try:
                await revocation.check()
            except Exception:  # noqa: BLE001 - the other streams are still checked
                _log.exception("The key or session of a live stream could not be checked.")

    async with asyncio.TaskGroup() as tasks:
        for revocation in revocations:
            tasks.create_task(check(revocation))
