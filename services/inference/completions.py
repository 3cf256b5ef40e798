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
from services.common.errors import DeadlineExceeded, ServiceError, Unavailable
from services.inference.catalogue import Catalogue
from services.inference.chat import ChatCall, Members, Outcome, Provider, Reply, RequestContext, Turn, Usage, Verdict
from services.inference.drains import Drains
from services.inference.entry import Entry, outcome_of, usage_of
from services.inference.events import EventShaper, shape_completion
from services.inference.ledger import Ledger
from services.inference.outbox import Outbox
from services.inference.places import Places
from services.inference.upstream import Upstream

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

    members: Members
    verdict: Verdict | None
    """None when the row is not committed yet."""


class Completions:
    """Answers chat requests through a provider and accounts for each in the ledger."""

    def __init__(
        self,
        provider: Provider,
        catalogue: Catalogue,
        upstream: Upstream,
        places: Places,
        ledger: Ledger,
        drains: Drains,
        *,
        clock: Clock,
        total_timeout_seconds: float,
    ) -> None:
        """Wire the parts; `total_timeout_seconds` bounds a request's whole life."""
        self._provider = provider
        self._catalogue = catalogue
        self._upstream = upstream
        self._places = places
        self._ledger = ledger
        self._drains = drains
        self._clock = clock
        self._total_timeout_seconds = total_timeout_seconds
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closing = False

    async def create(self, call: ChatCall, context: RequestContext) -> Answer:
        """Return the answer in one piece; its row is written.

        Raises:
            ServiceError: Groq refused or failed; the metadata holds the verdict when the row is committed.
        """
        self._check_room()
        entry = Entry(call, context, clock=self._clock, stream=False)
        task = self._spawn(self._create(entry))
        try:
            return await asyncio.shield(task)
        finally:
            if not task.done():
                self._drains.take(entry, task)

    async def stream(self, call: ChatCall, context: RequestContext) -> AsyncIterator[list[Members] | Verdict | None]:
        """Yield the events that arrived together, and at last the verdict; its row is written by then.

        Raises:
            ServiceError: As `create`; after output too, where the verdict is usually charged.
        """
        self._check_room()
        outbox = Outbox()
        entry = Entry(call, context, clock=self._clock, stream=True)
        task = self._spawn(self._pump(entry, outbox))
        task.add_done_callback(outbox.close)
        try:
            while (events := await outbox.take()) is not None:
                yield events
            yield outbox.verdict()
        finally:
            if not task.done():
                self._drains.take(entry, task)

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

    async def _create(self, entry: Entry) -> Answer:
        try:
            async with asyncio.timeout(self._total_timeout_seconds):
                async with self._places.take(entry.key_id):
                    reply = await self._ask(entry)
        except (ServiceError, TimeoutError) as exc:
            error = _as_service_error(exc)
            raise await self._failed(entry, error, Usage(), charged=False) from exc
        except asyncio.CancelledError:
            await self._given_up(entry, pieces=0)
            raise
        entry.upstream_id = str((reply.members.get("x_groq") or {}).get("id") or "")
        verdict = await self._ledger.record(entry.row(Outcome.ANSWERED, usage_of(reply.members, entry), charged=True))
        members = shape_completion(reply.members, completion_id=entry.completion_id, model=entry.call.model)
        return Answer(members, verdict)

    async def _pump(self, entry: Entry, outbox: Outbox) -> None:
        call = entry.call
        shaper = EventShaper(completion_id=entry.completion_id, model=call.model, asks_for_usage=call.asks_for_usage)
        try:
            async with asyncio.timeout(self._total_timeout_seconds):
                async with self._places.take(entry.key_id):
                    await self._relay(entry, shaper, outbox)
        except (ServiceError, TimeoutError) as exc:
            raise await self._broken(entry, shaper, _as_service_error(exc)) from exc
        except asyncio.CancelledError:
            await self._given_up(entry, pieces=shaper.pieces)
            raise
        usage = shaper.usage(prompt_characters=entry.prompt_characters)
        outbox.end(await self._ledger.record(entry.row(Outcome.ANSWERED, usage, charged=True)))

    async def _given_up(self, entry: Entry, *, pieces: int) -> None:
        """Account for a request that is cancelled: its caller left and it may not be read on, or the service stops."""
        if entry.is_given_up:
            await self._record_left(entry, pieces=pieces)
        elif self._is_closing:
            await self._record_stopped(entry, pieces=pieces)

    async def _record_stopped(self, entry: Entry, *, pieces: int) -> None:
        """Write the row of a request that ends because the service stops: our failure, and not charged."""
        outcome = Outcome.CUT if pieces else Outcome.UPSTREAM_FAILED
        usage = Usage.estimated(prompt_characters=entry.prompt_characters, pieces=pieces) if pieces else Usage()
        await self._ledger.record(entry.row(outcome, usage, charged=False, reason="service_stopped"))

    async def _record_left(self, entry: Entry, *, pieces: int) -> None:
        """Write the row of a request whose caller left; leaving is not free."""
        if not entry.attempts:
            await self._ledger.record(entry.row(Outcome.CLIENT_LEFT, Usage(), charged=False, reason="client_left"))
            return
        usage = Usage.estimated(prompt_characters=entry.prompt_characters, pieces=pieces)
        await self._ledger.record(entry.row(Outcome.CLIENT_LEFT, usage, charged=True))

    async def _ask(self, entry: Entry) -> Reply:
        async def ask_once(model: str, turn: Turn) -> Reply:
            return await self._provider.complete(_body(entry, model), turn)

        models = await self._catalogue.candidates(entry.call.model, permitted=entry.models_permitted)
        return await self._upstream.ask(models, ask_once, entry, deadline=self._deadline(entry))

    async def _relay(self, entry: Entry, shaper: EventShaper, outbox: Outbox) -> None:
        async def relay_once(model: str, turn: Turn) -> None:
            async with self._provider.stream(_body(entry, model), turn) as batches:
                async for events in batches:
                    outbox.put(shaper.shape(events))
                    entry.upstream_id = shaper.upstream_id
                    if shaper.pieces:
                        entry.mark_first_token()

        models = await self._catalogue.candidates(entry.call.model, permitted=entry.models_permitted)
        await self._upstream.ask(
            models, relay_once, entry, deadline=self._deadline(entry), is_unheard=lambda: outbox.is_unheard
        )
        outbox.put(shaper.finish())

    def _deadline(self, entry: Entry) -> float:
        return entry.started + self._total_timeout_seconds

    async def _broken(self, entry: Entry, shaper: EventShaper, error: ServiceError) -> ServiceError:
        """Account for a stream that broke: what was sent counts, what never began does not."""
        if not shaper.pieces:
            return await self._failed(entry, error, Usage(), charged=False)
        usage = shaper.usage(prompt_characters=entry.prompt_characters)
        return await self._failed(entry, error, usage, charged=True)

    async def _failed(self, entry: Entry, error: ServiceError, usage: Usage, *, charged: bool) -> ServiceError:
        row = entry.row(outcome_of(error, after_output=charged), usage, charged=charged, reason=error.reason)
        verdict = await self._ledger.record(row)
        if verdict is not None:
            error.metadata[VERDICT] = verdict
        return error


def _body(entry: Entry, model: str) -> bytes:
    call = entry.call
    members: Members = {"model": model, **call.members}
    if entry.stream:
        members["stream"] = True
        # Always asked for: some models report complete usage only then. Clients that did not ask do not get it.
        members["stream_options"] = {**members.get("stream_options", {}), "include_usage": True}
    else:
        members.pop("stream_options", None)  # Groq refuses it without a stream.
    body = _encode(members)
    entry.prompt_characters = len(body)
    return body


def _as_service_error(exc: ServiceError | TimeoutError) -> ServiceError:
    if isinstance(exc, ServiceError):
        return exc
    return DeadlineExceeded("the request took longer than its total deadline", reason="deadline_exceeded")
