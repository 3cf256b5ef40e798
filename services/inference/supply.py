"""The operator's Groq keys, and which of them can be asked for a model now.

What is known of a key and a model was learnt from Groq's last answers, and is forgotten with the process:

- A key without requests or tokens left rests until Groq said it has some again.
- A key that failed several times in a row is left alone for a while that doubles, then asked once: the circuit breaker.
- A key that Groq refuses goes behind all others for a minute, for every model. It is asked when no other can be: a
  refusal can come from Groq's edge for one request's sake, and must not take the service away from everybody.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from services.common.clock import Clock
from services.common.errors import DeadlineExceeded, ServiceError, Unavailable
from services.inference.metrics import upstream_calls

ANY_MODEL = ""
"""Stands for calls that are not about a model."""

_log = logging.getLogger(__name__)
_REFUSED_SECONDS = 60.0
_BREAK_SECONDS = 1.0
_BREAK_SECONDS_MAX = 10.0
_PROBE_SECONDS = 0.1
"""Pause before looking again whether somebody's probe has ended."""
_RETRY_AFTER_SECONDS_MAX = 60
_STATES_MAX = 10_000
"""Model names are the callers': there is no end of them."""
_BUSY = "the model is busy or failing just now; try again"


class UpstreamTrouble(Unavailable):
    """Groq did not answer, and the request is not at fault: another call may be answered.

    Attributes:
        rest_seconds: How long Groq asked to be left alone; 0 when it did not say.
    """

    def __init__(
        self, message: str = _BUSY, *, reason: str = "upstream_unavailable", rest_seconds: float = 0.0
    ) -> None:
        whole = min(max(1, math.ceil(rest_seconds)), _RETRY_AFTER_SECONDS_MAX)
        super().__init__(message, reason=reason, metadata={"retry_after_seconds": str(whole)})
        self.rest_seconds = rest_seconds


class KeyLimited(UpstreamTrouble):
    """The key has no supply of the model left."""


class KeyRefused(UpstreamTrouble):
    """Groq does not accept the operator's key."""


class UpstreamFailed(UpstreamTrouble):
    """Groq failed, or could not be reached."""


@dataclass(slots=True)
class _State:
    """What is known of a key and a model."""

    rests_until: float = 0.0
    failures: int = 0
    """In a row."""
    breaks: int = 0
    """In a row; while there are any, one call at a time may try the key."""
    is_probed: bool = False

    def seconds_left(self, now: float) -> float:
        """Return the time until the key can be asked."""
        if self.is_probed:
            return max(_PROBE_SECONDS, self.rests_until - now)
        return max(0.0, self.rests_until - now)


class Supply:
    """Chooses keys in turn and remembers what their answers told."""

    def __init__(self, keys_count: int, clock: Clock, *, rest_seconds_max: float, failures_max: int) -> None:
        """Begin with every key usable.

        Args:
            keys_count: How many keys there are; they are known by their index.
            clock: Where the time comes from.
            rest_seconds_max: Longest rest of a key, whatever was learnt; 0 remembers nothing.
            failures_max: Failures in a row that break the circuit; 0 never breaks it.
        """
        self._clock = clock
        self._rest_seconds_max = rest_seconds_max
        self._failures_max = failures_max if rest_seconds_max else 0
        self._refused_until = [0.0] * keys_count
        self._states: dict[tuple[int, str], _State] = {}
        self._next = 0

    def __len__(self) -> int:
        """Return how many keys there are."""
        return len(self._refused_until)

    def seconds_until(self, model: str) -> float:
        """Return the time until some key can be asked for a model; 0 when one can be now."""
        if not self._states:
            return 0.0
        now = self._clock.monotonic()
        return min(self._state(key, model).seconds_left(now) for key in range(len(self)))

    def has_trusted_key(self, model: str) -> bool:
        """Return whether a key can be asked now that Groq did not refuse lately."""
        return bool(self._trusted(self._usable(model)))

    def is_trusted(self, key: int) -> bool:
        """Return whether Groq did not refuse a key lately."""
        return self._refused_until[key] <= self._clock.monotonic()

    def resting_models(self, key: int) -> int:
        """Return for how many models a key rests."""
        now = self._clock.monotonic()
        return sum(1 for (one, _), state in self._states.items() if one == key and state.seconds_left(now) > 0)

    @contextmanager
    def lease(self, model: str) -> "Iterator[Lease]":
        """Give the next usable key for one call, and learn from how the block ends.

        Raises:
            UpstreamTrouble: No key can be asked now; it says when to come back.
        """
        lease = self._choose(model)
        result = "answered"
        try:
            yield lease
        except KeyLimited as exc:
            result = "limited"
            self._rest(lease, exc.rest_seconds)
            raise
        except KeyRefused:
            result = "key_refused"
            self._distrust(lease.key)
            raise
        except (UpstreamFailed, DeadlineExceeded):
            result = "failed"
            self._count_failure(lease)
            raise
        except ServiceError:
            result = "request_refused"
            lease.answered(rest_seconds=0)  # Groq works: it refused the request.
            raise
        finally:
            upstream_calls(lease.key, result).inc()
            if lease.is_probe:
                self._state(lease.key, model).is_probed = False

    def _choose(self, model: str) -> "Lease":
        usable = self._usable(model)
        if not usable:
            raise UpstreamTrouble(rest_seconds=self.seconds_until(model))
        key = (self._trusted(usable) or usable)[0]
        self._next = (key + 1) % len(self)
        state = self._state(key, model)
        state.is_probed = state.breaks > 0
        return Lease(self, key, model, is_probe=state.is_probed)

    def _usable(self, model: str) -> list[int]:
        now = self._clock.monotonic()
        turns = ((self._next + turn) % len(self) for turn in range(len(self)))
        return [key for key in turns if not self._state(key, model).seconds_left(now)]

    def _trusted(self, keys: list[int]) -> list[int]:
        now = self._clock.monotonic()
        return [key for key in keys if self._refused_until[key] <= now]

    def _recover(self, lease: "Lease", rest_seconds: float) -> None:
        self._refused_until[lease.key] = 0.0
        if rest_seconds <= 0:
            self._states.pop((lease.key, lease.model), None)
            return
        state = self._remembered(lease)
        state.failures = state.breaks = 0
        self._rest(lease, rest_seconds)

    def _rest(self, lease: "Lease", seconds: float) -> None:
        seconds = min(seconds, self._rest_seconds_max)
        state = self._remembered(lease)
        state.rests_until = max(state.rests_until, self._clock.monotonic() + seconds)
        _log.warning("a groq key rests", extra={"key": lease.key + 1, "model": lease.model, "seconds": seconds})

    def _distrust(self, key: int) -> None:
        seconds = min(_REFUSED_SECONDS, self._rest_seconds_max)
        self._refused_until[key] = self._clock.monotonic() + seconds
        _log.error("groq refuses a key of the operator's: replace it", extra={"key": key + 1, "keys": len(self)})

    def _count_failure(self, lease: "Lease") -> None:
        state = self._remembered(lease)
        state.failures += 1
        # Calls that began before the break say nothing new.
        is_news = lease.is_probe or not state.breaks
        if not self._failures_max or state.failures < self._failures_max or not is_news:
            return
        seconds = min(_BREAK_SECONDS * 2.0 ** min(state.breaks, 10), _BREAK_SECONDS_MAX)
        state.breaks += 1
        self._rest(lease, seconds)

    def _state(self, key: int, model: str) -> _State:
        return self._states.get((key, model)) or _State()

    def _remembered(self, lease: "Lease") -> _State:
        if len(self._states) >= _STATES_MAX:
            now = self._clock.monotonic()
            self._states = {pair: state for pair, state in self._states.items() if state.seconds_left(now)}
        return self._states.setdefault((lease.key, lease.model), _State())


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to ask Groq once, with one key."""

    _supply: Supply
    key: int
    """The key's index."""
    model: str
    is_probe: bool = False
    """The one call that may be made of a key whose circuit is broken."""

    def answered(self, *, rest_seconds: float) -> None:
        """Learn at once that Groq answers, before a long answer has ended.

        Args:
            rest_seconds: Time until the key has something left for the model; 0 when it has.
        """
        self._supply._recover(self, rest_seconds)
