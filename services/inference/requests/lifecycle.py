"""Lifecycle of a chat request, from its arrival to its ledger row.

Each request runs in a background task. The task continues when the caller disconnects or gets a time-out error, because
Groq continues too, and usage is only known at the end of Groq's answer. If Groq was not called yet, the request is
cancelled instead. The total time-out limits the whole request.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec

from services.common.concurrency.byte_budget import Allocation, ByteBudget
from services.common.concurrency.idle_timer import IdleTimer
from services.common.errors import DeadlineExceeded, InternalError, ServiceError
from services.common.prices import Prices
from services.common.runtime.clock import Clock
from services.common.verdict import RowVerdict, Verdict
from services.inference.catalogue import Catalogue
from services.inference.chat import (
    CallContext,
    ChatCall,
    JSONObject,
    Outcome,
    Provider,
    Usage,
)
from services.inference.groq.encoding import encode
from services.inference.groq.errors import UpstreamFailed, UpstreamInvalid
from services.inference.groq.events import EventShaper, shape_completion
from services.inference.key_pool.pool import KeyLease
from services.inference.ledger.users import UserDigests
from services.inference.ledger.writer import Ledger
from services.inference.requests.record import CallerLeft, RequestRecord
from services.inference.requests.stream_buffer import StreamBuffer
from services.inference.requests.upstream import Upstream

_CLOSE_SECONDS = 1.0
"""Time for cancelled requests to close their connections to Groq; closing the ledger waits for their rows."""

_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
T = TypeVar("T")


@dataclass(slots=True)
class Answer:
    """An answer without streaming."""

    text: bytes
    """Its JSON."""
    verdict: RowVerdict | None
    """None if the row is not committed yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Time-outs of a request, in seconds."""

    total: float
    """Maximum duration of a request, including the time after its caller has disconnected."""
    first_byte: float
    """Maximum time until the beginning of Groq's answer; streams only."""
    idle: float
    """Maximum time between two events of a stream."""


class Completions:
    """Runs chat requests through a provider and records each in the ledger."""

    def __init__(
        self,
        provider: Provider,
        catalogue: Catalogue,
        upstream: Upstream,
        ledger: Ledger,
        budget: ByteBudget,
        *,
        prices: Prices,
        clock: Clock,
        timeouts: Timeouts,
        users: UserDigests | None = None,
    ) -> None:
        self._provider = provider
        self._catalogue = catalogue
        self._upstream = upstream
        self._ledger = ledger
        self._budget = budget
        self._prices = prices
        self._clock = clock
        self._timeouts = timeouts
        self._users = users
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closing = False

    async def create(self, call: ChatCall, context: CallContext) -> Answer:
        """Run a request and return the answer, with its row written.

        Raises:
            ServiceError: Groq refused or failed. The details contain the verdict if the row is committed.
        """
        allocation = self._admit(call, context)
        record = self._record(call, context, stream=False)
        task = self._spawn(self._create(record), allocation)
        try:
            return await asyncio.shield(task)
        finally:
            _detach(record, task)
            del task  # Break the reference cycle task → exception → traceback → this frame.

    async def stream(
        self, call: ChatCall, context: CallContext
    ) -> AsyncGenerator[list[bytes] | RowVerdict | None, None]:
        """Run a request and yield batches of events as JSON, then the verdict, by which time its row is written.

        Raises:
            ServiceError: Same as for `create`, but possibly after output, usually with a charged verdict. A time-out
                has no verdict while Groq's answer is still being read.
        """
        allocation = self._admit(call, context)
        buffer = StreamBuffer()
        record = self._record(call, context, stream=True)
        task = self._spawn(self._stream(record, buffer), allocation)
        task.add_done_callback(buffer.close)
        try:
            while (events := await buffer.take()) is not None:
                yield events
            yield buffer.verdict()
        finally:
            buffer.discard()
            _detach(record, task)
            del task

    async def finish(self) -> None:
        """Wait until no request is in progress."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Cancel the requests in progress; each gets an uncharged row."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS)

    def _admit(self, call: ChatCall, context: CallContext) -> Allocation:
        """Take the request's size from the byte budget.

        Raises:
            ServiceError: The byte budget or the ledger's queue is full.
        """
        try:
            self._ledger.check_room()
            return self._budget.take((context.account_id,), call.size_bytes)
        except ServiceError as exc:
            exc.details = replace(exc.details, verdict=Verdict.RELEASED)  # The request never starts, so it gets no row.
            raise

    def _record(self, call: ChatCall, context: CallContext, *, stream: bool) -> RequestRecord:
        clock, prices, users = self._clock, self._prices, self._users
        return RequestRecord(call, context, clock=clock, prices=prices, users=users, stream=stream)

    def _spawn(self, work: Coroutine[Any, Any, T], allocation: Allocation) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(_without_traceback(work))
        self._tasks.add(task)
        task.add_done_callback(lambda _: allocation.release())
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) and not isinstance(exc, ServiceError):
            _log.error("A request could not be recorded.", exc_info=exc)

    async def _create(self, record: RequestRecord) -> Answer:
        try:
            text, usage = await self._complete(record)
        except asyncio.CancelledError:
            await self._cancelled(record, None)
            raise
        except Exception as exc:  # noqa: BLE001 - it is raised as a `ServiceError`
            raise await self._failed(record, exc, None) from None
        return Answer(text, await self._ledger.record(record.answered_row(usage)))

    async def _stream(self, record: RequestRecord, buffer: StreamBuffer) -> None:
        relay = _Relay(self._provider, record, buffer, self._timeouts)
        try:
            await self._upstream.call(
                self._models(record),
                relay.attempt,
                record,
                deadline=self._deadline(record),
                is_empty=lambda: buffer.is_empty,
            )
            usage = relay.shaper.usage(body_bytes=record.body_bytes)
        except asyncio.CancelledError:
            await self._cancelled(record, relay.usage_so_far)
            raise
        except Exception as exc:  # noqa: BLE001 - it is raised as a `ServiceError`
            raise await self._failed(record, exc, relay.usage_so_far) from None
        buffer.end(await self._ledger.record(record.answered_row(usage)))

    async def _complete(self, record: RequestRecord) -> tuple[bytes, Usage]:
        async def complete(model: str, lease: KeyLease) -> tuple[bytes, Usage]:
            reply = await self._provider.complete(_body(record, model), lease)
            record.upstream_id = (reply.members.get("x_groq") or {}).get("id") or ""
            members = shape_completion(reply.members, completion_id=record.completion_id, model=record.call.model)
            usage = _usage_of(members, record)
            lease.record_tokens(min(usage.counted_tokens, record.call.tokens_max))
            return encode(members), usage

        return await self._upstream.call(self._models(record), complete, record, deadline=self._deadline(record))

    def _models(self, record: RequestRecord) -> list[str]:
        return self._catalogue.candidates(record.call.model, permitted=record.models_permitted)

    def _deadline(self, record: RequestRecord) -> float:
        return record.started + self._timeouts.total

    async def _failed(self, record: RequestRecord, exc: Exception, usage: Usage | None) -> ServiceError:
        """Record a failed request, which is charged if output had begun, and return the caller's error."""
        error = exc if isinstance(exc, ServiceError) else _defect(exc)
        record.is_waiting = False
        verdict = await self._ledger.record(record.failed_row(error, usage))
        error.details = replace(error.details, verdict=None if verdict is None else verdict.verdict)
        return error

    async def _cancelled(self, record: RequestRecord, usage: Usage | None) -> None:
        """Record a request cancelled because its caller left before Groq was called, or because the service stops."""
        if record.abandoned and record.is_waiting:
            await self._failed(record, CallerLeft(), None)
        elif self._is_closing:
            await self._ledger.record(record.stopped_row(usage))


class _Relay:
    """Forwards Groq's events to the buffer of one stream; each attempt starts with a new `EventShaper`."""

    def __init__(self, provider: Provider, record: RequestRecord, buffer: StreamBuffer, timeouts: Timeouts) -> None:
        self._provider = provider
        self._record = record
        self._buffer = buffer
        self._timeouts = timeouts
        self.shaper = self._new_shaper()
        self._model = ""
        self._has_output = False

    @property
    def usage_so_far(self) -> Usage | None:
        """Usage reported or estimated so far; None if no output was passed on."""
        return self.shaper.usage(body_bytes=self._record.body_bytes) if self._has_output else None

    async def attempt(self, model: str, lease: KeyLease) -> None:
        """Call Groq once and forward its events."""
        self._add_usage()
        self._model = model
        shaper = self.shaper = self._new_shaper()
        body = _body(self._record, model)
        with IdleTimer(self._timeouts.first_byte, lambda: self._time_out(timer, lease)) as timer:
            async with self._provider.stream(body, lease) as batches:
                timer.restart(self._timeouts.idle)
                try:
                    async for batch in batches:
                        timer.reset()
                        await self._forward(batch, timer, lease)
                except UpstreamFailed:
                    if not shaper.is_complete:
                        raise
        if not shaper.has_answer:
            raise UpstreamInvalid
        usage = shaper.usage(body_bytes=self._record.body_bytes)
        lease.record_tokens(min(usage.counted_tokens, self._record.call.tokens_max))
        self._put(shaper.finish())

    async def _forward(self, batch: list[JSONObject], timer: IdleTimer, lease: KeyLease) -> None:
        shaper, record = self.shaper, self._record
        if self._buffer.is_full:
            await self._buffer.until_room()
            timer.reset()
        for event in batch:
            events = shaper.shape(event)
            record.upstream_id = shaper.upstream_id
            self._put(events)
        if self._has_output and not lease.has_answered:
            lease.record_answer()

    def _put(self, events: list[JSONObject]) -> None:
        """Encode and pass on events, up to the first one that cannot be encoded."""
        for event in events:
            self._buffer.put(encode(event))
            if not self._has_output and self.shaper.output_chunks:
                self._has_output = True
                self._record.mark_first_token()

    def _time_out(self, timer: IdleTimer, lease: KeyLease) -> None:
        """Fail the caller's stream. Reading continues, since Groq may still finish the answer and bill it."""
        if self._record.abandoned:
            return
        if self._buffer.is_full:  # The caller is slow, not Groq.
            timer.restart(self._timeouts.idle)
            return
        lease.record_timeout()
        self._record.abandon(Outcome.TIMED_OUT)
        self._buffer.fail(_timeout_error(has_begun=not self._buffer.is_empty))

    def _add_usage(self) -> None:
        """Add the usage of the failed attempt to the record."""
        usage = self.shaper.reported_usage
        if usage is not None:
            self._record.add_failed_attempt(self._model, usage)

    def _new_shaper(self) -> EventShaper:
        call = self._record.call
        return EventShaper(completion_id=self._record.completion_id, model=call.model, include_usage=call.include_usage)


async def _without_traceback(work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, and strip the traceback from an expected error.

    The traceback's frames hold the request's bytes and form a reference cycle with the error, so they would only be
    freed by the next full garbage collection.
    """
    try:
        return await work
    except ServiceError as exc:
        exc.__context__ = None
        raise exc.with_traceback(None) from None


def _detach(record: RequestRecord, task: "asyncio.Task[Any]") -> None:
    """Let a request's task continue without its caller, or cancel it if Groq was not called yet."""
    if task.done():
        return
    record.abandon(Outcome.CLIENT_LEFT)
    if record.is_waiting:
        task.cancel()


def _body(record: RequestRecord, model: str) -> bytes:
    call = record.call
    members: JSONObject = {"model": model, **call.members}
    if record.stream:
        members["stream"] = True
        # Some models report complete usage only with this option. It is removed for clients that did not set it.
        members["stream_options"] = {**members.get("stream_options", {}), "include_usage": True}
    else:
        members.pop("stream_options", None)  # Groq rejects it without `stream`.
    body = _encode(members)
    record.body_bytes = len(body)
    return body


def _usage_of(members: JSONObject, record: RequestRecord) -> Usage:
    """Return the usage of an answer without streaming: Groq's count, or an estimate if it has none."""
    usage = members.get("usage")
    reported = Usage.reported(usage) if usage else None
    if reported is not None:
        return reported
    characters = len(_encode(members.get("choices") or "").decode())
    return Usage.estimated(body_bytes=record.body_bytes, output_chunks=max(1, characters // 4))


def _defect(exc: Exception) -> InternalError:
    _log.error("A request failed with an unexpected error.", exc_info=exc)
    return InternalError("This request failed because of an error of this service. Try again.")


def _timeout_error(*, has_begun: bool) -> DeadlineExceeded:
    if has_begun:
        message = "The model stopped in the middle of its answer. Try again in a moment."
        return DeadlineExceeded(message, reason="upstream_stalled")
    return DeadlineExceeded("The model did not answer in time. Try again in a moment.", reason="upstream_timeout")
