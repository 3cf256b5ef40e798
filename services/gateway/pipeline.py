"""What happens to a chat request: authorise → reserve → infer → settle.

    authorise   who calls?            principal, from the cache or auth; a refusal costs nothing
    reserve     is a slot left today? a hold under the request's id, or 429; changes nothing when denied
    infer       the one RPC           inference answers, writes the ledger row, and gives its verdict
    settle      close the hold        on that verdict only, after the answer has left; no verdict, no settling

A reserve that got no answer may have held a slot: it is tried once more under a new id, and the first is left to
quota's sweeper. Inference is never tried twice: only it knows what it did.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from services.common import tracing
from services.common.errors import ServiceError, Throttled, Unavailable
from services.gateway.metrics import UNSETTLED

_log = logging.getLogger(__name__)
_RESERVE_TRIES = 2
_SETTLE_WAITS_SECONDS = (0.1, 0.3, 1.0, 3.0)

Members = dict[str, Any]
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

    members: Members
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


class Client(Protocol):
    """Who waits for the answer."""

    @property
    def has_left(self) -> bool:
        """Whether the client is known to be gone."""


class Principals(Protocol):
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

    async def note_client_left(self, hold: Hold) -> None:
        """Note on a request's row that its client had left; only the gateway knows."""


class Pipeline:
    """Takes a chat request through the services."""

    def __init__(
        self, principals: Principals, quota: Quota, inference: Inference, *, new_request_id: Callable[[], str]
    ) -> None:
        """Wire the parts; `new_request_id` mints an id that was never used."""
        self._principals = principals
        self._quota = quota
        self._inference = inference
        self._new_request_id = new_request_id
        self._settling: set[asyncio.Task[None]] = set()

    async def authorise(self, api_key: str, *, address: str) -> Principal:
        """Return who calls; raises as `Principals.authenticate`."""
        with tracing.span("authorise"):
            return await self._principals.authenticate(api_key, address=address)

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
        self._settle(hold, completion.verdict, client)
        return completion.body

    async def stream(self, hold: Hold, chat: Chat, client: Client) -> AsyncGenerator[list[bytes], None]:
        """Yield events that arrived together as JSON texts; the hold is settled at the end, whoever still listens.

        Raises:
            ServiceError: Inference refused or failed, at once or after some events.
        """
        try:
            async with aclosing(self._inference.stream(hold, chat)) as parts:
                async for part in parts:
                    if isinstance(part, list):
                        yield part
                    else:
                        self._settle(hold, part, client)
        except ServiceError as exc:
            self._settle(hold, verdict_of(exc))
            raise

    async def drain(self, *, timeout_seconds: float) -> None:
        """Let settles on their way arrive; what does not is quota's sweeper's."""
        if self._settling:
            await asyncio.wait(self._settling, timeout=timeout_seconds)

    def _settle(self, hold: Hold, verdict: Verdict | None, client: Client | None = None) -> None:
        if client is not None and client.has_left:
            self._spawn(self._note_left(hold))
        if verdict is None:
            UNSETTLED.inc()
            _log.warning("no verdict; the hold is left to the sweeper", extra={"request_id": hold.request_id})
            return
        self._spawn(self._settle_until_answered(hold, verdict))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _note_left(self, hold: Hold) -> None:
        try:
            await self._inference.note_client_left(hold)
        except ServiceError as exc:
            _log.warning("a leaver was not noted", extra={"request_id": hold.request_id, "reason": exc.reason})

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


def verdict_of(error: ServiceError) -> Verdict | None:
    """Return the verdict that inference gave with a failure; None when it gave none."""
    text = error.metadata.get("verdict")
    return Verdict(text) if text in (Verdict.CHARGED, Verdict.RELEASED) else None
