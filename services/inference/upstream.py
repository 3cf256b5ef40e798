"""Asking Groq until it answers: another key, another try, another model, all within the request's deadline.

Nothing is asked again once anything of an answer has reached our caller, when the request itself is refused, or when
nobody waits for the answer any more.
"""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from opentelemetry.trace import SpanKind

from services.common import tracing
from services.common.clock import Clock
from services.common.errors import DeadlineExceeded
from services.inference.chat import Members, Turn
from services.inference.entry import CallerLeft, Entry
from services.inference.supply import ANY_MODEL, KeyLimited, KeyRefused, Supply, UpstreamTrouble

T = TypeVar("T")
Call = Callable[[str, Turn], Awaitable[T]]
"""Ask for a model, with one key."""

_BACKOFF_SECONDS = 0.25
_BACKOFF_SECONDS_MAX = 4.0
_HERD = 0.25
"""Who waited for the same key comes back within this part of the wait, not all at once."""


class Upstream:
    """Groq as our requests see it."""

    def __init__(
        self,
        supply: Supply,
        *,
        attempts_max: int,
        wait_seconds: float,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Ask with the keys of `supply`.

        Args:
            supply: The operator's keys.
            attempts_max: Most calls to Groq for one model of a request.
            wait_seconds: Longest wait for a key that rests.
            clock: Where the time comes from.
            sleep: Lets time pass.
            chance: A number from 0 to 1, for the jitter.
        """
        self._supply = supply
        self._attempts_max = attempts_max
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._sleep = sleep
        self._chance = chance

    async def ask(
        self,
        models: Sequence[str],
        call: Call[T],
        entry: Entry,
        *,
        deadline: float,
        is_unheard: Callable[[], bool] = lambda: True,
    ) -> T:
        """Return the first answer to `call`.

        Args:
            models: What to ask for, in order: the next is tried when one cannot be had.
            call: Asks once.
            entry: The request; it counts the calls.
            deadline: End of the request, by the clock's monotonic time.
            is_unheard: Whether nothing of an answer has reached our caller.

        Raises:
            ServiceError: What the last call met.
            CallerLeft: The caller left before Groq was asked.
        """
        *first_models, last_model = models
        for model in first_models:
            try:
                return await self._ask_for(model, call, entry, deadline, is_unheard)
            except (UpstreamTrouble, DeadlineExceeded):
                if entry.caller_left or not is_unheard():
                    raise
        return await self._ask_for(last_model, call, entry, deadline, is_unheard)

    async def _ask_for(
        self, model: str, call: Call[T], entry: Entry, deadline: float, is_unheard: Callable[[], bool]
    ) -> T:
        for attempt in itertools.count(1):
            await self._until_supplied(model, deadline)
            if entry.caller_left and not entry.attempts:
                raise CallerLeft("the caller left before the model was asked")
            try:
                with self._supply.lease(model) as turn, _traced(model, attempt, turn):
                    entry.dispatch(model)
                    return await call(model, turn)
            except UpstreamTrouble as exc:
                if entry.caller_left or not is_unheard() or not self._may_help(exc, model, attempt):
                    raise
                if not isinstance(exc, (KeyLimited, KeyRefused)):  # With those, the next key is tried at once.
                    await self._back_off(exc, attempt, deadline)
        raise AssertionError("unreachable")  # pragma: no cover

    def _may_help(self, trouble: UpstreamTrouble, model: str, attempt: int) -> bool:
        if attempt >= self._attempts_max:
            return False
        if isinstance(trouble, KeyLimited):
            return True  # Another key, or the same when it has rested.
        if isinstance(trouble, KeyRefused) and attempt >= len(self._supply):
            return False
        return self._supply.has_trusted_key(model)

    async def _until_supplied(self, model: str, deadline: float) -> None:
        patience = min(deadline, self._clock.monotonic() + self._wait_seconds)
        while (seconds := self._supply.seconds_until(model)) > 0:
            if self._clock.monotonic() + seconds > patience:
                raise UpstreamTrouble(rest_seconds=seconds)
            await self._sleep(seconds * (1 + _HERD * self._chance()))

    async def _back_off(self, trouble: UpstreamTrouble, attempt: int, deadline: float) -> None:
        longest = min(_BACKOFF_SECONDS * 2.0 ** (attempt - 1), _BACKOFF_SECONDS_MAX)
        pause = max(longest * self._chance(), trouble.rest_seconds)
        if trouble.rest_seconds > self._wait_seconds or self._clock.monotonic() + pause >= deadline:
            raise trouble
        await self._sleep(pause)


_UNTRACED: AbstractContextManager[None] = nullcontext()


def _traced(model: str, attempt: int, turn: Turn) -> AbstractContextManager[object]:
    """Return the span of one call to Groq, in the words of OpenTelemetry's conventions for generative AI."""
    if not tracing.is_on():
        return _UNTRACED
    attributes: tracing.Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "groq",
        "gen_ai.request.model": model,
        "stack.attempt": attempt,
        "stack.groq_key": turn.key + 1,
    }
    return tracing.span(f"chat {model}", attributes, kind=SpanKind.CLIENT)


class ModelLister:
    """Asks Groq for its models, with the first key that is not refused."""

    def __init__(self, list_with: Callable[[Turn], Awaitable[list[Members]]], supply: Supply) -> None:
        """Ask with the keys of `supply`; `list_with` asks once."""
        self._list_with = list_with
        self._supply = supply

    async def list_models(self) -> list[Members]:
        """Return the models that are served now; nothing waits and nothing is tried twice: old lists serve well.

        Raises:
            ServiceError: Groq could not be asked.
        """
        for _ in range(len(self._supply) - 1):
            try:
                return await self._ask()
            except (KeyLimited, KeyRefused):
                continue
        return await self._ask()

    async def _ask(self) -> list[Members]:
        with self._supply.lease(ANY_MODEL) as turn:
            return await self._list_with(turn)
