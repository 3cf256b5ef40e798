"""Protection against floods of invalid API keys: a cache of denials, and a limit on unknown keys per address.

Denials are cached for 10 s, or until any key changes, so that a new key works immediately. Keys are identified by their
SHA-256, as everywhere in the gateway.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from services.common.address_prefix import address_prefix
from services.common.errors import ErrorDetails, Throttled, Unauthenticated
from services.common.runtime.clock import Clock
from services.gateway.requests.types import CountedKey

_DENIAL_SECONDS = 10.0
_DENIALS_MAX = 10_000
_WINDOW_SECONDS = 10.0
_UNKNOWN_MAX = 100
"""Maximum unknown keys from one address per window: more than mistakes cause, but too few to guess a key."""
_ADDRESSES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class _Denial:
    reason: str
    """Empty if only the key is known."""
    revision: int
    ends_at: float
    key: CountedKey | None


class NegativeKeyCache:
    """A cache of keys that auth has denied."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._denials: OrderedDict[bytes, _Denial] = OrderedDict()

    def remember(self, digest: bytes, reason: str, *, revision: int, key: CountedKey | None = None) -> None:
        """Cache a denial that was read at `revision`, and evict the least recently used one if the cache is full."""
        self._denials[digest] = _Denial(reason, revision, self._clock.monotonic() + _DENIAL_SECONDS, key)
        self._denials.move_to_end(digest)
        if len(self._denials) > _DENIALS_MAX:
            self._denials.popitem(last=False)

    def remember_key(self, digest: bytes, key: CountedKey) -> None:
        """Cache which key a digest belongs to, without a denial, so that refusals in progress can still be counted."""
        self.remember(digest, "", revision=-1, key=key)

    def reason(self, digest: bytes, *, revision: int) -> str | None:
        """Return the reason of a cached denial, or None if there is none at `revision`, the latest known revision."""
        denial = self._denials.get(digest)
        if denial is None or denial.revision < revision or denial.ends_at <= self._clock.monotonic():
            return None
        self._denials.move_to_end(digest)
        return denial.reason

    def key(self, digest: bytes) -> CountedKey | None:
        """Return the key that a digest belongs to, also after its denial has expired; None if it is not known."""
        denial = self._denials.get(digest)
        return denial.key if denial else None

    def forget(self, digest: bytes) -> None:
        """Remove the denial of a key, if it is cached."""
        self._denials.pop(digest, None)

    def forget_all(self) -> None:
        """Remove all denials."""
        self._denials.clear()


@dataclass(slots=True)
class _Window:
    ends_at: float
    unknown: int = 0


class UnknownKeyLimiter:
    """Limits unknown keys per client address and window.

    After the first unknown key of an address, its lookups in progress also count, so that concurrent guesses are
    limited like sequential ones.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._windows: OrderedDict[str, _Window] = OrderedDict()
        self._in_progress: Counter[str] = Counter()

    @contextmanager
    def lookup(self, address: str) -> Iterator[None]:
        """Count the lookup in the block, of a key that came from `address`. An empty address is not limited.

        Raises:
            Throttled: Too many unknown keys came from the address.
        """
        prefix = address_prefix(address)
        self._check(prefix)
        self._in_progress[prefix] += 1
        try:
            yield
        except Unauthenticated as exc:
            if exc.reason == "unknown" and prefix:
                self._count(prefix)
            raise
        finally:
            self._in_progress[prefix] -= 1
            if not self._in_progress[prefix]:
                del self._in_progress[prefix]

    def _check(self, prefix: str) -> None:
        window = self._windows.get(prefix)
        if window is None:
            return
        seconds = window.ends_at - self._clock.monotonic()
        if seconds <= 0:
            del self._windows[prefix]
        elif window.unknown + self._in_progress[prefix] >= _UNKNOWN_MAX:
            message = (
                "Too many unknown API keys came from your address. Check your API key and try again later. Keys that "
                "worked a moment ago still work."
            )
            details = ErrorDetails(retry_after_seconds=math.ceil(seconds))
            raise Throttled(message, reason="too_many_unknown_keys", details=details)

    def _count(self, prefix: str) -> None:
        now = self._clock.monotonic()
        window = self._windows.get(prefix)
        if window is None or window.ends_at <= now:
            self._windows.pop(prefix, None)
            window = self._windows[prefix] = _Window(now + _WINDOW_SECONDS)
        window.unknown += 1
        if len(self._windows) > _ADDRESSES_MAX:
            self._windows.popitem(last=False)
