"""What happens to a chat request: authorise → reserve → infer → settle.

    authorise   who calls?            principal, from the cache or auth; a refusal costs nothing
    reserve     is a slot left today? a hold under the request's id, or 429; changes nothing when denied
    infer       the one RPC           inference answers, writes the ledger row, and gives its verdict
    settle      close the hold        on that verdict only, after the answer has left

A request that ends here without a verdict, because its client left or the call to inference broke, is settled by its
ledger row as soon as there is one; what has no row in time is left to quota's sweeper. A reserve that got no answer may
have held a slot: it is tried once more under a new id, and the first is left to the sweeper. Inference is never called
twice: only it knows what it did.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, Self

from services.common.errors import ServiceError, Throttled, Unavailable
from services.common.telemetry import tracing
from services.gateway.metrics import ABANDONED, UNSETTLED

_log = logging.getLogger(__name__)
_RESERVE_TRIES = 2
_SETTLE_WAITS_SECONDS = (0.1, 0.3, 1.0, 3.0)
_LOOK_UP_SECONDS = (0.05, 0.2, 0.5, 1.0, 2.0)
_LOOK_UP_SECONDS_MAX = 5.0
"""Pauses between looking for an abandoned request's row: short at first, since many have one at once."""

JSONObject = dict[str, Any]
"""A JSON object."""


class Verdict(StrEnum):
    """Whether a request counts against its key's limit."""

    CHARGED = "charged"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls and what they may do."""

    key_id: str
    account_id: str
    daily_limit: int
    """Requests a UTC day; 0 admits nothing."""
    expires_at: float | None
    """Unix seconds; None means never."""
    models: tuple[str, ...] = ()
    """Models that may be asked for, by name or with `*` in it; empty allows all."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A key's day, as its owner is told."""

    limit: int
    charged: int
    """Requests that count for good."""
    held: int
    """Requests in flight, which count until they are settled."""
    reset_at: float
    """Unix seconds of the next 00:00 UTC."""

    @property
    def remaining(self) -> int:
        """Slots that are neither used nor held."""
        return max(0, self.limit - self.charged - self.held)


@dataclass(frozen=True, slots=True)
class Hold:
    """A reserved slot, and where its request is accounted."""

    request_id: str
    principal: Principal
    day: str
    """UTC date of the reserve, `YYYY-MM-DD`."""
    reserved_at: float
    """Redis' time of the reserve; Unix seconds."""
    rate_limit: RateLimit


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat request whose form was checked."""

    members: JSONObject
    """Its JSON object without `stream`."""
    stream: bool
    body_bytes: int = 0
    """Size of the body that it came in."""


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer in one piece."""

    body: bytes
    """JSON text."""
    verdict: Verdict | None


class LimitReached(Throttled):
    """The key's slots of the day are used up or in use.

    Attributes:
        rate_limit: The key's day.
    """

    default_reason = "rate_limit_exceeded"

    def __init__(self, rate_limit: RateLimit) -> None:
        super().__init__("the key's daily limit is reached")
        self.rate_limit = rate_limit


class Departure(StrEnum):
    """Why an answer does not reach its client; the ledger's outcomes of the same names."""

    CLIENT_LEFT = "client_left"
    """The client closed the connection."""
    CLIENT_STALLED = "client_stalled"
    """The client was connected and read nothing."""
    KEY_REVOKED = "key_revoked"
    """The key was revoked, which ended the stream."""
    SESSION_ENDED = "session_ended"
    """The console session that used the key ended, which ended the stream."""


class Client(Protocol):
    """The receiver of the answer."""

    @property
    def departure(self) -> Departure | None:
        """Why the client is gone; None while it is there."""


class Authenticator(Protocol):
    """Who API keys stand for."""

    async def authenticate(self, api_key: str, *, address: str = "") -> Principal:
        """Return the key's principal; `address` is the client's, as far as it is known.

        Raises:
            Unauthenticated: The key is not good.
            Throttled: Too many unknown keys came from the address.
            Unavailable: Nobody knows just now.
        """


class Quota(Protocol):
    """Today's slots."""

    async def reserve(self, request_id: str, principal: Principal) -> Hold:
        """Hold a slot.

        Raises:
            LimitReached: There is none.
            Unavailable: No answer, and a slot may be held; or quota knows that it held nothing.
        """

    async def settle(self, hold: Hold, verdict: Verdict) -> None:
        """Close a hold; harmless when repeated.

        Raises:
            Unavailable: No answer.
        """


class Inference(Protocol):
    """The models. A failure's metadata holds `verdict` when inference gave one."""

    async def complete(self, hold: Hold, chat: Chat) -> Completion:
        """Return the answer in one piece."""

    def stream(self, hold: Hold, chat: Chat) -> AsyncGenerator[list[bytes] | Verdict | None, None]:
        """Yield the events that arrived together as JSON texts, and at last the verdict."""

    async def resolve_abandoned(self, hold: Hold, departure: Departure | None) -> Verdict | None:
        """Return the verdict of an abandoned request's row, and note on it why; None when there is no row yet.

        Raises:
            ServiceError: The ledger cannot be asked.
        """


class Pipeline:
    """Takes a chat request through the services."""

    def __init__(
        self,
        authenticator: Authenticator,
        quota: Quota,
        inference: Inference,
        *,
        new_request_id: Callable[[], str],
        abandoned_max: int,
        abandoned_seconds: float,
    ) -> None:
        """Wire the parts.

        Args:
            principals: Authenticates keys.
            quota: Holds and settles slots.
            inference: Answers chats.
            new_request_id: Returns an id that was never used.
            abandoned_max: Maximum abandoned requests whose rows are looked for; more are left to quota's sweeper.
            abandoned_seconds: How long a row is looked for: longer than a request may take.
        """
        self._authenticator = authenticator
        self._quota = quota
        self._inference = inference
        self._new_request_id = new_request_id
        self._abandoned_max = abandoned_max
        self._abandoned_seconds = abandoned_seconds
        self._settling: set[asyncio.Task[None]] = set()
        self._abandoned: set[asyncio.Task[None]] = set()
        ABANDONED.set_function(lambda: len(self._abandoned))

    async def authorise(self, api_key: str, *, address: str) -> Principal:
        """Return who calls; raises as `Authenticator.authenticate`."""
        with tracing.span("authorise"):
            return await self._authenticator.authenticate(api_key, address=address)

    async def reserve(self, principal: Principal, request_id: str) -> Hold:
        """Hold a slot of the principal's day, under `request_id` or, after a lost answer, under a new one.

        Raises:
            LimitReached: There is none.
            Unavailable: Quota did not answer twice.
        """
        for left in reversed(range(_RESERVE_TRIES)):
            try:
                with tracing.span("reserve"):
                    return await self._quota.reserve(request_id, principal)
            except Unavailable as exc:
                if not left:
                    raise
                _log.warning("reserving again", extra={"request_id": request_id, "reason": exc.reason})
                request_id = self._new_request_id()
        raise AssertionError("unreachable")

    def release(self, hold: Hold) -> None:
        """Close the hold of a request that never went to inference: its client left before."""
        self._settle(hold, Verdict.RELEASED)

    async def complete(self, hold: Hold, chat: Chat, client: Client) -> bytes:
        """Return the answer in one piece as JSON text; its hold is settled behind it.

        Raises:
            ServiceError: Inference refused or failed.
        """
        try:
            completion = await self._inference.complete(hold, chat)
        except ServiceError as exc:
            self._settle(hold, verdict_of(exc))
            raise
        except asyncio.CancelledError:
            self._abandon(hold, client.departure)
            raise
        self._settle(hold, completion.verdict)
        return completion.body

    def stream(self, hold: Hold, chat: Chat, client: Client) -> "ChatStream":
        """Return the events of an answer; its hold is settled at its end, or when it is closed before."""
        return ChatStream(self, self._inference.stream(hold, chat), hold, client)

    async def drain(self, *, timeout_seconds: float) -> None:
        """Let settles on their way arrive; what is not settled by then is left to quota's sweeper."""
        if self._settling:
            await asyncio.wait(self._settling, timeout=timeout_seconds)
        for task in self._abandoned:
            task.cancel()

    def _settle(self, hold: Hold, verdict: Verdict | None) -> None:
        if verdict is None:
            self._abandon(hold, None)
        else:
            _spawn(self._settle_until_answered(hold, verdict), self._settling)

    def _abandon(self, hold: Hold, departure: Departure | None) -> None:
        """Settle a hold whose verdict does not come here by the request's row, once there is one."""
        if len(self._abandoned) < self._abandoned_max:
            _spawn(self._settle_by_row(hold, departure), self._abandoned)
        else:
            self._leave_to_sweeper(hold)

    async def _settle_by_row(self, hold: Hold, departure: Departure | None) -> None:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._abandoned_seconds
        pauses = iter(_LOOK_UP_SECONDS)
        while loop.time() < ends_at:
            await asyncio.sleep(next(pauses, _LOOK_UP_SECONDS_MAX))
            with suppress(ServiceError):
                if verdict := await self._inference.resolve_abandoned(hold, departure):
                    await self._settle_until_answered(hold, verdict)
                    return
        self._leave_to_sweeper(hold)

    def _leave_to_sweeper(self, hold: Hold) -> None:
        UNSETTLED.inc()
        _log.warning("No verdict. The hold is left to the sweeper.", extra={"request_id": hold.request_id})

    async def _settle_until_answered(self, hold: Hold, verdict: Verdict) -> None:
        for wait_seconds in _SETTLE_WAITS_SECONDS:
            try:
                await self._quota.settle(hold, verdict)
            except ServiceError as exc:
                _log.warning("settling again", extra={"request_id": hold.request_id, "reason": exc.reason})
                await asyncio.sleep(wait_seconds)
            else:
                return
        _log.error("not settled; the hold is left to the sweeper", extra={"request_id": hold.request_id})


def _spawn(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


class ChatStream:
    """The events of one answer, in lists of JSON texts that arrived together; to be closed by its reader."""

    def __init__(
        self,
        pipeline: Pipeline,
        parts: AsyncGenerator[list[bytes] | Verdict | None, None],
        hold: Hold,
        client: Client,
    ) -> None:
        self._pipeline = pipeline
        self._parts = parts
        self._hold = hold
        self._client = client
        self._is_settled = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[bytes]:
        """Return the next events.

        Raises:
            ServiceError: Inference refused or failed, at once or after some events.
        """
        try:
            async for part in self._parts:
                if isinstance(part, list):
                    return part
                self._settle(part)
        except ServiceError as exc:
            self._settle(verdict_of(exc))
            raise
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the call; a request that has no verdict yet is abandoned, even if nothing was ever read."""
        await self._parts.aclose()
        if not self._is_settled:
            self._is_settled = True
            self._pipeline._abandon(self._hold, self._client.departure)

    def _settle(self, verdict: Verdict | None) -> None:
        self._is_settled = True
        self._pipeline._settle(self._hold, verdict)


def verdict_of(error: ServiceError) -> Verdict | None:
    """Return the verdict that inference gave with a failure; None when it gave none."""
    text = error.metadata.get("verdict")
    return Verdict(text) if text in (Verdict.CHARGED, Verdict.RELEASED) else None
