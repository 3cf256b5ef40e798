"""A cache of authenticated API keys, invalidated by auth's watch.

While the watch is connected, cached entries are current, because it delivers every change of a key. When it is broken,
an entry expires five seconds after its last confirmation; every heartbeat confirms all entries. If auth is unavailable,
a key without a recent confirmation gets `auth_unavailable`, never a rejection.

The cache is keyed by the SHA-256 of the API key, so that a memory dump contains only keys that have live streams.
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass

from services.common import checksummed_token
from services.common.errors import ServiceError, Unauthenticated, Unavailable
from services.common.runtime.clock import Clock
from services.common.telemetry import tracing
from services.gateway.keys.auth_client import AuthClient, WatchEvent
from services.gateway.keys.denials import refused
from services.gateway.keys.negative_cache import NegativeKeyCache, UnknownKeyLimiter
from services.gateway.keys.revocation import IdentityState, RevocationRegistry
from services.gateway.metrics import KEY_LOOK_UPS, KEY_WATCH_UP
from services.gateway.requests.types import CountedKey, Principal

KEY_PREFIX = "sk_stk_"

_log = logging.getLogger(__name__)
_FROM_CACHE, _FROM_AUTH, _REFUSED = (KEY_LOOK_UPS.labels(source) for source in ("cache", "auth", "refused_here"))
_CONFIRMED_SECONDS = 4.5
"""Five seconds, minus the time to receive a heartbeat and to look up a rejected key."""
_SILENCE_SECONDS = 1.0
_RETRY_SECONDS = 0.2
_STREAMS_SECONDS = 2.0
"""Interval between checks of the keys of live streams while the watch is broken."""
_SESSIONS_SECONDS = 1.0
"""Interval between checks of the sessions of live streams. The key watch does not report the end of a session."""
_STALE_ANSWERS_MAX = 10
_STALE_PAUSE_SECONDS = 0.05
_RECENT_CHANGES_MAX = 10_000
"""Maximum recent changes kept to detect stale answers, which arrive within seconds, not thousands of changes."""


@dataclass(slots=True)
class _Cached:
    principal: Principal
    confirmed_at: float
    revision: int
    """Revision of the key table that auth read."""


class AuthCache:
    """The `Authenticator` port: authenticates API keys, mostly from a cache."""

    def __init__(
        self, auth_client: AuthClient, clock: Clock, revocations: RevocationRegistry, *, auth_cache_max: int
    ) -> None:
        """Create a cache.

        Args:
            auth_client: Auth, for keys that are not cached.
            clock: The clock.
            revocations: Registry in which the streams of revoked keys are cancelled.
            auth_cache_max: Maximum cached keys.
        """
        self._auth_client = auth_client
        self._clock = clock
        self._revocations = revocations
        revocations.check_key = self._identity_state
        self._negative_cache = NegativeKeyCache(clock)
        self._unknown_key_limiter = UnknownKeyLimiter(clock)
        self._auth_cache_max = auth_cache_max
        self._cached: OrderedDict[bytes, _Cached] = OrderedDict()
        self._digests: dict[str, set[bytes]] = {}
        self._pending: dict[bytes, asyncio.Task[Principal]] = {}
        self._changed_at: dict[str, int] = {}
        self._min_revision = 0
        self._revision: int | None = None
        self._heartbeat_at = float("-inf")
        KEY_WATCH_UP.set_function(lambda: float(not self._is_silent()))
        self._may_have_missed_changes = asyncio.Event()
        """Set when changes may have been missed, so that the keys of live streams must be checked."""

    async def authenticate(self, api_key: str, *, address: str = "") -> Principal:
        """Return the principal of a key.

        Args:
            api_key: The key.
            address: The client's address; empty if unknown.

        Raises:
            Unauthenticated: The key is malformed, unknown, revoked, expired, paused or suspended; see the reason.
            Throttled: Too many unknown keys came from the address.
            Unavailable: Auth is unavailable, and the key was not confirmed in the last five seconds.
        """
        digest = _digest(api_key)
        principal = self._look_up(digest)
        if principal is not None:
            _FROM_CACHE.inc()
            tracing.note({"stack.key.source": "cache"})
        else:
            if not checksummed_token.is_well_formed(api_key, KEY_PREFIX):
                _REFUSED.inc()
                raise refused(api_key, "malformed")
            if denial := self._negative_cache.reason(digest, revision=self._revision or 0):
                _REFUSED.inc()
                raise refused(api_key, denial)
            _FROM_AUTH.inc()
            tracing.note({"stack.key.source": "auth"})
            principal = await self._authenticate_once(digest, api_key, address)
        if principal.expires_at is not None and principal.expires_at <= self._clock.now():
            raise refused(api_key, "expired")
        return principal

    def known_key(self, api_key: str) -> CountedKey | None:
        """Return which key this is, valid, denied or changed, as far as that is cached; None if it is not known."""
        digest = _digest(api_key)
        cached = self._cached.get(digest)
        return cached.principal.counted_key if cached else self._negative_cache.key(digest)

    async def watch_invalidations(self) -> None:
        """Apply auth's changes to the cache until cancelled. A broken watch resumes at its last revision."""
        while True:
            try:
                await self._follow()
            except ServiceError as exc:
                _log.warning("The key watch failed; reconnecting", extra={"reason": exc.reason})
            except TimeoutError:
                _log.warning("The key watch timed out; reconnecting")
            await asyncio.sleep(_RETRY_SECONDS)

    async def watch_streams(self) -> None:
        """Cancel live streams whose session has ended, or whose key was revoked while the watch was broken.

        Runs until cancelled.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._check_keys())
            tasks.create_task(self._check_sessions())

    async def _check_keys(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_STREAMS_SECONDS):
                    await self._may_have_missed_changes.wait()
            if self._is_silent() or self._may_have_missed_changes.is_set():
                self._may_have_missed_changes.clear()
                await self._revocations.check_keys()

    async def _check_sessions(self) -> None:
        while True:
            await self._revocations.check_sessions()
            await asyncio.sleep(_SESSIONS_SECONDS)

    def _is_silent(self) -> bool:
        return self._clock.monotonic() - self._heartbeat_at > _SILENCE_SECONDS

    def _look_up(self, digest: bytes) -> Principal | None:
        cached = self._cached.get(digest)
        if cached is None:
            return None
        confirmed_at = max(cached.confirmed_at, self._heartbeat_at)
        if self._clock.monotonic() - confirmed_at > _CONFIRMED_SECONDS:
            return None
        self._cached.move_to_end(digest)
        return cached.principal

    async def _identity_state(self, api_key: str) -> IdentityState:
        """Ask auth for the state of a key with live streams.

        Streams started before the key expired or was paused may finish.
        """
        try:
            await self._authenticate_once(_digest(api_key), api_key, "")
        except Unauthenticated as exc:
            return IdentityState.VALID if exc.reason in ("expired", "paused") else IdentityState.REVOKED
        except ServiceError as exc:
            _log.info("cannot confirm a key with live streams", extra={"reason": exc.reason})
            return IdentityState.UNKNOWN
        return IdentityState.VALID

    async def _authenticate_once(self, digest: bytes, api_key: str, address: str) -> Principal:
        """Authenticate a key with auth. Concurrent callers with the same key share one call."""
        task = self._pending.get(digest)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._authenticate(digest, api_key, address))
            self._pending[digest] = task
            task.add_done_callback(lambda _: self._pending.pop(digest, None))
        return await asyncio.shield(task)

    async def _authenticate(self, digest: bytes, api_key: str, address: str) -> Principal:
        with self._unknown_key_limiter.lookup(address):
            for _ in range(_STALE_ANSWERS_MAX):
                asked_at = self._clock.monotonic()
                answer = await self._auth_client.authenticate(api_key)
                if answer.principal is None:
                    self._forget(digest)
                    self._negative_cache.remember(
                        digest, answer.denial, revision=answer.revision, key=answer.denied_key
                    )
                    raise refused(api_key, answer.denial)
                if answer.revision >= max(self._min_revision, self._changed_at.get(answer.principal.key_id, 0)):
                    self._remember(digest, _Cached(answer.principal, asked_at, answer.revision))
                    return answer.principal
                # Auth read a state before a change of this key that the watch has already delivered.
                await asyncio.sleep(_STALE_PAUSE_SECONDS)
        raise Unavailable("The state of the API key is out of date. Try again.", reason="auth_unavailable")

    def _remember(self, digest: bytes, cached: _Cached) -> None:
        self._negative_cache.forget(digest)
        self._cached[digest] = cached
        self._cached.move_to_end(digest)
        self._digests.setdefault(cached.principal.key_id, set()).add(digest)
        while len(self._cached) > self._auth_cache_max:
            self._forget(next(iter(self._cached)))

    def _forget(self, digest: bytes) -> None:
        cached = self._cached.pop(digest, None)
        if cached is None:
            return
        digests = self._digests[cached.principal.key_id]
        digests.discard(digest)
        if not digests:
            del self._digests[cached.principal.key_id]

    def _invalidate(self, digest: bytes) -> None:
        """Discard an entry, and remember its key for refusals in progress."""
        self._negative_cache.remember_key(digest, self._cached[digest].principal.counted_key)
        self._forget(digest)

    def _invalidate_before(self, min_revision: int) -> None:
        """Discard cached entries, and ignore future answers, that were read before the revision `min_revision`."""
        self._negative_cache.forget_all()
        for digest, cached in list(self._cached.items()):
            if cached.revision < min_revision:
                self._invalidate(digest)
        self._changed_at.clear()
        self._min_revision = min_revision
        self._may_have_missed_changes.set()

    async def _follow(self) -> None:
        events = self._auth_client.watch(self._revision)
        while True:
            async with asyncio.timeout(_SILENCE_SECONDS):
                event = await anext(events, None)
            if event is None:
                return
            self._apply(event)

    def _apply(self, event: WatchEvent) -> None:
        if self._revision is None:
            # A new watch does not deliver earlier changes, so entries and answers read before it may be outdated.
            self._invalidate_before(event.revision)
        elif event.revision < self._revision or event.all_keys_changed:
            # After a database was restored, revisions repeat and cannot be compared with those of cached entries.
            self._cached.clear()
            self._digests.clear()
            self._invalidate_before(event.revision)
        if event.changed_key_id:
            self._note_change(event)
        elif not event.all_keys_changed:
            self._heartbeat_at = self._clock.monotonic()
        self._revision = event.revision

    def _note_change(self, event: WatchEvent) -> None:
        self._changed_at[event.changed_key_id] = event.revision
        if len(self._changed_at) > _RECENT_CHANGES_MAX:
            del self._changed_at[next(iter(self._changed_at))]
        for digest in list(self._digests.get(event.changed_key_id, ())):
            # A new key is often used before the event of its creation arrives, and the cached entry then includes that
            # change. An entry never includes a revocation: with a later revision, it is from before a restore.
            if event.is_revoked or self._cached[digest].revision < event.revision:
                self._invalidate(digest)
        if event.is_revoked:
            self._revocations.cancel(event.changed_key_id)


def _digest(api_key: str) -> bytes:
    return hashlib.sha256(api_key.encode()).digest()
