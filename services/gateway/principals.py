"""Who API keys stand for: a cache of auth's answers, kept true by its stream of changes.

A cached answer is as good as auth's own while the watch is alive, since any change of the key arrives over it. When the
watch is broken an answer lives five seconds from its last confirmation; every heartbeat confirms all. With auth away, a
key that was not confirmed in that time gets `auth_unavailable`, never a refusal.

The cache is keyed by the SHA-256 of the API key, so that a memory dump holds no keys. Only good keys are cached.
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from services.common import checked_token
from services.common.clock import Clock
from services.common.errors import ServiceError, Unauthenticated, Unavailable
from services.gateway.pipeline import Principal

KEY_PREFIX = "sk_stk_"

_log = logging.getLogger(__name__)
_CONFIRMED_SECONDS = 5.0
_SILENCE_SECONDS = 1.0
_RETRY_SECONDS = 0.2
_STALE_ANSWERS_MAX = 10
_STALE_PAUSE_SECONDS = 0.05
_RECENT_CHANGES_MAX = 10_000
"""Changes remembered to tell stale answers, which are under way for seconds and not for thousands of changes."""


@dataclass(frozen=True, slots=True)
class Authentication:
    """Auth's answer about one API key."""

    principal: Principal | None
    """None when the key is not good."""
    denial: str
    """Why it is not good, in lower case: `unknown`, `revoked` or `expired`; empty when it is."""
    revision: int
    """The revision of the key table that was read."""


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One event of the watch."""

    revision: int
    changed_key_id: str
    """Empty on a heartbeat."""


class Authority(Protocol):
    """Auth, over the wire."""

    async def authenticate(self, api_key: str) -> Authentication:
        """Ask about a key.

        Raises:
            Unavailable: Auth is away.
        """

    def watch(self, after_revision: int | None) -> AsyncIterator[WatchEvent]:
        """Yield changes after a revision, or from now on when None, and heartbeats."""


@dataclass(slots=True)
class _Cached:
    principal: Principal
    confirmed_at: float


class PrincipalCache:
    """The `Principals` port: authenticates API keys, mostly without asking."""

    def __init__(self, authority: Authority, clock: Clock, *, principals_max: int) -> None:
        """Ask `authority`; remember at most `principals_max` keys."""
        self._authority = authority
        self._clock = clock
        self._principals_max = principals_max
        self._cached: OrderedDict[bytes, _Cached] = OrderedDict()
        self._digests: dict[str, set[bytes]] = {}
        self._asking: dict[bytes, asyncio.Task[Principal]] = {}
        self._changed_at: dict[str, int] = {}
        self._floor = 0
        self._revision: int | None = None
        self._heartbeat_at = float("-inf")

    async def authenticate(self, api_key: str) -> Principal:
        """Return the key's principal.

        Raises:
            Unauthenticated: The key is not good; the reason says why.
            Unavailable: Auth is away and the key was not confirmed in the last five seconds.
        """
        if not checked_token.is_well_formed(api_key, KEY_PREFIX):
            raise _refused(api_key, "malformed")
        digest = hashlib.sha256(api_key.encode()).digest()
        principal = self._look_up(digest)
        if principal is None:
            principal = await self._ask_once(digest, api_key)
        if principal.expires_at is not None and principal.expires_at <= self._clock.now():
            raise _refused(api_key, "expired")
        return principal

    async def keep_true(self) -> None:
        """Follow auth's changes until cancelled; a broken watch is taken up again where it broke."""
        while True:
            try:
                await self._follow()
            except ServiceError as exc:
                _log.warning("the key watch broke", extra={"reason": exc.reason})
            except TimeoutError:
                _log.warning("the key watch went silent")
            await asyncio.sleep(_RETRY_SECONDS)

    def _look_up(self, digest: bytes) -> Principal | None:
        cached = self._cached.get(digest)
        if cached is None:
            return None
        confirmed_at = max(cached.confirmed_at, self._heartbeat_at)
        if self._clock.monotonic() - confirmed_at > _CONFIRMED_SECONDS:
            return None
        self._cached.move_to_end(digest)
        return cached.principal

    async def _ask_once(self, digest: bytes, api_key: str) -> Principal:
        """Ask auth; callers that ask about the same key at the same time share one call."""
        task = self._asking.get(digest)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._ask(digest, api_key))
            self._asking[digest] = task
            task.add_done_callback(lambda _: self._asking.pop(digest, None))
        return await asyncio.shield(task)

    async def _ask(self, digest: bytes, api_key: str) -> Principal:
        for _ in range(_STALE_ANSWERS_MAX):
            asked_at = self._clock.monotonic()
            answer = await self._authority.authenticate(api_key)
            if answer.principal is None:
                self._forget(digest)
                raise _refused(api_key, answer.denial)
            if answer.revision >= max(self._floor, self._changed_at.get(answer.principal.key_id, 0)):
                self._remember(digest, answer.principal, asked_at)
                return answer.principal
            # A change of this key was seen after what auth read: its answer is of the past.
            await asyncio.sleep(_STALE_PAUSE_SECONDS)
        raise Unavailable("auth has not caught up with its own changes; try again", reason="auth_unavailable")

    def _remember(self, digest: bytes, principal: Principal, confirmed_at: float) -> None:
        self._cached[digest] = _Cached(principal, confirmed_at)
        self._cached.move_to_end(digest)
        self._digests.setdefault(principal.key_id, set()).add(digest)
        while len(self._cached) > self._principals_max:
            self._forget(next(iter(self._cached)))

    def _forget(self, digest: bytes) -> None:
        cached = self._cached.pop(digest, None)
        if cached is None:
            return
        digests = self._digests[cached.principal.key_id]
        digests.discard(digest)
        if not digests:
            del self._digests[cached.principal.key_id]

    def _forget_all(self) -> None:
        self._cached.clear()
        self._digests.clear()
        self._changed_at.clear()

    async def _follow(self) -> None:
        events = self._authority.watch(self._revision)
        while True:
            async with asyncio.timeout(_SILENCE_SECONDS):
                event = await anext(events, None)
            if event is None:
                return
            self._apply(event)

    def _apply(self, event: WatchEvent) -> None:
        if self._revision is None or event.revision < self._revision:
            # A watch that begins, or a database that went back in time: changes up to here are never told, so neither
            # what is remembered nor an answer on its way that was read before may be believed.
            self._forget_all()
            self._floor = event.revision
        if event.changed_key_id:
            self._changed_at[event.changed_key_id] = event.revision
            if len(self._changed_at) > _RECENT_CHANGES_MAX:
                del self._changed_at[next(iter(self._changed_at))]
            for digest in list(self._digests.get(event.changed_key_id, ())):
                self._forget(digest)
        else:
            self._heartbeat_at = self._clock.monotonic()
        self._revision = event.revision


_REMEDY = "You can find and create API keys in the console under API Keys."
_REFUSALS = {
    "revoked": f"This API key has been revoked: {{key}}. {_REMEDY}",
    "expired": f"This API key has expired: {{key}}. {_REMEDY}",
}
_INCORRECT = f"Incorrect API key provided: {{key}}. {_REMEDY}"


def _refused(api_key: str, reason: str) -> Unauthenticated:
    message = _REFUSALS.get(reason, _INCORRECT).format(key=_masked(api_key))
    return Unauthenticated(message, reason=reason)


def _masked(api_key: str) -> str:
    """Return as much of a key as its owner needs to recognise it, and no more."""
    shown = api_key.isascii() and api_key.isprintable() and len(api_key) > 20
    return f"{api_key[:7]}****{api_key[-4:]}" if shown else "****"
