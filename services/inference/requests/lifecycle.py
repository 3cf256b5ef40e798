"""One chat request, from its arrival to its ledger row.

The work runs in tasks of its own. A caller that goes away, or that a time-out of ours has answered, leaves the task
running: Groq does not stop either, and reading it to the end is the only way to know what was used. A request that Groq
was not called for yet is not sent any more. The total time-out bounds it all.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from services.common.concurrency.byte_budget import ByteBudget
from services.common.concurrency.byte_budget import Lease as BytesLease
from services.common.concurrency.idle_timer import IdleTimer
from services.common.errors import DeadlineExceeded, InternalError, ServiceError
from services.common.runtime.clock import Clock
from services.inference.catalogue import Catalogue
from services.inference.chat import (
    ChatCall,
    EventBatch,
    JSONObject,
    Lease,
    Outcome,
    Provider,
    RequestContext,
    Usage,
    Verdict,
)
from services.inference.groq.encoding import encode
from services.inference.groq.errors import UpstreamFailed, UpstreamInvalid
from services.inference.groq.events import EventShaper, shape_completion
from services.inference.keys.pool import KeyLease
from services.inference.ledger.writer import Ledger
from services.inference.requests.record import CallerLeft, RequestRecord
from services.inference.requests.stream_buffer import StreamBuffer
from services.inference.requests.upstream import Upstream

VERDICT = "verdict"
"""Name of the verdict in an error's metadata."""

_CLOSE_SECONDS = 1.0
"""Closing a connection to Groq takes a moment; rows are waited for by the ledger's own end."""

_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer in one piece."""

    text: bytes
    """Its JSON."""
    verdict: Verdict | None
    """None when the row is not committed yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Time-outs of a request, in seconds."""

    total: float
    """Longest life of a request, reading on without its caller included."""
    first_byte: float
    """Longest wait of a stream's caller for the beginning of Groq's answer."""
    idle: float
    """Longest wait of a stream's caller between two events."""


class Completions:
    """Answers chat requests through a provider and accounts for each in the ledger."""

    def __init__(
        self,
        provider: Provider,
        catalogue: Catalogue,
        upstream: Upstream,
        ledger: Ledger,
        budget: ByteBudget,
        *,
        clock: Clock,
        timeouts: Timeouts,
    ) -> None:
        """Wire the parts."""
        self._provider = provider
        self._catalogue = catalogue
        self._upstream = upstream
        self._ledger = ledger
        self._budget = budget
        self._clock = clock
        self._timeouts = timeouts
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closing = False

    async def create(self, call: ChatCall, context: RequestContext) -> Answer:
        """Return the answer in one piece; its row is written.

        Raises:
            ServiceError: Groq refused or failed; the metadata holds the verdict when the row is committed.
        """
        lease = self._admit(call, context)
        record = RequestRecord(call, context, clock=self._clock, stream=False)
        task = self._spawn(self._create(record), lease)
        try:
            return await asyncio.shield(task)
        finally:
            _detach(record, task)
            del task  # It refers to the exception, whose traceback refers to this frame.

    async def stream(self, call: ChatCall, context: RequestContext) -> AsyncIterator[list[bytes] | Verdict | None]:
        """Yield the JSON of events that arrived together, and at last the verdict; its row is written by then.

        Raises:
            ServiceError: As `create`; after output too, where the verdict is usually charged. A time-out has no verdict
                while Groq is read on.
        """
        lease = self._admit(call, context)
        buffer = StreamBuffer()
        record = RequestRecord(call, context, clock=self._clock, stream=True)
        task = self._spawn(self._stream(record, buffer), lease)
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
        """Return when no request is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """End the requests that are still under way; each gets a row that does not charge it."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS)

    def _admit(self, call: ChatCall, context: RequestContext) -> BytesLease:
        """Return the request's part of the bytes that all requests may hold.

        Raises:
            ServiceError: There is no room for its bytes or its row.
        """
        try:
            self._ledger.check_room()
            return self._budget.take((context.account_id,), call.size_bytes)
        except ServiceError as exc:
            exc.metadata[VERDICT] = Verdict.RELEASED  # Nothing was started, and nothing will be.
            raise

    def _spawn(self, work: Coroutine[Any, Any, T], lease: BytesLease) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(_without_traceback(work))
        self._tasks.add(task)
        task.add_done_callback(lambda _: lease.release())
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) and not isinstance(exc, ServiceError):
            _log.error("A request could not be accounted for.", exc_info=exc)

    async def _create(self, record: RequestRecord) -> Answer:
        try:
            text, usage = await self._ask(record)
        except asyncio.CancelledError:
            await self._cancelled(record, None)
            raise
        except Exception as exc:  # noqa: BLE001 - it is raised as an error of our tree
            raise await self._failed(record, exc, None) from None
        return Answer(text, await self._ledger.record(record.answered_row(usage)))

    async def _stream(self, record: RequestRecord, buffer: StreamBuffer) -> None:
        relay = _Relay(self._provider, record, buffer, self._timeouts)
        try:
            await self._upstream.ask(
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
        except Exception as exc:  # noqa: BLE001 - it is raised as an error of our tree
            raise await self._failed(record, exc, relay.usage_so_far) from None
        buffer.end(await self._ledger.record(record.answered_row(usage)))

    async def _ask(self, record: RequestRecord) -> tuple[bytes, Usage]:
        async def complete(model: str, lease: Lease) -> tuple[bytes, Usage]:
            reply = await self._provider.complete(_body(record, model), lease)
            record.upstream_id = (reply.members.get("x_groq") or {}).get("id") or ""
            members = shape_completion(reply.members, completion_id=record.completion_id, model=record.call.model)
            return encode(members), _usage_of(members, record)

        return await self._upstream.ask(self._models(record), complete, record, deadline=self._deadline(record))

    def _models(self, record: RequestRecord) -> list[str]:
        return self._catalogue.candidates(record.call.model, permitted=record.models_permitted)

    def _deadline(self, record: RequestRecord) -> float:
        return record.started + self._timeouts.total

    async def _failed(self, record: RequestRecord, exc: Exception, usage: Usage | None) -> ServiceError:
        """Account for a request that failed: what was sent counts, what never began does not.

        Returns:
            What the caller gets to see.
        """
        error = exc if isinstance(exc, ServiceError) else _defect(exc)
        record.is_waiting = False
        verdict = await self._ledger.record(record.failed_row(error, usage))
        if verdict is not None:
            error.metadata[VERDICT] = verdict
        return error

    async def _cancelled(self, record: RequestRecord, usage: Usage | None) -> None:
        """Account for a request whose caller left before Groq was called, or that a stop of the service ends."""
        if record.abandoned and record.is_waiting:
            await self._failed(record, CallerLeft(), None)
        elif self._is_closing:
            await self._ledger.record(record.stopped_row(usage))


class _Relay:
    """Passes Groq's events on to the caller of one stream; each attempt starts from nothing."""

    def __init__(self, provider: Provider, record: RequestRecord, buffer: StreamBuffer, timeouts: Timeouts) -> None:
        self._provider = provider
        self._record = record
        self._buffer = buffer
        self._timeouts = timeouts
        self.shaper = self._new_shaper()
        self._has_output = False

    @property
    def usage_so_far(self) -> Usage | None:
        """What is known of the usage when output was passed on; None when none was."""
        return self.shaper.usage(body_bytes=self._record.body_bytes) if self._has_output else None

    async def attempt(self, model: str, lease: KeyLease) -> None:
        """Relay one call's events."""
        self._keep_usage()
        shaper = self.shaper = self._new_shaper()
        body = _body(self._record, model)
        with IdleTimer(self._timeouts.first_byte, lambda: self._time_out(timer, lease)) as timer:
            async with self._provider.stream(body, lease) as batches:
                timer.restart(self._timeouts.idle)
                try:
                    async for batch in batches:
                        timer.reset()
                        await self._pass_on(batch, timer, lease)
                except UpstreamFailed:
                    if not shaper.is_complete:
                        raise
        if not shaper.is_answer:
            raise UpstreamInvalid
        self._put(shaper.finish())

    async def _pass_on(self, batch: EventBatch, timer: IdleTimer, lease: KeyLease) -> None:
        shaper, record = self.shaper, self._record
        if self._buffer.is_full:
            await self._buffer.until_room()
            timer.reset()
        for event in batch.events:
            events = shaper.shape([event])
            record.upstream_id = shaper.upstream_id
            self._put(events)
        if self._has_output and not lease.has_answered:
            lease.answered()

    def _put(self, events: list[JSONObject]) -> None:
        """Pass events on; those before one that cannot be encoded are."""
        for event in events:
            self._buffer.put(encode(event))
            if self.shaper.output_chunks:
                self._has_output = True
                self._record.mark_first_token()

    def _time_out(self, timer: IdleTimer, lease: KeyLease) -> None:
        """Answer the caller; Groq is read on, since it may still do the work and would bill it."""
        if self._record.abandoned:
            return
        if self._buffer.is_full:  # It is the caller who is slow.
            timer.restart(self._timeouts.idle)
            return
        lease.timed_out()
        self._record.abandon(Outcome.TIMED_OUT)
        self._buffer.fail(_too_slow(has_begun=not self._buffer.is_empty))

    def _keep_usage(self) -> None:
        """Add what an attempt used that came to nothing."""
        usage = self.shaper.reported_usage
        if usage is not None:
            self._record.usage = usage if self._record.usage is None else self._record.usage + usage

    def _new_shaper(self) -> EventShaper:
        call = self._record.call
        return EventShaper(
            completion_id=self._record.completion_id, model=call.model, asks_for_usage=call.asks_for_usage
        )


async def _without_traceback(work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; an expected error leaves its frames behind, which hold the request's bytes.

    Frames refer to the error and it refers to them, so they would be freed only by the next full garbage collection.
    """
    try:
        return await work
    except ServiceError as exc:
        exc.__context__ = None
        raise exc.with_traceback(None) from None


def _detach(record: RequestRecord, task: "asyncio.Task[Any]") -> None:
    """Let a request's task go on without its caller; end it when Groq was not called yet."""
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
        # Always asked for: some models report complete usage only then. Clients that did not ask do not get it.
        members["stream_options"] = {**members.get("stream_options", {}), "include_usage": True}
    else:
        members.pop("stream_options", None)  # Groq refuses it without a stream.
    body = _encode(members)
    record.body_bytes = len(body)
    return body


def _usage_of(members: JSONObject, record: RequestRecord) -> Usage:
    """Return the usage of an answer in one piece: Groq's count, or an estimate where it has none."""
    usage = members.get("usage")
    reported = Usage.reported(usage) if usage else None
    if reported is not None:
        return reported
    characters = len(_encode(members.get("choices") or "").decode())
    return Usage.estimated(body_bytes=record.body_bytes, output_chunks=max(1, characters // 4))


def _defect(exc: Exception) -> InternalError:
    _log.error("A request failed.", exc_info=exc)
    return InternalError("This request failed because of an error of this service. Try again.")


def _too_slow(*, has_begun: bool) -> DeadlineExceeded:
    if has_begun:
        message = "The model stopped in the middle of its answer. Try again."
        return DeadlineExceeded(message, reason="upstream_stalled")
    return DeadlineExceeded("The model did not answer in time. Try again.", reason="upstream_timeout")
