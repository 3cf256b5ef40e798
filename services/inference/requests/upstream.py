"""Calls to Groq with retries, other keys and fallback models, within the request's deadline.

A call is not retried after output has reached the caller, after Groq rejected the request itself, after a time-out, or
after the caller has disconnected.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

from opentelemetry.trace import SpanKind

from services.common.errors import DeadlineExceeded, ServiceError
from services.common.runtime.clock import Clock
from services.common.telemetry import tracing
from services.inference.chat import JSONObject
from services.inference.groq.errors import CallResult, KeyLimited, KeyRefused, ModelRefused, UpstreamError, result_of
from services.inference.key_pool.pool import ANY_MODEL, KeyLease, KeyPool
from services.inference.requests.queue import UpstreamQueue
from services.inference.requests.record import CallerLeft, RequestRecord
from services.inference.requests.slots import Slot, Waiter

T = TypeVar("T")
Call = Callable[[str, KeyLease], Awaitable[T]]
"""Calls Groq once, with a model and a key."""

_BACKOFF_SECONDS = 0.25
_BACKOFF_SECONDS_MAX = 4.0
_FAILURES = frozenset({CallResult.FAILED, CallResult.INVALID})
_UNCOUNTED = frozenset({CallResult.LIMITED, CallResult.KEY_REFUSED, CallResult.MODEL_REFUSED, CallResult.REFUSED})
"""Results of calls that use no tokens."""


class Upstream:
    """Calls Groq for requests, with retries."""

    def __init__(
        self,
        keys: KeyPool,
        queue: UpstreamQueue,
        *,
        attempts_max: int,
        wait_seconds: float,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random_number: Callable[[], float] = random.random,
    ) -> None:
        """Create an upstream.

        Args:
            keys: The operator's keys.
            queue: Grants the slots for calls.
            attempts_max: Maximum failed calls per model; rate-limited and rejected keys do not count.
            wait_seconds: Maximum total wait of a request in the queue and for Groq's `retry-after`.
            clock: Source of monotonic time.
            sleep: Sleeps for a number of seconds.
            random_number: Returns a random number from 0 to 1, for the jitter.
        """
        self.keys = keys
        self.queue = queue
        self.attempts_max = attempts_max
        self.wait_seconds = wait_seconds
        self.clock = clock
        self.sleep = sleep
        self.random_number = random_number

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
            ServiceError: The last call failed, or the request could not be sent in time.
            CallerLeft: The caller disconnected before Groq was called.
        """
        return await _Attempts(self, models, call, record, deadline=deadline, is_empty=is_empty).run()


class _Attempts(Generic[T]):
    """The calls to Groq for one request."""

    def __init__(
        self,
        upstream: Upstream,
        models: Sequence[str],
        call: Call[T],
        record: RequestRecord,
        *,
        deadline: float,
        is_empty: Callable[[], bool],
    ) -> None:
        self._upstream = upstream
        self._keys = upstream.keys
        self._clock = upstream.clock
        self._models = list(models)
        """The models that may still be called."""
        self._call = call
        self._record = record
        self._tokens = record.call.tokens
        self._deadline = deadline
        self._is_empty = is_empty
        self._wait_budget = upstream.wait_seconds
        """Seconds that the request may still wait in the queue and for Groq's `retry-after`."""
        self._failures: Counter[str] = Counter()
        """Failed calls by model."""
        self._calls: Counter[str] = Counter()
        """Calls by model."""

    async def run(self) -> T:
        """Call models until a call succeeds and return its result."""
        while True:
            self._record.is_waiting = True
            slot = await self._acquire()
            try:
                if not self._is_usable(slot):
                    slot.used, slot.requests = 0, 0
                    continue
                try:
                    return await self._call_once(slot)
                except (UpstreamError, ModelRefused) as exc:
                    error = exc
            finally:
                slot.release()
            await self._prepare_retry(slot.model, error)

    async def _acquire(self) -> Slot:
        began = self._clock.monotonic()
        wait_max = min(self._wait_budget, self._deadline - began)
        waiter = Waiter(self._record.account_id, self._record.weight, self._tokens)
        try:
            return await self._upstream.queue.acquire(waiter, self._models, wait_max=wait_max)
        finally:
            waited = self._clock.monotonic() - began
            self._wait_budget = max(0.0, self._wait_budget - waited)
            self._record.queue_seconds += waited

    def _is_usable(self, slot: Slot) -> bool:
        """Return whether the slot's key is still usable after the wait."""
        keys = self._keys.usable(slot.model, self._record.account_id, tokens=self._tokens)
        return slot.key in keys

    async def _call_once(self, slot: Slot) -> T:
        seconds = self._deadline - self._clock.monotonic()
        if seconds <= 0:
            slot.used, slot.requests = 0, 0
            raise _deadline_error()
        model, account_id = slot.model, self._record.account_id
        try:
            self._record.begin_call(model)
        except CallerLeft:
            slot.used, slot.requests = 0, 0
            raise
        self._calls[model] += 1
        with (
            self._keys.lease(model, account_id, tokens=self._tokens, key=slot.key, slot=slot) as lease,
            _call_span(model, self._calls[model], lease),
        ):
            try:
                async with asyncio.timeout(seconds):
                    return await self._call(model, lease)
            except TimeoutError as exc:
                raise _deadline_error() from exc
            except ServiceError as exc:
                self._record_refusal(slot, exc)
                raise
            finally:
                # A failed call has an id too, by which Groq's support finds it.
                self._record.upstream_id = self._record.upstream_id or lease.upstream_id

    def _record_refusal(self, slot: Slot, error: ServiceError) -> None:
        """Record what Groq does not count: tokens of a request that it refused, and requests beyond a limit."""
        if result_of(error) in _UNCOUNTED:
            slot.used = 0
        if isinstance(error, KeyLimited):
            slot.requests = 0
            # Like a cool-down, what a refusal says is not trusted for longer than the operator allows.
            if error.retry_seconds <= self._keys.cooldown_seconds_max:
                slot.observe(error.observations)

    async def _prepare_retry(self, model: str, error: UpstreamError | ModelRefused) -> None:
        """Pause before the next call if one may succeed, with this model or another one.

        Raises:
            ServiceError: `error`, if no further call may succeed.
        """
        is_failure = isinstance(error, UpstreamError) and error.result in _FAILURES
        self._failures[model] += is_failure
        may_retry = self._record.abandoned is None and self._is_empty()
        is_retryable = may_retry and self._is_retryable(model, error)
        if is_retryable and (not is_failure or await self._back_off(error, self._failures[model])):
            return
        self._models.remove(model)
        if not may_retry or not self._models:
            raise error

    def _is_retryable(self, model: str, error: UpstreamError | ModelRefused) -> bool:
        """Return whether another call to the same model may succeed."""
        keys, calls, attempts_max = len(self._keys), self._calls[model], self._upstream.attempts_max
        if isinstance(error, ModelRefused):
            return error.is_key_specific and calls < keys
        if isinstance(error, KeyRefused):
            return calls <= keys and any(map(self._keys.is_accepted, range(keys)))
        if error.result in _FAILURES and self._keys.seconds_until(model, self._record.account_id, tokens=self._tokens):
            return False  # The failure opened the circuit.
        return self._failures[model] < attempts_max and calls < attempts_max + keys

    async def _back_off(self, error: UpstreamError | ModelRefused, failures: int) -> bool:
        """Pause after a failed call; return False if the request cannot wait as long."""
        retry_seconds = error.retry_seconds if isinstance(error, UpstreamError) else 0.0
        longest = min(_BACKOFF_SECONDS * 2.0 ** (failures - 1), _BACKOFF_SECONDS_MAX)
        pause = max(longest * self._upstream.random_number(), retry_seconds)
        self._record.is_waiting = True
        if retry_seconds > self._wait_budget or self._clock.monotonic() + pause >= self._deadline:
            return False
        self._wait_budget -= retry_seconds
        await self._upstream.sleep(pause)
        return True


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
