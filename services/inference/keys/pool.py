"""The operator's Groq keys: which one to use for the next call, and how long to wait for one.

What is known of a key and a model comes from Groq's latest answers and is kept in memory only:

- A key without requests or tokens left cools down until Groq said that it has some again.
- A key with too few tokens left for a large request is used for smaller ones (token_limits.py).
- A key that fails several times in a row for a model is left alone for a while (circuit_breaker.py).
- A key that Groq refuses is quarantined: it is not used while another key is accepted, until its quarantine is over.
- A model that Groq refuses to the organisation of a key is asked for with other keys first.

What an answer says is ordered by when its call was sent: an older call's success does not end a newer limit.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from services.common.runtime.clock import Clock
from services.inference.groq.errors import CallResult, KeyLimited, ModelRefused, UpstreamError, result_of
from services.inference.keys.circuit_breaker import CircuitBreaker
from services.inference.keys.token_limits import TokenLimits
from services.inference.metrics import upstream_calls

ANY_MODEL = ""
"""Stands for calls that are not about a model."""

_log = logging.getLogger(__name__)
_QUARANTINE_SECONDS = 60.0
_QUARANTINE_SECONDS_MAX = 600.0
_TRIAL_SECONDS = 5.0
"""How long one call tries a key after its quarantine before another may."""
_MODEL_REFUSED_SECONDS = 60.0
_STATES_MAX = 2_000
"""Keys and models that something is remembered of. Callers choose the models' names."""
_FAILURES = frozenset({CallResult.FAILED, CallResult.TIMED_OUT, CallResult.INVALID})
_GROQ_WORKS = frozenset({CallResult.ANSWERED, CallResult.REFUSED, CallResult.MODEL_REFUSED})


@dataclass(slots=True)
class _KeyState:
    """What is known of a key, whatever the model."""

    refusals: int = 0
    """Quarantines in a row."""
    quarantined_until: float = 0.0
    refused_at: float = 0.0
    """When the latest refusal was learned; what was sent before says nothing new."""


@dataclass(slots=True)
class _ModelState:
    """What is known of a key and a model."""

    breaker: CircuitBreaker
    token_limits: TokenLimits = field(default_factory=TokenLimits)
    cools_until: float = 0.0
    limited_call_sent_at: float = 0.0
    refused_until: float = 0.0
    """Until when the model counts as refused to the organisation of this key."""

    def is_idle(self, now: float) -> bool:
        """Return whether nothing is known that would be missed."""
        is_used = self.breaker.is_idle and max(self.cools_until, self.refused_until) <= now
        return is_used and self.token_limits.is_idle(now)

    def seconds_until_usable(self, account_id: str, tokens: int, now: float) -> float:
        """Return the time until an account may use the key for a request of so many tokens; 0 when it may now."""
        limited = max(self.cools_until - now, self.token_limits.seconds_until_allowed(account_id, tokens, now))
        return max(limited, self.breaker.seconds_until_allowed(account_id, now))


@dataclass(slots=True)
class KeyLease:
    """Permission for one call to Groq with one key."""

    _pool: "KeyPool" = field(repr=False)
    key: int
    """Index of the key."""
    model: str
    account_id: str
    tokens: int
    """About what Groq counts for the request."""
    sent_at: float
    """When the call was made, by the monotonic clock."""
    probe: int
    """Number of its circuit's probe that it is; 0 when it is none."""
    has_answered: bool = False
    result: CallResult | None = None
    """How the call ended; None while it is under way."""

    def limits_learned(self, *, cooldown_seconds: float) -> None:
        """Note what the headers of Groq's answer say.

        Args:
            cooldown_seconds: Time until the key has something left for the model; 0 when it has.
        """
        self._pool._cool_down(self, cooldown_seconds)

    def answered(self) -> None:
        """Note that Groq answers, as soon as it is known: a long answer may take minutes to end."""
        self.has_answered = True
        self._pool._record_success(self)

    def timed_out(self) -> None:
        """Note that nothing came for too long. The call may go on, and may still be answered."""
        if self.result is None:
            self.result = CallResult.TIMED_OUT
            self._pool._record_failure(self)


class KeyPool:
    """Hands out keys in turn and remembers what their answers said."""

    def __init__(self, keys_count: int, clock: Clock, *, cooldown_seconds_max: float, failures_max: int) -> None:
        """Create a pool in which every key is usable.

        Args:
            keys_count: Number of keys; a key is known by its index.
            clock: Source of monotonic time.
            cooldown_seconds_max: Longest cool-down of a key, whatever Groq said; 0 remembers nothing.
            failures_max: Failures in a row that open the circuit of a key and model; 0 never opens it.
        """
        self._clock = clock
        self._cooldown_seconds_max = cooldown_seconds_max
        self._failures_max = failures_max if cooldown_seconds_max else 0
        self._keys = [_KeyState() for _ in range(keys_count)]
        self._states: OrderedDict[tuple[int, str], _ModelState] = OrderedDict()
        self._next = 0

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._keys)

    def seconds_until(self, model: str, account_id: str, *, tokens: int = 0) -> float:
        """Return the time until an account can use some key for a model; 0 when it can now.

        Args:
            model: The model.
            account_id: The account.
            tokens: About what Groq counts for the request.
        """
        now = self._clock.monotonic()
        return min(self._seconds_until_usable(key, model, account_id, tokens, now) for key in range(len(self)))

    def is_accepted(self, key: int) -> bool:
        """Return whether a key is not in quarantine."""
        return self._keys[key].quarantined_until <= self._clock.monotonic()

    def cooling_models(self, key: int) -> int:
        """Return for how many models a key cools down, if only for large requests, or has an open circuit."""
        now = self._clock.monotonic()
        states = [state for (one, _), state in self._states.items() if one == key]
        return sum(
            state.cools_until > now or state.breaker.is_open or not state.token_limits.is_idle(now) for state in states
        )

    @contextmanager
    def lease(self, model: str, account_id: str, *, tokens: int = 0) -> Iterator[KeyLease]:
        """Give the next usable key for one call, and learn from how the block ends.

        Args:
            model: The model.
            account_id: The account.
            tokens: About what Groq counts for the request.

        Raises:
            UpstreamError: No key can be used now; it says when to come back.
        """
        lease = self._take(model, account_id, tokens)
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

    def _take(self, model: str, account_id: str, tokens: int) -> KeyLease:
        now = self._clock.monotonic()
        turns = [(self._next + turn) % len(self) for turn in range(len(self))]
        usable = [key for key in turns if not self._seconds_until_usable(key, model, account_id, tokens, now)]
        if not usable:
            raise UpstreamError(retry_seconds=self.seconds_until(model, account_id, tokens=tokens))
        key = next((key for key in usable if not self._is_model_refused(key, model, now)), usable[0])
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
        """Learn from what a call raised; the failure of one that timed out before is counted already."""
        result, is_counted = result_of(exc), lease.result is not None
        lease.result = lease.result or result
        if isinstance(exc, KeyLimited):
            self._note_limit(lease, exc)
        elif result is CallResult.KEY_REFUSED:
            self._quarantine(lease)
        elif result in _FAILURES and not is_counted and not (result is CallResult.TIMED_OUT and lease.has_answered):
            self._record_failure(lease)
        elif result in _GROQ_WORKS:
            self._record_success(lease)
        if isinstance(exc, ModelRefused):
            self._note_model_refused(lease, exc)

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
                "The circuit of a Groq key and model is open.",
                extra={"key": lease.key + 1, "model": lease.model, "seconds": seconds},
            )

    def _cool_down(self, lease: KeyLease, seconds: float) -> None:
        state = self._state(lease)
        if lease.sent_at < state.limited_call_sent_at:
            return
        seconds = min(seconds, self._cooldown_seconds_max)
        if seconds:
            state.limited_call_sent_at = lease.sent_at
            _log.warning(
                "A Groq key cools down.", extra={"key": lease.key + 1, "model": lease.model, "seconds": seconds}
            )
        state.cools_until = self._clock.monotonic() + seconds

    def _note_limit(self, lease: KeyLease, limit: KeyLimited) -> None:
        if limit.shortfall is None:
            self._cool_down(lease, limit.retry_seconds)
            return
        state, now = self._state(lease), self._clock.monotonic()
        seconds = min(limit.retry_seconds, self._cooldown_seconds_max)
        state.token_limits.record_refusal(lease.account_id, lease.tokens, seconds=seconds, now=now)
        if lease.sent_at < state.limited_call_sent_at:
            return
        if seconds:
            state.limited_call_sent_at = lease.sent_at
            _log.warning(
                "A Groq key cools down.",
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
        key.quarantined_until = now + min(seconds, self._cooldown_seconds_max)
        _log.error("Groq refuses a key. Replace it.", extra={"key": lease.key + 1, "keys": len(self)})

    def _note_model_refused(self, lease: KeyLease, refusal: ModelRefused) -> None:
        state, now = self._state(lease), self._clock.monotonic()
        if refusal.is_of_key:
            state.refused_until = now + min(_MODEL_REFUSED_SECONDS, self._cooldown_seconds_max)
        elif state.is_idle(now):
            # Callers can invent any number of models that do not exist.
            self._states.pop((lease.key, lease.model), None)

    def _state(self, lease: KeyLease) -> _ModelState:
        name = lease.key, lease.model
        state = self._states.get(name)
        if state is None:
            self._make_room()
            state = self._states[name] = _ModelState(CircuitBreaker(self._failures_max))
        self._states.move_to_end(name)
        return state

    def _make_room(self) -> None:
        if len(self._states) < _STATES_MAX:
            return
        now = self._clock.monotonic()
        self._states = OrderedDict((name, one) for name, one in self._states.items() if not one.is_idle(now))
        if len(self._states) >= _STATES_MAX:
            self._states.popitem(last=False)
