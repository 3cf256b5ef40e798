"""Pool of the operator's Groq keys: selects the key of each call.

The pool keeps the state of each key and model in memory, from Groq's latest responses:

- A rate-limited key cools down until the time that Groq gave.
- A key with too few tokens left for a large request is used for smaller ones (`token_limits.py`).
- A key that fails several times in a row for a model is not used for a while (`circuit_breaker.py`).
- A key that Groq rejects is quarantined. Until the quarantine ends, it is only used if all keys are quarantined.
- A model that Groq refuses to a key's organisation is requested with other keys first.

Responses are ordered by the time at which their call was sent, so the success of an older call does not end a newer
rate limit.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from services.common.runtime.clock import Clock
from services.inference.allowance.model import Observation
from services.inference.groq.errors import (
    CallResult,
    KeyLimited,
    ModelRefused,
    UpstreamError,
    UpstreamStale,
    result_of,
)
from services.inference.key_pool.circuit_breaker import CircuitBreaker
from services.inference.key_pool.token_limits import TokenLimits
from services.inference.metrics import upstream_calls

ANY_MODEL = ""
"""Placeholder for calls without a model."""

_log = logging.getLogger(__name__)
_QUARANTINE_SECONDS = 60.0
_QUARANTINE_SECONDS_MAX = 600.0
_TRIAL_SECONDS = 5.0
"""Time for which a call that tries a key after its quarantine keeps other calls from using it."""
_MODEL_REFUSED_SECONDS = 60.0
_CALL_TOKENS_MAX = 10_000_000
"""Far more than the context of any model. A higher count would use up a key's limits for hours."""
_STATES_MAX = 2_000
"""Maximum number of stored key and model states, since callers choose the model names."""
_FAILURES = frozenset({CallResult.FAILED, CallResult.TIMED_OUT, CallResult.INVALID})
_SUCCESSES = frozenset({CallResult.ANSWERED, CallResult.REFUSED, CallResult.MODEL_REFUSED})


@dataclass(slots=True)
class _KeyState:
    """State of a key for all models."""

    refusals: int = 0
    """Consecutive quarantines."""
    quarantined_until: float = 0.0
    refused_at: float = 0.0
    """Time of the last rejection. Results of calls sent earlier are ignored."""


@dataclass(slots=True)
class _ModelState:
    """State of a key for one model."""

    breaker: CircuitBreaker
    token_limits: TokenLimits = field(default_factory=TokenLimits)
    cools_until: float = 0.0
    limited_call_sent_at: float = 0.0
    refused_until: float = 0.0
    """Time until which the model counts as refused to the key's organisation."""

    def is_idle(self, now: float) -> bool:
        """Return whether the state has no effect, so it can be discarded."""
        is_usable = self.breaker.is_idle and max(self.cools_until, self.refused_until) <= now
        return is_usable and self.token_limits.is_idle(now)

    def seconds_until_usable(self, account_id: str, tokens: int, now: float) -> float:
        """Return the time until an account may use the key for a request of `tokens`; 0 if it may now."""
        limited = max(self.cools_until - now, self.token_limits.seconds_until_allowed(account_id, tokens, now))
        return max(limited, self.breaker.seconds_until_allowed(account_id, now))


class Slot(Protocol):
    """Port to the slot of a call (`requests/slots.py`)."""

    used: int | None
    """Tokens that Groq counts for the call; None if they are not known."""

    def observe(self, observations: Sequence[Observation]) -> None:
        """Record what Groq reports about its limits."""


@dataclass(slots=True)
class KeyLease:
    """Permission to make one call to Groq with one key."""

    _pool: "KeyPool" = field(repr=False)
    key: int
    """Index of the key."""
    model: str
    account_id: str
    tokens: int
    """About what Groq counts for the request."""
    sent_at: float
    """Monotonic time of the call."""
    probe: int
    """Number of the circuit's probe that the call is; 0 if it is not a probe."""
    slot: Slot | None = field(default=None, repr=False)
    """The slot of the call; None for calls that need none."""
    upstream_id: str = ""
    """Groq's id of the call, from the headers of its answer; empty until it is known."""
    has_answered: bool = False
    result: CallResult | None = None
    """How the call ended; None while it is in progress."""

    def record_limits(self, observations: Sequence[Observation]) -> None:
        """Record the rate limits in the headers of an answer, which ends a cool-down."""
        self._pool._cool_down(self, 0.0)
        if self.slot is not None:
            self.slot.observe(observations)

    def record_tokens(self, tokens: int) -> None:
        """Record the tokens that Groq counts for the call. An implausible count leaves the estimate."""
        if self.slot is not None and tokens <= _CALL_TOKENS_MAX:
            self.slot.used = tokens

    def record_answer(self) -> None:
        """Record a success when the answer begins, since a long answer may take minutes to end."""
        self.has_answered = True
        self._pool._record_success(self)

    def record_timeout(self) -> None:
        """Record a time-out. The call may continue and still succeed."""
        if self.result is None:
            self.result = CallResult.TIMED_OUT
            self._pool._record_failure(self)


class KeyPool:
    """Hands out keys in rotation and tracks their state."""

    def __init__(self, keys_count: int, clock: Clock, *, cooldown_seconds_max: float, failures_max: int) -> None:
        """Create a pool in which all keys are usable.

        Args:
            keys_count: Number of keys; keys are identified by index.
            clock: Source of monotonic time.
            cooldown_seconds_max: Maximum cool-down or quarantine of a key; 0 disables both and the circuit breakers.
            failures_max: Consecutive failures that open the circuit of a key and model; 0 disables it.
        """
        self._clock = clock
        self.cooldown_seconds_max = cooldown_seconds_max
        self._failures_max = failures_max if cooldown_seconds_max else 0
        self._keys = [_KeyState() for _ in range(keys_count)]
        self._states: OrderedDict[tuple[int, str], _ModelState] = OrderedDict()
        self._next = 0

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._keys)

    def seconds_until(self, model: str, account_id: str, *, tokens: int = 0) -> float:
        """Return the time until an account can use any key for a model; 0 if it can now.

        Args:
            model: The model.
            account_id: The account.
            tokens: Estimate of what Groq counts for the request.
        """
        now = self._clock.monotonic()
        return min(self._seconds_until_usable(key, model, account_id, tokens, now) for key in range(len(self)))

    def is_accepted(self, key: int) -> bool:
        """Return whether a key is not quarantined."""
        return self._keys[key].quarantined_until <= self._clock.monotonic()

    def cooling_models(self, key: int) -> int:
        """Return for how many models a key cools down, if only for large requests, or has an open circuit."""
        now = self._clock.monotonic()
        states = [state for (index, _), state in self._states.items() if index == key]
        return sum(
            state.cools_until > now or state.breaker.is_open or not state.token_limits.is_idle(now) for state in states
        )

    def usable(self, model: str, account_id: str, *, tokens: int = 0) -> list[int]:
        """Return the keys that an account can use for a model now, in rotation; see `seconds_until`.

        Keys of organisations that may not use the model are left out if there are others.
        """
        now = self._clock.monotonic()
        turns = [(self._next + turn) % len(self) for turn in range(len(self))]
        usable = [key for key in turns if not self._seconds_until_usable(key, model, account_id, tokens, now)]
        return [key for key in usable if not self._is_model_refused(key, model, now)] or usable

    def is_failing(self, model: str) -> bool:
        """Return whether all keys are rejected, fail or may not use the model, rather than being rate limited."""
        now = self._clock.monotonic()
        states = [self._states.get((key, model)) for key in range(len(self))]
        return all(
            self._keys[key].quarantined_until > now
            or self._is_model_refused(key, model, now)
            or (state is not None and state.breaker.is_open)
            for key, state in enumerate(states)
        )

    @contextmanager
    def lease(
        self, model: str, account_id: str, *, tokens: int = 0, key: int | None = None, slot: Slot | None = None
    ) -> Iterator[KeyLease]:
        """Lease a key for the block, which makes one call, and record how the block ends.

        Args:
            model: The model.
            account_id: The account.
            tokens: About what Groq counts for the request.
            key: The key; None takes the next usable one.
            slot: The slot of the call; None for calls that need none.

        Raises:
            UpstreamError: No key is usable, or not this one; `retry_seconds` is the time until one is.
        """
        lease = self._take(model, account_id, tokens, key)
        lease.slot = slot
        try:
            yield lease
        except BaseException as exc:
            self._end(lease, exc)
            raise
        else:
            lease.result = lease.result or CallResult.ANSWERED
            self._record_success(lease)
        finally:
            if lease.probe:
                self._state(lease).breaker.end(account_id, lease.probe)
            upstream_calls(lease.key, lease.result or CallResult.CANCELLED).inc()

    def _take(self, model: str, account_id: str, tokens: int, key: int | None) -> KeyLease:
        now = self._clock.monotonic()
        usable = self.usable(model, account_id, tokens=tokens)
        if not usable or (key is not None and key not in usable):
            raise UpstreamError(retry_seconds=self.seconds_until(model, account_id, tokens=tokens))
        key = usable[0] if key is None else key
        self._next = (key + 1) % len(self)
        if self._keys[key].refusals:
            self._keys[key].quarantined_until = now + _TRIAL_SECONDS
        lease = KeyLease(self, key, model, account_id, tokens, now, probe=0)
        lease.probe = self._state(lease).breaker.begin(account_id, now)
        return lease

    def _seconds_until_usable(self, key: int, model: str, account_id: str, tokens: int, now: float) -> float:
        state = self._states.get((key, model))
        seconds = state.seconds_until_usable(account_id, tokens, now) if state else 0.0
        quarantine = self._keys[key].quarantined_until - now
        return seconds if quarantine <= 0 or self._are_all_quarantined(now) else max(seconds, quarantine)

    def _are_all_quarantined(self, now: float) -> bool:
        return all(state.quarantined_until > now for state in self._keys)

    def _is_model_refused(self, key: int, model: str, now: float) -> bool:
        state = self._states.get((key, model))
        return state is not None and state.refused_until > now

    def _end(self, lease: KeyLease, exc: BaseException) -> None:
        """Record the exception of a failed call. The failure of a call that timed out was already counted."""
        result, is_counted = result_of(exc), lease.result is not None
        lease.result = lease.result or result
        if isinstance(exc, KeyLimited):
            self._note_limit(lease, exc)
        elif result is CallResult.KEY_REFUSED:
            self._quarantine(lease)
        elif result in _FAILURES and not is_counted and not _is_harmless(lease, exc):
            self._record_failure(lease)
        elif result in _SUCCESSES:
            self._record_success(lease)
        if isinstance(exc, ModelRefused):
            self._record_model_refused(lease, exc)

    def _record_success(self, lease: KeyLease) -> None:
        key = self._keys[lease.key]
        if lease.sent_at >= key.refused_at:
            key.refusals, key.quarantined_until = 0, 0.0
        if state := self._states.get((lease.key, lease.model)):
            state.breaker.record_success()

    def _record_failure(self, lease: KeyLease) -> None:
        now = self._clock.monotonic()
        seconds = self._state(lease).breaker.record_failure(lease.account_id, now, probe=lease.probe)
        if seconds:
            _log.warning(
                "The circuit of a Groq key and model opened after repeated failures.",
                extra={"key": lease.key + 1, "model": lease.model, "seconds": seconds},
            )

    def _cool_down(self, lease: KeyLease, seconds: float) -> None:
        state = self._state(lease)
        if lease.sent_at < state.limited_call_sent_at:
            return
        seconds = min(seconds, self.cooldown_seconds_max)
        if seconds:
            state.limited_call_sent_at = lease.sent_at
            _log.warning(
                "A Groq key is rate limited and cools down.",
                extra={"key": lease.key + 1, "model": lease.model, "seconds": seconds},
            )
        state.cools_until = self._clock.monotonic() + seconds

    def _note_limit(self, lease: KeyLease, limit: KeyLimited) -> None:
        if limit.shortfall is None:
            self._cool_down(lease, limit.retry_seconds)
            return
        state, now = self._state(lease), self._clock.monotonic()
        seconds = min(limit.retry_seconds, self.cooldown_seconds_max)
        state.token_limits.record_refusal(lease.account_id, lease.tokens, seconds=seconds, now=now)
        if lease.sent_at < state.limited_call_sent_at:
            return
        if seconds:
            state.limited_call_sent_at = lease.sent_at
            _log.warning(
                "A Groq key is rate limited and cools down.",
                extra={
                    "key": lease.key + 1,
                    "model": lease.model,
                    "seconds": seconds,
                    "tokens_left": limit.shortfall.left,
                },
            )
        state.token_limits.record(limit.shortfall, seconds=seconds, now=now)

    def _quarantine(self, lease: KeyLease) -> None:
        now, key = self._clock.monotonic(), self._keys[lease.key]
        if lease.sent_at < key.refused_at:
            return
        seconds = min(_QUARANTINE_SECONDS * 2.0 ** min(key.refusals, 10), _QUARANTINE_SECONDS_MAX)
        key.refusals += 1
        key.refused_at = now
        key.quarantined_until = now + min(seconds, self.cooldown_seconds_max)
        _log.error("Groq rejected a key. Replace it.", extra={"key": lease.key + 1, "keys": len(self)})

    def _record_model_refused(self, lease: KeyLease, refusal: ModelRefused) -> None:
        state, now = self._state(lease), self._clock.monotonic()
        if refusal.is_key_specific:
            state.refused_until = now + min(_MODEL_REFUSED_SECONDS, self.cooldown_seconds_max)
        elif state.is_idle(now):
            # Callers could fill the table with names of models that do not exist.
            self._states.pop((lease.key, lease.model), None)

    def _state(self, lease: KeyLease) -> _ModelState:
        name = lease.key, lease.model
        state = self._states.get(name)
        if state is None:
            self._evict()
            state = self._states[name] = _ModelState(CircuitBreaker(self._failures_max))
        self._states.move_to_end(name)
        return state

    def _evict(self) -> None:
        if len(self._states) < _STATES_MAX:
            return
        now = self._clock.monotonic()
        self._states = OrderedDict((name, state) for name, state in self._states.items() if not state.is_idle(now))
        if len(self._states) >= _STATES_MAX:
            self._states.popitem(last=False)


def _is_harmless(lease: KeyLease, exc: BaseException) -> bool:
    """Return whether a failed call implies nothing about Groq: a long answer, or a stale connection."""
    return isinstance(exc, UpstreamStale) or (result_of(exc) is CallResult.TIMED_OUT and lease.has_answered)
