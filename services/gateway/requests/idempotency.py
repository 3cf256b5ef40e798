"""Requests with an idempotency key: the first one runs, and repeats get its answer.

The order of steps:

    claim     Before the slot is reserved. A repeat ends here.
    run       As without a key, except that a client's disconnect does not cancel the request.
    finish    Before the end of the response is sent: keep the answer of a request that is charged, or free the key of
              one that is not. If neither is known, the request's ledger row decides when a repeat arrives.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.common.concurrency.byte_budget import ByteBudget
from services.common.concurrency.stall_tolerant_timer import stall_tolerant_timeout
from services.common.errors import ServiceError, Throttled, Unavailable
from services.common.web.request_id import REQUEST_ID
from services.gateway.metrics import UNRECORDED_REQUESTS
from services.gateway.requests.claimed_key import ClaimedKey
from services.gateway.requests.idempotency_types import (
    Claim,
    ClaimState,
    IdempotencyKey,
    IdempotencyKeyReused,
    IdempotencyStore,
    IdempotentAnswerGone,
    IdempotentRequestRunning,
)
from services.gateway.requests.keyed_requests import KeyedRequest
from services.gateway.requests.recording import RecordedAnswer, Recorder, ReplayedResponse
from services.gateway.requests.types import Principal

_log = logging.getLogger(__name__)

_IMPLICIT_CLAIM_SECONDS = 1.0
"""Maximum time that a request without an `Idempotency-Key` waits for the storage."""

Run = Callable[[], Awaitable[Response]]
"""Runs the request of a claimed key: reserves its slot and returns its response."""


class IdempotentRequests:
    """Runs requests with an idempotency key, and repeats their answers."""

    def __init__(self, store: IdempotencyStore, budget: ByteBudget, *, bytes_max: int) -> None:
        """Create the runner.

        Args:
            store: Remembers requests and their answers.
            budget: Bytes of all recordings together.
            bytes_max: Maximum size of an answer that is kept.
        """
        self._store = store
        self._budget = budget
        self._bytes_max = bytes_max
        self._tasks: set[asyncio.Task[None]] = set()

    async def respond(self, request: KeyedRequest, principal: Principal, run: Run) -> Response:
        """Return the response of `run`, or of the request that has claimed the key before.

        Raises:
            ServiceError: The request was refused before it ran.
            IdempotencyKeyReused: The key belongs to another request.
            IdempotentRequestRunning: The first request is still running.
            IdempotentAnswerGone: Its answer is not available.
            Unavailable: The storage cannot be used.
        """
        key, scope = request.key(principal), request.scope
        claim = await (self._claim_implicit if key.is_implicit else self._claim)(key, request)
        match claim.state:
            case ClaimState.DISABLED:
                return await run()
            case ClaimState.CLAIMED:
                request.claim = ClaimedKey(self._store, key, claim.request_id, self._tasks)
                return await self._first(request.claim, run)
            case ClaimState.MISMATCHED:
                raise IdempotencyKeyReused
            case ClaimState.RUNNING:
                raise IdempotentRequestRunning(claim.request_id, is_retry=key.is_implicit)
        answer = RecordedAnswer.decode(claim.content) if claim.content else None
        if answer is None:
            raise IdempotentAnswerGone(claim.request_id, is_retry=key.is_implicit)
        scope[REQUEST_ID] = claim.request_id
        return ReplayedResponse(answer)

    async def drain(self, *, timeout_seconds: float) -> None:
        """Wait for answers that are being stored."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_seconds)

    async def _claim(self, key: IdempotencyKey, request: KeyedRequest) -> Claim:
        request_id = request.scope[REQUEST_ID]
        try:
            return await self._store.claim(key, request.fingerprint, request_id)
        except Unavailable as exc:
            # The claim may have been stored, without an answer.
            ClaimedKey(self._store, key, request_id, self._tasks).release_later()
            raise Unavailable(
                "Idempotency keys cannot be checked at the moment, so this request was not run. Try again, or send it "
                "without Idempotency-Key.",
                reason="idempotency_unavailable",
            ) from exc

    async def _claim_implicit(self, key: IdempotencyKey, request: KeyedRequest) -> Claim:
        """Claim an implicit key. Without storage or room for it, the request runs unrecorded.

        Its client did not ask for the promise of a key, so it prefers an answer to an error.
        """
        request_id = request.scope[REQUEST_ID]
        try:
            async with stall_tolerant_timeout(_IMPLICIT_CLAIM_SECONDS):
                return await self._store.claim(key, request.fingerprint, request_id, replaces=request.replaces)
        except Throttled:
            UNRECORDED_REQUESTS.labels("too_many").inc()
        except (ServiceError, TimeoutError):
            UNRECORDED_REQUESTS.labels("unavailable").inc()
            # The claim may have been stored: without an answer, retries would wait for it.
            ClaimedKey(self._store, key, request_id, self._tasks).release_later()
        return Claim(ClaimState.DISABLED)

    async def _first(self, claimed: ClaimedKey, run: Run) -> Response:
        try:
            response = await run()
        except ServiceError:  # Refused before it ran.
            await claimed.release()
            raise
        except BaseException:
            claimed.abandon()
            raise
        return _RecordedResponse(response, claimed, self._budget, bytes_max=self._bytes_max)


class _RecordedResponse(Response):
    """The response to the first request with a key."""

    def __init__(self, response: Response, claimed: ClaimedKey, budget: ByteBudget, *, bytes_max: int) -> None:
        self._response = response
        self._claimed = claimed
        self._budget = budget
        self._bytes_max = bytes_max
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, and keep it."""
        with self._budget.allocate((self._claimed.account_id,)) as allocation:
            finish = partial(self._claimed.finish, scope)
            recorder = Recorder(send, allocation, bytes_max=self._bytes_max, finish=finish)
            try:
                await self._response(scope, receive, recorder.send)
            finally:
                self._claimed.abandon()
        if recorder.stall is not None:
            raise recorder.stall
