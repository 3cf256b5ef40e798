"""Calls Groq until it answers: with another key, another attempt or another model, within the request's deadline.

Nothing is called again once anything of an answer has reached the caller, when the request itself is refused, after a
time-out, or when the caller has gone.
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
from services.inference.keys.pool import ANY_MODEL, KeyLease, KeyPool
from services.inference.requests.concurrency import ConcurrencyLimiter
from services.inference.requests.record import RequestRecord

T = TypeVar("T")
Call = Callable[[str, KeyLease], Awaitable[T]]
"""Calls Groq once, for a model and with one key."""

_BACKOFF_SECONDS = 0.25
_BACKOFF_SECONDS_MAX = 4.0
_JITTER = 0.25
"""Requests that wait for the same key come back within this part of the wait, not all at once."""
_GROQ_FAILED = frozenset({CallResult.FAILED, CallResult.INVALID})


class Upstream:
    """Groq, as requests use it."""

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
        """Call with the keys of a pool.

        Args:
            keys: The operator's keys.
            limiter: Bounds the calls under way.
            attempts_max: Maximum calls for one model that Groq fails; limited and refused keys do not count.
            wait_seconds: How long a request may wait in total for keys, and for as long as Groq asks after a failure.
            waiting_max: Maximum requests of one account that wait at once.
            clock: Source of monotonic time.
            sleep: Waits.
            random_number: Returns a number from 0 to 1, for the jitter.
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

    async def ask(
        self,
        models: Sequence[str],
        call: Call[T],
        record: RequestRecord,
        *,
        deadline: float,
        is_empty: Callable[[], bool] = lambda: True,
    ) -> T:
        """Return what the first call returns that Groq answers.

        Args:
            models: What to ask for, in order of preference.
            call: Calls Groq once.
            record: The request; calls are counted on it.
            deadline: End of the request, by the clock's monotonic time.
            is_empty: Returns whether nothing of an answer has reached the caller.

        Raises:
            ServiceError: The last call failed, or no key could be used in time.
            CallerLeft: The caller went away before Groq was called.
        """
        attempts = _Attempts(self, call, record, deadline=deadline, is_empty=is_empty)
        for position, model in enumerate(models):
            fallbacks = models[position + 1 :]
            try:
                return await attempts.ask_for(model, fallbacks)
            except (UpstreamError, ModelRefused):
                if not fallbacks or not attempts.may_go_on:
                    raise
        raise AssertionError("at least one model is asked for")  # pragma: no cover

    @contextmanager
    def _waiting_of(self, account_id: str) -> Iterator[bool]:
        """Count a waiting request; yield whether the account may have one more."""
        self._waiting[account_id] += 1
        try:
            yield self._waiting[account_id] <= self._waiting_max
        finally:
            self._waiting[account_id] -= 1
            if not self._waiting[account_id]:
                del self._waiting[account_id]


class _Attempts(Generic[T]):
    """The calls for one request."""

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
        self._is_unheard = is_empty
        self._patience = upstream._wait_seconds
        """Seconds that the request may still wait because Groq asked for it."""

    @property
    def may_go_on(self) -> bool:
        """Whether another call can still be of use."""
        return self._record.abandoned is None and self._is_unheard()

    async def ask_for(self, model: str, fallbacks: Sequence[str]) -> T:
        """Return what a call for one model returns."""
        failures = calls = 0
        while True:
            self._record.is_waiting = True
            await self._wait_for_key(model, fallbacks)
            async with self._upstream._limiter.place(self._account_id):
                if self._seconds_until(model):
                    continue  # It was taken while this request waited for its place.
                calls += 1
                try:
                    return await self._call_once(model, calls)
                except (UpstreamError, ModelRefused) as exc:
                    failures += isinstance(exc, UpstreamError) and exc.result in _GROQ_FAILED
                    if not self.may_go_on or not self._may_help(exc, failures, calls):
                        raise
                    error = exc
            if isinstance(error, UpstreamError) and error.result in _GROQ_FAILED:
                await self._back_off(error, failures)

    def _seconds_until(self, model: str) -> float:
        """Return the time until some key can be used for the request with this model; 0 when one can now."""
        return self._keys.seconds_until(model, self._account_id, tokens=self._tokens)

    async def _call_once(self, model: str, attempt: int) -> T:
        seconds = self._deadline - self._clock.monotonic()
        if seconds <= 0:
            raise _too_late()
        self._record.begin_call(model)
        with self._keys.lease(model, self._account_id, tokens=self._tokens) as lease, _traced(model, attempt, lease):
            try:
                async with asyncio.timeout(seconds):
                    return await self._call(model, lease)
            except TimeoutError as exc:
                raise _too_late() from exc

    def _may_help(self, error: UpstreamError | ModelRefused, failures: int, calls: int) -> bool:
        """Return whether another call for the same model may be answered."""
        keys = len(self._keys)
        if isinstance(error, ModelRefused):
            return error.is_of_key and calls < keys
        if isinstance(error, KeyRefused):
            return calls <= keys and any(map(self._keys.is_accepted, range(keys)))
        if error.result in _GROQ_FAILED and self._seconds_until(self._record.upstream_model):
            return False  # This failure opened the circuit.
        return failures < self._upstream._attempts_max and calls < self._upstream._attempts_max + keys

    async def _wait_for_key(self, model: str, fallbacks: Sequence[str]) -> None:
        """Return when a key can be used; a fallback that can be used sooner is not waited for.

        Raises:
            UpstreamError: It would take too long.
        """
        if not self._seconds_until(model):
            return
        with self._upstream._waiting_of(self._account_id) as may_wait:
            while (seconds := self._seconds_until(model)) > 0:
                is_sooner = any(self._seconds_until(one) < seconds for one in fallbacks)
                if is_sooner or not may_wait or not self._can_wait(seconds):
                    raise UpstreamError(retry_seconds=seconds)
                self._patience -= seconds
                await self._upstream._sleep(seconds * (1 + _JITTER * self._upstream._random_number()))

    async def _back_off(self, error: UpstreamError, failures: int) -> None:
        longest = min(_BACKOFF_SECONDS * 2.0 ** (failures - 1), _BACKOFF_SECONDS_MAX)
        pause = max(longest * self._upstream._random_number(), error.retry_seconds)
        self._record.is_waiting = True
        if not self._can_wait(error.retry_seconds) or self._clock.monotonic() + pause >= self._deadline:
            raise error
        self._patience -= error.retry_seconds
        await self._upstream._sleep(pause)

    def _can_wait(self, seconds: float) -> bool:
        return seconds <= self._patience and self._clock.monotonic() + seconds < self._deadline


def _too_late() -> DeadlineExceeded:
    message = "The request took longer than it may. Ask for a shorter answer, or try again."
    return DeadlineExceeded(message, reason="deadline_exceeded")


_UNTRACED: AbstractContextManager[None] = nullcontext()


def _traced(model: str, attempt: int, lease: KeyLease) -> AbstractContextManager[object]:
    """Return the span of one call to Groq, with the names of OpenTelemetry's conventions for generative AI."""
    if not tracing.is_on():
        return _UNTRACED
    attributes: tracing.Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "groq",
        "gen_ai.request.model": model,
        "stack.attempt": attempt,
        "stack.groq_key": lease.key + 1,
    }
    return tracing.span(f"chat {model}", attributes, kind=SpanKind.CLIENT)


class ModelLister:
    """Asks Groq for its models, with the first key that it accepts."""

    def __init__(self, list_with: Callable[[KeyLease], Awaitable[list[JSONObject]]], keys: KeyPool) -> None:
        """Call with the keys of a pool; `list_with` calls Groq once."""
        self._list_with = list_with
        self._keys = keys

    async def list_models(self) -> list[JSONObject]:
        """Return the models that are served now; nothing waits and no key is used twice.

        Raises:
            ServiceError: Groq could not be asked.
        """
        for _ in range(len(self._keys) - 1):
            try:
                return await self._ask()
            except (KeyLimited, KeyRefused):
                continue
        return await self._ask()

    async def _ask(self) -> list[JSONObject]:
        with self._keys.lease(ANY_MODEL, "") as lease:
            return await self._list_with(lease)
