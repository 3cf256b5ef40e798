"""Requests with an idempotency key: the first one runs, and repeats get its answer.

The order of steps:

    claim     Before the slot is reserved. A repeat ends here.
    run       As without a key, except that a client's disconnect does not cancel the request.
    finish    Before the end of the response is sent: keep the answer of a request that is charged, or free the key of
              one that is not. If neither is known, the request's ledger row decides when a repeat arrives.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.common.concurrency.byte_budget import ByteBudget
from services.common.errors import ErrorDetails, InvalidRequest, ServiceError, Throttled, Unavailable
from services.common.verdict import Verdict
from services.gateway.http.middleware import FAILURE, REQUEST_ID
from services.gateway.metrics import UNRECORDED_REQUESTS
from services.gateway.requests.idempotency_types import (
    HEADER,
    Claim,
    ClaimState,
    IdempotencyKey,
    IdempotencyKeyReused,
    IdempotencyStore,
    IdempotentAnswerGone,
    IdempotentRequestRunning,
)
from services.gateway.requests.recording import RecordedAnswer, Recorder, ReplayedResponse
from services.gateway.requests.surface import Parse, SurfaceRequest
from services.gateway.requests.types import Principal

_log = logging.getLogger(__name__)
_CHARACTERS_MAX = 255
_FINISH_SECONDS = 1.0
"""Maximum time that the end of a response waits for its answer to be stored. Then it is stored in the background."""

_IMPLICIT_CLAIM_SECONDS = 1.0
"""Maximum time that a request without an `Idempotency-Key` waits for the storage."""
_RETRY_COUNT = b"x-stainless-retry-count"
"""How often an SDK that Stainless generates, such as OpenAI's and Anthropic's, has sent a request before."""

Run = Callable[[], Awaitable[Response]]
"""Runs the request of a claimed key: reserves its slot and returns its response."""


class KeyedRequest:
    """A request with an `Idempotency-Key` header.

    Attributes:
        fingerprint: SHA-256 of its path and body; empty before the body is read.
        claim: The claim of its key; None while it has none, and if keys are not supported.
        replaces: Whether it claims its key even if an earlier request has claimed it.
    """

    replaces = False

    def __init__(self, scope: Scope, values: list[bytes]) -> None:
        self.scope = scope
        self._values = values
        self.fingerprint = b""
        self.claim: ClaimedKey | None = None

    def reading(self, parse: Parse) -> Parse:
        """Return a parser that also checks the header and takes the fingerprint of the body."""

        async def read(body: bytes, principal: Principal) -> SurfaceRequest:
            self._check()
            self.fingerprint = _digest(self.scope["path"].encode(), body)
            return await parse(body, principal)

        return read

    def key(self, principal: Principal) -> IdempotencyKey:
        """Return the idempotency key. Those of other API keys are different, even if their headers are equal."""
        digest = _digest(principal.key_id.encode(), self._values[0])
        return IdempotencyKey(principal.account_id, principal.key_id, digest)

    def _check(self) -> None:
        value = self._values[0]
        is_valid = 1 <= len(value) <= _CHARACTERS_MAX and all(0x20 <= byte < 0x7F for byte in value)
        if len(self._values) != 1 or not is_valid:
            raise InvalidRequest(
                f"Invalid Idempotency-Key header. Send it once, with 1 to {_CHARACTERS_MAX} printable ASCII "
                "characters, such as a UUID.",
                details=ErrorDetails(param="Idempotency-Key", code="invalid_idempotency_key"),
            )


def keyed_request(scope: Scope) -> KeyedRequest | None:
    """Return a request with an `Idempotency-Key` header; None if it has none."""
    for name, _ in scope["headers"]:
        if name == HEADER:
            return KeyedRequest(scope, [value for name, value in scope["headers"] if name == HEADER])
    return None


class UnkeyedRequest(KeyedRequest):
    """A request without the header, whose API key deduplicates the automatic retries of SDKs.

    Its implicit key is a digest of its path and body. A first request always runs, and claims the key from an earlier
    identical one. An automatic retry finds the claim of the last first request.
    """

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope, [])
        self.replaces = not _is_retry(scope)

    def key(self, principal: Principal) -> IdempotencyKey:
        """Return the implicit key, which is never an explicit one."""
        digest = _digest(b"implicit", principal.key_id.encode(), self.fingerprint)
        return IdempotencyKey(principal.account_id, principal.key_id, digest, is_implicit=True)

    def _check(self) -> None:
        """There is no header to check."""


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
            async with asyncio.timeout(_IMPLICIT_CLAIM_SECONDS):
                return await self._store.claim(key, request.fingerprint, request_id, replaces=request.replaces)
        except Throttled:
            UNRECORDED_REQUESTS.labels("too_many").inc()
        except (ServiceError, TimeoutError):
            UNRECORDED_REQUESTS.labels("unavailable").inc()
            # The claim may have been stored: without an answer, retries would wait for it.
            ClaimedKey(self._store, key, request_id, self._tasks).release_later()
        return Claim(ClaimState.DISABLED)

    async def _first(self, claimed: "ClaimedKey", run: Run) -> Response:
        try:
            response = await run()
        except ServiceError:  # Refused before it ran.
            await claimed.release()
            raise
        except BaseException:
            claimed.abandon()
            raise
        return _RecordedResponse(response, claimed, self._budget, bytes_max=self._bytes_max)


class ClaimedKey:
    """A key that is claimed for a request which runs."""

    def __init__(
        self, store: IdempotencyStore, key: IdempotencyKey, request_id: str, tasks: "set[asyncio.Task[None]]"
    ) -> None:
        """Create a claim.

        Args:
            store: Remembers the request.
            key: The key.
            request_id: Id of the request.
            tasks: Calls to the store in progress.
        """
        self._store = store
        self._key = key
        self._request_id = request_id
        self._tasks = tasks
        self._is_finished = False

    @property
    def account_id(self) -> str:
        """Id of the account whose key it is."""
        return self._key.account_id

    async def rename(self, request_id: str) -> None:
        """Store the id of a request whose reserve was repeated under a new one.

        Raises:
            ServiceError: It could not be stored, so the request must not run. The claim of an implicit key is given up
                instead.
        """
        if request_id == self._request_id:
            return
        try:
            await self._store.rename(self._key, self._request_id, request_id)
        except ServiceError:
            if not self._key.is_implicit:
                raise
            for one in (self._request_id, request_id):  # It may have been renamed.
                self._spawn(self._release(one))
        self._request_id = request_id

    async def finish(self, scope: Scope, answer: RecordedAnswer | None) -> None:
        """Keep the answer of a request that is charged, and free the key of one that is not."""
        verdict = scope.get(FAILURE, Verdict.CHARGED)
        if verdict is Verdict.RELEASED:
            await self.release()
        elif verdict is Verdict.CHARGED and answer is not None:
            await self._wait(self._keep(answer.encode()))
        else:
            await self._wait(self._end())

    async def release(self) -> None:
        """Free the key."""
        await self._wait(self._release(self._request_id))

    def release_later(self) -> None:
        """Free the key in the background."""
        self._spawn(self._release(self._request_id))

    def abandon(self) -> None:
        """Leave it to the ledger whether a repeat runs, unless the request has been finished."""
        if not self._is_finished:
            self._spawn(self._end())

    async def _release(self, request_id: str) -> None:
        with suppress(ServiceError):  # Then the ledger decides.
            await self._store.release(self._key, request_id)

    async def _keep(self, content: bytes) -> None:
        try:
            await self._store.complete(self._key, self._request_id, content)
        except ServiceError as exc:
            facts = {"request_id": self._request_id, "reason": exc.reason}
            _log.warning("The answer of a request with an idempotency key could not be stored.", extra=facts)
            await self._end()

    async def _end(self) -> None:
        with suppress(ServiceError):  # Then its lease ends later.
            await self._store.complete(self._key, self._request_id, b"")

    async def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for `work` for a limited time. It continues after that, and if the caller is cancelled."""
        await asyncio.wait({self._spawn(work)}, timeout=_FINISH_SECONDS)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        self._is_finished = True
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


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


def _is_retry(scope: Scope) -> bool:
    """Return whether an SDK has sent the request before. An invalid count is ignored."""
    counts = [value for name, value in scope["headers"] if name == _RETRY_COUNT]
    return len(counts) == 1 and counts[0].isdigit() and bool(counts[0].strip(b"0"))


def _digest(*parts: bytes) -> bytes:
    """Return a digest of parts, of which only the last one may contain NUL."""
    return hashlib.sha256(b"\0".join(parts)).digest()
