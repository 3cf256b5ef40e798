"""Calls to Groq with retries, other keys and fallback models, within the request's deadline.

A call is not retried after output has reached the caller, after Groq rejected the request itself, after a time-out, or
after the caller has disconnected.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Generic, TypeVar

from opentelemetry.trace import SpanKind

from services.common.errors import DeadlineExceeded
from services.common.runtime.clock import Clock
from services.common.telemetry import tracing
from services.inference.chat import JSONObject
from services.inference.groq.errors import CallResult, KeyLimited, KeyRefused, ModelRefused, UpstreamError
from services.inference.key_pool.pool import ANY_MODEL, KeyLease, KeyPool
from services.inference.requests.concurrency import ConcurrencyLimiter
from services.inference.requests.record import RequestRecord

T = TypeVar("T")
Call = Callable[[str, KeyLease], Awaitable[T]]
"""Calls Groq once, with a model and a key."""

_BACKOFF_SECONDS = 0.25
_BACKOFF_SECONDS_MAX = 4.0
_JITTER = 0.25
"""Maximum extra wait, as a fraction, so that requests waiting for the same key do not all resume together."""
_FAILURES = frozenset({CallResult.FAILED, CallResult.INVALID})


class Upstream:
    """Calls Groq for requests, with retries."""

    def __init__(
        self,
        keys: KeyPool,
        limiter: ConcurrencyLimiter,
        *,
        attempts_max: int,
        wait_seconds: float,
        waiting_max: int,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random_number: Callable[[], float] = random.random,
    ) -> None:
        """Create an upstream.

        Args:
            keys: The operator's keys.
            limiter: Limits concurrent calls.
            attempts_max: Maximum failed calls per model; rate-limited and rejected keys do not count.
            wait_seconds: Maximum total wait of a request for keys and for Groq's `retry-after`.
            waiting_max: Maximum number of waiting requests per account.
            clock: Source of monotonic time.
            sleep: Sleeps for a number of seconds.
            random_number: Returns a random number from 0 to 1, for the jitter.
        """
        self._keys = keys
        self._limiter = limiter
        self._attempts_max = attempts_max
        self._wait_seconds = wait_seconds
        self._waiting_max = waiting_max
        self._waiting: Counter[str] = Counter()
        self._clock = clock
        self._sleep = sleep
        self._random_number = random_number

    async def call(
        self,
        models: Sequence[str],
        call: Call[T],
        record: RequestRecord,
        *,
        deadline: float,
        is_empty: Callable[[], bool] = lambda: True,
    ) -> T:
        """Call Groq until a call succeeds and return its result.

        Args:
            models: Models to try, in order of preference.
            call: Calls Groq once.
            record: Record of the request; counts the calls.
            deadline: Monotonic time at which the request ends.
            is_empty: Returns whether no output has reached the caller.

        Raises:
            ServiceError: The last call failed, or no key was usable in time.
            CallerLeft: The caller disconnected before Groq was called.
        """
        attempts = _Attempts(self, call, record, deadline=deadline, is_empty=is_empty)
        for position, model in enumerate(models):
            fallbacks = models[position + 1 :]
            try:
                return await attempts.call_model(model, fallbacks)
            except (UpstreamError, ModelRefused):
                if not fallbacks or not attempts.may_retry:
                    raise
        raise AssertionError("expected at least one model")  # pragma: no cover

    @contextmanager
    def _count_waiting(self, account_id: str) -> Iterator[bool]:
        """Count a waiting request for the block; yield whether the account is within `waiting_max`."""
        self._waiting[account_id] += 1
        try:
            yield self._waiting[account_id] <= self._waiting_max
        finally:
            self._waiting[account_id] -= 1
            if not self._waiting[account_id]:
                del self._waiting[account_id]


class _Attempts(Generic[T]):
    """The calls to Groq for one request."""

    def __init__(
        self,
        upstream: Upstream,
        call: Call[T],
        record: RequestRecord,
        *,
        deadline: float,
        is_empty: Callable[[], bool],
    ) -> None:
        self._upstream = upstream
        self._keys = upstream._keys
        self._clock = upstream._clock
        self._call = call
        self._record = record
        self._account_id = record.account_id
        self._tokens = record.call.tokens
        self._deadline = deadline
        self._is_empty = is_empty
        self._wait_budget = upstream._wait_seconds
        """Seconds that the request may still wait for keys and for Groq's `retry-after`."""

    @property
    def may_retry(self) -> bool:
        """Whether the caller still waits and has received no output."""
        return self._record.abandoned is None and self._is_empty()

    async def call_model(self, model: str, fallbacks: Sequence[str]) -> T:
        """Call one model until a call succeeds and return its result."""
        failures = calls = 0
        while True:
            self._record.is_waiting = True
            await self._wait_for_key(model, fallbacks)
            async with self._upstream._limiter.permit(self._account_id):
                if self._seconds_until(model):
                    continue  # No key is usable any more after waiting for the permit.
                calls += 1
                try:
                    return await self._call_once(model, calls)
                except (UpstreamError, ModelRefused) as exc:
                    failures += isinstance(exc, UpstreamError) and exc.result in _FAILURES
                    if not self.may_retry or not self._is_retryable(exc, failures, calls):
                        raise
                    error = exc
            if isinstance(error, UpstreamError) and error.result in _FAILURES:
                await self._back_off(error, failures)

    def _seconds_until(self, model: str) -> float:
        """Return the time until some key can be used for the request with this model; 0 when one can now."""
        return self._keys.seconds_until(model, self._account_id, tokens=self._tokens)

    async def _call_once(self, model: str, attempt: int) -> T:
        seconds = self._deadline - self._clock.monotonic()
        if seconds <= 0:
            raise _deadline_error()
        self._record.begin_call(model)
        with (
            self._keys.lease(model, self._account_id, tokens=self._tokens) as lease,
            _call_span(model, attempt, lease),
        ):
            try:
                async with asyncio.timeout(seconds):
                    return await self._call(model, lease)
            except TimeoutError as exc:
                raise _deadline_error() from exc

    def _is_retryable(self, error: UpstreamError | ModelRefused, failures: int, calls: int) -> bool:
        """Return whether another call to the same model may succeed."""
        keys = len(self._keys)
        if isinstance(error, ModelRefused):
            return error.is_key_specific and calls < keys
        if isinstance(error, KeyRefused):
            return calls <= keys and any(map(self._keys.is_accepted, range(keys)))
        if error.result in _FAILURES and self._seconds_until(self._record.upstream_model):
            return False  # The failure opened the circuit.
        return failures < self._upstream._attempts_max and calls < self._upstream._attempts_max + keys

    async def _wait_for_key(self, model: str, fallbacks: Sequence[str]) -> None:
        """Wait until a key is usable.

        Raises:
            UpstreamError: The wait would be too long, or a fallback is usable sooner.
        """
        if not self._seconds_until(model):
            return
        with self._upstream._count_waiting(self._account_id) as may_wait:
            while (seconds := self._seconds_until(model)) > 0:
                is_sooner = any(self._seconds_until(other) < seconds for other in fallbacks)
                if is_sooner or not may_wait or not self._can_wait(seconds):
                    raise UpstreamError(retry_seconds=seconds)
                self._wait_budget -= seconds
                await self._upstream._sleep(seconds * (1 + _JITTER * self._upstream._random_number()))

    async def _back_off(self, error: UpstreamError, failures: int) -> None:
        longest = min(_BACKOFF_SECONDS * 2.0 ** (failures - 1), _BACKOFF_SECONDS_MAX)
        pause = max(longest * self._upstream._random_number(), error.retry_seconds)
        self._record.is_waiting = True
        if not self._can_wait(error.retry_seconds) or self._clock.monotonic() + pause >= self._deadline:
            raise error
        self._wait_budget -= error.retry_seconds
        await self._upstream._sleep(pause)

    def _can_wait(self, seconds: float) -> bool:
        return seconds <= self._wait_budget and self._clock.monotonic() + seconds < self._deadline


def _deadline_error() -> DeadlineExceeded:
    message = "The request exceeded the maximum duration. Request a shorter answer, or try again."
    return DeadlineExceeded(message, reason="deadline_exceeded")


_NO_SPAN: AbstractContextManager[None] = nullcontext()


def _call_span(model: str, attempt: int, lease: KeyLease) -> AbstractContextManager[object]:
    """Return the span of one call to Groq, named by OpenTelemetry's semantic conventions for generative AI."""
    if not tracing.is_on():
        return _NO_SPAN
    attributes: tracing.Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "groq",
        "gen_ai.request.model": model,
        "stack.attempt": attempt,
        "stack.groq_key": lease.key + 1,
    }
    return tracing.span(f"chat {model}", attributes, kind=SpanKind.CLIENT)


class ModelLister:
    """Lists Groq's models, with the first key that works."""

    def __init__(self, list_with: Callable[[KeyLease], Awaitable[list[JSONObject]]], keys: KeyPool) -> None:
        """Create a lister.

        Args:
            list_with: Calls Groq once.
            keys: The operator's keys.
        """
        self._list_with = list_with
        self._keys = keys

    async def list_models(self) -> list[JSONObject]:
        """Return the models that Groq serves. Tries each key at most once, without waiting.

        Raises:
            ServiceError: Groq refused or failed.
        """
        for _ in range(len(self._keys) - 1):
            try:
                return await self._list()
            except (KeyLimited, KeyRefused):
                continue
        return await self._list()

    async def _list(self) -> list[JSONObject]:
        with self._keys.lease(ANY_MODEL, "") as lease:
            return await self._list_with(lease)
