"""One chat request, from its arrival to its ledger row.

The work runs in tasks of its own. A caller that goes away, or whose deadline passes, leaves the task running: Groq does
not stop either, and reading it to the end is the only way to know what was used. The total time-out bounds it all.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from services.common.clock import Clock
from services.common.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    NotFound,
    ServiceError,
    TooLarge,
    Unavailable,
)
from services.inference.catalogue import Catalogue
from services.inference.chat import ChatCall, Members, Outcome, Provider, RequestContext, Usage, Verdict
from services.inference.events import EventShaper, shape_completion
from services.inference.ledger import Ledger, LedgerRow

VERDICT = "verdict"
"""Name of the verdict in an error's metadata."""

_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_REFUSALS = (InvalidRequest, NotFound, TooLarge)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer in one piece."""

    members: Members
    verdict: Verdict | None
    """None when the row is not committed yet."""


class Completions:
    """Answers chat requests through a provider and accounts for each in the ledger."""

    def __init__(
        self, provider: Provider, catalogue: Catalogue, ledger: Ledger, *, clock: Clock, total_timeout_seconds: float
    ) -> None:
        """Wire the parts; `total_timeout_seconds` bounds a request's whole life."""
        self._provider = provider
        self._catalogue = catalogue
        self._ledger = ledger
        self._clock = clock
        self._total_timeout_seconds = total_timeout_seconds
        self._tasks: set[asyncio.Task[Any]] = set()

    async def create(self, call: ChatCall, context: RequestContext) -> Answer:
        """Return the answer in one piece; its row is written.

        Raises:
            ServiceError: Groq refused or failed; the metadata holds the verdict when the row is committed.
        """
        self._check_room()
        return await asyncio.shield(self._spawn(self._create(call, context)))

    async def stream(self, call: ChatCall, context: RequestContext) -> AsyncIterator[list[Members] | Verdict | None]:
        """Yield the events that arrived together, and at last the verdict; its row is written by then.

        Raises:
            ServiceError: As `create`; after output too, where the verdict is usually charged.
        """
        self._check_room()
        outbox = _Outbox()
        self._spawn(self._pump(call, context, outbox)).add_done_callback(outbox.close)
        while (events := await outbox.take()) is not None:
            yield events
        yield outbox.verdict()

    async def close(self, *, timeout_seconds: float) -> None:
        """Let requests finish, for at most `timeout_seconds`, then cancel them: they end without a row."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout_seconds)
            for task in late:
                task.cancel()

    def _check_room(self) -> None:
        try:
            self._ledger.check_room()
        except Unavailable as exc:
            exc.metadata[VERDICT] = Verdict.RELEASED  # Nothing was started, and nothing will be.
            raise

    def _spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) and not isinstance(exc, ServiceError):
            _log.error("a request failed", exc_info=exc)

    async def _create(self, call: ChatCall, context: RequestContext) -> Answer:
        entry = _Entry(call, context, clock=self._clock, stream=False)
        try:
            async with asyncio.timeout(self._total_timeout_seconds):
                body = await self._body(entry, stream=False)
                reply = await self._provider.complete(body)
        except (ServiceError, TimeoutError) as exc:
            error = _as_service_error(exc)
            raise await self._failed(entry, error, Usage(), charged=False) from exc
        entry.upstream_id = str((reply.members.get("x_groq") or {}).get("id") or "")
        usage = _usage_of(reply.members, entry)
        verdict = await self._ledger.record(entry.row(Outcome.ANSWERED, usage, charged=True))
        members = shape_completion(reply.members, completion_id=entry.completion_id, model=call.model)
        return Answer(members, verdict)

    async def _pump(self, call: ChatCall, context: RequestContext, outbox: "_Outbox") -> None:
        entry = _Entry(call, context, clock=self._clock, stream=True)
        shaper = EventShaper(completion_id=entry.completion_id, model=call.model, asks_for_usage=call.asks_for_usage)
        try:
            async with asyncio.timeout(self._total_timeout_seconds):
                await self._relay(entry, shaper, outbox)
        except (ServiceError, TimeoutError) as exc:
            raise await self._broken(entry, shaper, _as_service_error(exc)) from exc
        usage = shaper.usage(prompt_characters=entry.prompt_characters)
        outbox.end(await self._ledger.record(entry.row(Outcome.ANSWERED, usage, charged=True)))

    async def _relay(self, entry: "_Entry", shaper: EventShaper, outbox: "_Outbox") -> None:
        body = await self._body(entry, stream=True)
        async with self._provider.stream(body) as batches:
            async for events in batches:
                outbox.put(shaper.shape(events))
                entry.upstream_id = shaper.upstream_id
                if shaper.pieces:
                    entry.mark_first_token()
        outbox.put(shaper.finish())

    async def _broken(self, entry: "_Entry", shaper: EventShaper, error: ServiceError) -> ServiceError:
        """Account for a stream that broke: what was sent counts, what never began does not."""
        if not shaper.pieces:
            return await self._failed(entry, error, Usage(), charged=False)
        usage = shaper.usage(prompt_characters=entry.prompt_characters)
        return await self._failed(entry, error, usage, charged=True)

    async def _failed(self, entry: "_Entry", error: ServiceError, usage: Usage, *, charged: bool) -> ServiceError:
        row = entry.row(_outcome(error, after_output=charged), usage, charged=charged, reason=error.reason)
        verdict = await self._ledger.record(row)
        if verdict is not None:
            error.metadata[VERDICT] = verdict
        return error

    async def _body(self, entry: "_Entry", *, stream: bool) -> bytes:
        call = entry.call
        entry.upstream_model = await self._catalogue.resolve(call.model)
        members: Members = {"model": entry.upstream_model, **call.members}
        if stream:
            members["stream"] = True
            # Always asked for: some models report complete usage only then. Clients that did not ask do not get it.
            members["stream_options"] = {**members.get("stream_options", {}), "include_usage": True}
        else:
            members.pop("stream_options", None)  # Groq refuses it without a stream.
        body = _encode(members)
        entry.prompt_characters = len(body)
        return body


class _Entry:
    """What is learnt of a request on its way to becoming a ledger row."""

    def __init__(self, call: ChatCall, context: RequestContext, *, clock: Clock, stream: bool) -> None:
        self.call = call
        self.upstream_model = call.model
        self.upstream_id = ""
        self.prompt_characters = 0
        self._context = context
        self._clock = clock
        self._stream = stream
        self._started = clock.monotonic()
        self._first_token_ms = 0

    @property
    def completion_id(self) -> str:
        """Our id of the answer, made from the request's."""
        return "chatcmpl-" + self._context.request_id.removeprefix("req_")

    def mark_first_token(self) -> None:
        """Note that output has begun; later calls change nothing."""
        self._first_token_ms = self._first_token_ms or self._age_ms()

    def row(self, outcome: Outcome, usage: Usage, *, charged: bool, reason: str = "") -> LedgerRow:
        """Return the row for how the request ended; `reason` is why, when it is not charged."""
        context = self._context
        return LedgerRow(
            request_id=context.request_id,
            account_id=context.account_id,
            key_id=context.key_id,
            day=context.day,
            reserved_at=context.reserved_at,
            model=self.call.model,
            upstream_model=self.upstream_model,
            stream=self._stream,
            outcome=outcome,
            charged=charged,
            refund_reason="" if charged else reason,
            usage=usage,
            upstream_id=self.upstream_id,
            attempts=1,
            time_to_first_token_ms=self._first_token_ms,
            duration_ms=self._age_ms(),
        )

    def _age_ms(self) -> int:
        return max(1, round((self._clock.monotonic() - self._started) * 1000))


class _Outbox:
    """Events on their way to a caller who may be slow or gone; what waits together is taken together."""

    def __init__(self) -> None:
        self._events: list[Members] = []
        self._news = asyncio.Event()
        self._closed = False
        self._verdict: Verdict | None = None
        self._error: BaseException | None = None

    def put(self, events: list[Members]) -> None:
        self._events += events
        if events:
            self._news.set()

    def end(self, verdict: Verdict | None) -> None:
        self._verdict = verdict

    def close(self, task: "asyncio.Task[None]") -> None:
        """Close when the task that fills it is done, however it ended."""
        self._error = InternalError("the service stopped") if task.cancelled() else task.exception()
        self._closed = True
        self._news.set()

    async def take(self) -> list[Members] | None:
        """Return all that waits, at least one event; None when the stream ended well."""
        while not self._events:
            if self._closed:
                if self._error is not None:
                    raise self._error
                return None
            self._news.clear()
            await self._news.wait()
        events, self._events = self._events, []
        return events

    def verdict(self) -> Verdict | None:
        return self._verdict


def _as_service_error(exc: ServiceError | TimeoutError) -> ServiceError:
    if isinstance(exc, ServiceError):
        return exc
    return DeadlineExceeded("the request took longer than its total deadline", reason="deadline_exceeded")


def _outcome(error: ServiceError, *, after_output: bool) -> Outcome:
    if isinstance(error, DeadlineExceeded):
        return Outcome.TIMED_OUT
    if after_output:
        return Outcome.CUT
    return Outcome.REFUSED if isinstance(error, _REFUSALS) else Outcome.UPSTREAM_FAILED


def _usage_of(members: Members, entry: _Entry) -> Usage:
    usage = members.get("usage")
    if isinstance(usage, dict):
        return Usage.reported(usage)
    characters = len(str(members.get("choices") or ""))
    return Usage.estimated(prompt_characters=entry.prompt_characters, pieces=max(1, characters // 4))
