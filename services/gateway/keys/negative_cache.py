"""Floods of keys that are no good: one that auth denied is remembered, and an address that guesses is stopped.

A denial holds for a short time, and only while no key changed since it was read, so that a key that was created a
moment ago works at once. Keys are known by their SHA-256, as everywhere in the gateway.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from services.common.address_prefix import address_prefix
from services.common.errors import Throttled, Unauthenticated
from services.common.runtime.clock import Clock

_DENIAL_SECONDS = 10.0
_DENIALS_MAX = 10_000
_WINDOW_SECONDS = 10.0
_UNKNOWN_MAX = 100
"""Unknown keys of one address within a window: more than any mistake makes, too few to find a key by."""
_ADDRESSES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class _Denial:
    reason: str
    revision: int
    ends_at: float


class NegativeKeyCache:
    """Remembers what auth said of keys that are no good."""

    def __init__(self, clock: Clock) -> None:
        """Remember nothing yet."""
        self._clock = clock
        self._denials: OrderedDict[bytes, _Denial] = OrderedDict()

    def remember(self, digest: bytes, reason: str, *, revision: int) -> None:
        """Keep a denial that was read at `revision`; the longest unused makes room for it."""
        self._denials[digest] = _Denial(reason, revision, self._clock.monotonic() + _DENIAL_SECONDS)
        self._denials.move_to_end(digest)
        if len(self._denials) > _DENIALS_MAX:
            self._denials.popitem(last=False)

    def reason(self, digest: bytes, *, revision: int) -> str | None:
        """Return why a key is no good; None when that is not known at `revision`, the latest that was seen."""
        denial = self._denials.get(digest)
        if denial is None:
            return None
        if denial.revision < revision or denial.ends_at <= self._clock.monotonic():
            del self._denials[digest]
            return None
        self._denials.move_to_end(digest)
        return denial.reason

    def forget(self, digest: bytes) -> None:
        """Forget one key's denial, if there is one."""
        self._denials.pop(digest, None)

    def forget_all(self) -> None:
        """Forget everything."""
        self._denials.clear()


@dataclass(slots=True)
class _Window:
    ends_at: float
    unknown: int = 0


class UnknownKeyLimiter:
    """Stops look-ups for addresses from which unknown key after unknown key comes, until their window is over.

    Every look-up that is under way counts against an address that has guessed wrong once, so that guessing many at the
    same time gets no further than guessing one after the other.
    """

    def __init__(self, clock: Clock) -> None:
        """Suspect nobody yet."""
        self._clock = clock
        self._windows: OrderedDict[str, _Window] = OrderedDict()
        self._asking: Counter[str] = Counter()

    @contextmanager
    def watching(self, address: str) -> Iterator[None]:
        """Watch the block, which looks up a key that came from `address`; an empty one is nobody's.

        Raises:
            Throttled: Too many keys that nobody has came from there.
        """
        block = address_prefix(address)
        self._check(block)
        self._asking[block] += 1
        try:
            yield
        except Unauthenticated as exc:
            if exc.reason == "unknown" and block:
                self._count(block)
            raise
        finally:
            self._asking[block] -= 1
            if not self._asking[block]:
                del self._asking[block]

    def _check(self, block: str) -> None:
        window = self._windows.get(block)
        if window is None:
            return
        seconds = window.ends_at - self._clock.monotonic()
        if seconds <= 0:
            del self._windows[block]
        elif window.unknown + self._asking[block] >= _UNKNOWN_MAX:
            message = "Too many unknown API keys came from your address; keys that worked a moment ago still do."
            wait = str(math.ceil(seconds))
            raise Throttled(message, reason="too_many_unknown_keys", metadata={"retry_after_seconds": wait})

    def _count(self, block: str) -> None:
        now = self._clock.monotonic()
        window = self._windows.get(block)
        if window is None or window.ends_at <= now:
            self._windows.pop(block, None)
            window = self._windows[block] = _Window(now + _WINDOW_SECONDS)
        window.unknown += 1
        if len(self._windows) > _ADDRESSES_MAX:
            self._windows.popitem(last=False)
