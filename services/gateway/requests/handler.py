"""The path of every request: authenticate, read, reserve, infer, settle.

Every HTTP surface and the console's playground pass through `RequestHandler.handle`.

    authenticate  Return the caller's principal, from the cache or from auth. A refusal costs nothing.
    read          Read and check the body. A refusal costs nothing.
    claim         Only with an `Idempotency-Key`, or if the API key deduplicates retries: a repeat gets the first
                  request's answer (idempotency.py).
    reserve       Hold one request of the key's daily limit under the request's id, or answer 429.
    infer         Make one call. Inference answers, writes the ledger row and returns the verdict. The surface renders
                  the answer.
    settle        Close the hold by that verdict, after the answer has been sent.

A request whose verdict does not arrive, because its client left or the call failed, is settled by its ledger row
(settlement.py). A reserve without an answer may have held a slot: it is repeated once under a new id, and quota's
sweeper closes the first hold. Inference is never called twice, since only inference knows what the first call did.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from services.common.errors import InvalidRequest, NotFound, PermissionDenied, ServiceError, TooLarge, Unavailable
from services.common.estimate import Estimate
from services.common.telemetry import tracing
from services.common.verdict import RELEASED, Verdict
from services.common.web.request_id import REQUEST_ID
from services.gateway.http.bearer import client_address
from services.gateway.http.errors import http_error
from services.gateway.http.middleware import FAILURE, STARTED
from services.gateway.http.rate_limits import hold_headers, rate_limit_headers
from services.gateway.http.request_bodies import RequestBodies
from services.gateway.http.responses import json_response
from services.gateway.keys.revocation import Revocation
from services.gateway.metrics import ADMISSION_SECONDS
from services.gateway.requests.claimed_key import ClaimedKey
from services.gateway.requests.disconnect import DisconnectMonitor
from services.gateway.requests.idempotency import IdempotentRequests
from services.gateway.requests.invalid_requests import InvalidRequestLimiter
from services.gateway.requests.keyed_requests import ImplicitlyKeyedRequest, KeyedRequest, keyed_request
from services.gateway.requests.ports import Inference, Quota
from services.gateway.requests.settlement import SettledStream, Settlements
from services.gateway.requests.streaming import begin_stream
from services.gateway.requests.surface import Parse, SurfaceRequest
from services.gateway.requests.types import Chat, Client, Hold, Principal

_log = logging.getLogger(__name__)
_RESERVE_ATTEMPTS = 2
_PRINCIPAL_SECONDS_MAX = 0.1
"""Age from which a principal is authenticated again before the reserve: the key may have been revoked, or have another
limit, since the body began to arrive."""
_CLIENT_CLOSED_REQUEST = 499
"""Logged when the client disconnected before its answer; nginx's and Groq's status for it."""
T = TypeVar("T")
_Parse = Callable[[bytes, Principal], Awaitable[T]]
_INVALID = (InvalidRequest, NotFound, PermissionDenied, TooLarge)
"""Errors that the request itself causes."""


class Caller(Protocol):
    """The client of one request."""

    async def authenticate(self) -> Principal:
        """Return the client's principal.

        Raises:
            Unauthenticated: The credential is missing or not valid.
            Throttled: Too many invalid keys came from the client's address.
            Unavailable: Auth cannot be reached.
        """

    async def authenticate_again(self, principal: Principal) -> Principal:
        """Authenticate again and return the current principal. `principal` is the result of `authenticate`.

        Raises:
            ServiceError: As `authenticate`.
        """

    async def revocation(self, principal: Principal) -> Revocation:
        """Return what ends a stream when the client's credential is revoked."""


class RequestHandler:
    """Handles the requests of every surface. A surface provides the parser and the renderer (surface.py)."""

    def __init__(
        self,
        quota: Quota,
        inference: Inference,
        settlements: Settlements,
        bodies: RequestBodies,
        invalid_requests: InvalidRequestLimiter,
        idempotent: IdempotentRequests,
        *,
        estimate: Callable[[Chat], Awaitable[Estimate]],
        new_request_id: Callable[[], str],
        heartbeat_seconds: float,
    ) -> None:
        """Create a handler.

        Args:
            quota: Reserves requests.
            inference: Answers them.
            settlements: Settles them.
            bodies: Reads their bodies.
            invalid_requests: Limits clients that send invalid requests.
            idempotent: Runs requests with an idempotency key.
            estimate: Returns an upper bound of what a chat takes of limits of tokens and cost.
            new_request_id: Returns a new id.
            heartbeat_seconds: Idle interval before an SSE keep-alive comment is sent.
        """
        self._quota = quota
        self._inference = inference
        self._settlements = settlements
        self._bodies = bodies
        self._invalid_requests = invalid_requests
        self._estimate = estimate
        self._idempotent = idempotent
        self._new_request_id = new_request_id
        self._heartbeat_seconds = heartbeat_seconds

    async def handle(self, request: Request, caller: Caller, parse: Parse) -> Response:
        """Return the response to a request of the surface whose body `parse` parses.

        Raises:
            ServiceError: The request is refused before anything is held.
        """
        started = time.monotonic()
        keyed = keyed_request(request.scope)
        with tracing.span("authenticate"):
            principal = await caller.authenticate()
        if keyed is None and principal.deduplicate_retries:
            keyed = ImplicitlyKeyedRequest(request.scope)
        parsed = await self.read(request, principal, parse if keyed is None else keyed.reading(parse))
        if time.monotonic() - started > _PRINCIPAL_SECONDS_MAX:
            principal = await caller.authenticate_again(principal)
        if keyed is None:
            return await self._run(request, caller, principal, parsed)
        return await self._idempotent.respond(
            keyed, principal, lambda: self._run(request, caller, principal, parsed, keyed)
        )

    async def _run(
        self,
        request: Request,
        caller: Caller,
        principal: Principal,
        parsed: SurfaceRequest,
        keyed: KeyedRequest | None = None,
    ) -> Response:
        """Reserve, infer and return the response. The request continues without its client if its key is claimed."""
        claim = keyed.claim if keyed else None
        client = DisconnectMonitor()
        with client.watching(request.scope, request.receive):
            # Before the hold: a handler that is cancelled between the hold and its stream would leave the hold open.
            revocation = await caller.revocation(principal) if parsed.chat.stream else None
            estimate = await self._estimate(parsed.chat) if principal.is_metered else None
            hold = await self.reserve(principal, request.scope[REQUEST_ID], estimate)
            if claim:
                await self._rename(claim, hold)
            request.scope[REQUEST_ID] = hold.request_id
            if hold.output_tokens:
                parsed.chat.limit_output(hold.output_tokens)
            if client.has_left:
                request.scope[FAILURE] = Verdict.RELEASED
                self._settlements.settle(hold, RELEASED)
                return Response(status_code=_CLIENT_CLOSED_REQUEST)
            if not claim:
                client.cancel_on_departure()
            ADMISSION_SECONDS.observe(time.perf_counter() - request.scope[STARTED])
            headers = self._begin(hold, parsed)
            return await self._infer(request, hold, parsed, headers, client, revocation)
        return Response(status_code=_CLIENT_CLOSED_REQUEST)

    async def read(self, request: Request, principal: Principal, parse: _Parse[T]) -> T:
        """Return the parsed body. A client that sent too many invalid requests is refused before its body is read.

        Raises:
            ServiceError: The body is too large, too slow or invalid.
            HTTPException: The body is compressed, or did not arrive in time.
        """
        key_id, address = principal.key_id, client_address(request)
        await self._invalid_requests.admit(key_id, address)
        body = b""
        try:
            body = await self._bodies.read(request, key_id)
            return await parse(body, principal)
        except (*_INVALID, HTTPException):
            self._invalid_requests.count(key_id, address, len(body))
            raise

    async def reserve(self, principal: Principal, request_id: str, estimate: Estimate | None = None) -> Hold:
        """Hold what a request takes of the principal's limits, under a new id when the answer to `request_id` was lost.

        Raises:
            LimitReached: The limit is used up.
            Unavailable: Quota did not answer twice.
        """
        for attempts_left in reversed(range(_RESERVE_ATTEMPTS)):
            try:
                with tracing.span("reserve"):
                    return await self._quota.reserve(request_id, principal, estimate)
            except Unavailable as exc:
                if not attempts_left:
                    raise
                facts = {"request_id": request_id, "reason": exc.reason}
                _log.warning("Quota did not answer a reserve. Retrying under a new id.", extra=facts)
                request_id = self._new_request_id()
        raise AssertionError("unreachable")

    async def complete(self, hold: Hold, chat: Chat, client: Client) -> bytes:
        """Return the whole chat completion as JSON text, and settle its hold in the background.

        Raises:
            ServiceError: Inference refused or failed.
        """
        try:
            completion = await self._inference.complete(hold, chat)
        except ServiceError as exc:
            self._settlements.settle_failed(hold, exc.details.verdict)
            raise
        except BaseException:  # Cancelled, or a bug. The ledger row says whether the request is charged.
            self._settlements.abandon(hold, client.departure)
            raise
        self._settlements.settle(hold, completion.verdict)
        return completion.body

    def stream(self, hold: Hold, chat: Chat, client: Client) -> SettledStream:
        """Return the events of an answer. The hold is settled when they end or are closed."""
        return SettledStream(self._settlements, self._inference.stream(hold, chat), hold, client)

    async def _rename(self, claim: ClaimedKey, hold: Hold) -> None:
        """Store the final id of a request with a claimed key, and release the hold if that fails."""
        try:
            await claim.rename(hold.request_id)
        except BaseException:
            self._settlements.settle(hold, RELEASED)
            raise

    def _begin(self, hold: Hold, parsed: SurfaceRequest) -> dict[str, str]:
        """Return the headers of the response, and release the hold if the renderer fails."""
        try:
            parsed.renderer.begin(hold.request_id, hold.reserved_at)
            return {**hold_headers(hold, now=time.time()), **parsed.renderer.headers}
        except Exception:
            self._settlements.settle(hold, RELEASED)
            raise

    async def _infer(
        self,
        request: Request,
        hold: Hold,
        parsed: SurfaceRequest,
        headers: dict[str, str],
        client: DisconnectMonitor,
        revocation: Revocation | None,
    ) -> Response:
        chat, renderer = parsed.chat, parsed.renderer
        try:
            if revocation is None:
                completion = await self.complete(hold, chat, client)
                body = renderer.completion(completion)
                await _store(parsed, headers)
                return json_response(body, headers=headers)
            return await begin_stream(
                self.stream(hold, chat, client),
                parsed,
                headers,
                client,
                revocation,
                heartbeat_seconds=self._heartbeat_seconds,
            )
        except ServiceError as exc:
            if isinstance(exc, _INVALID):  # Refused by Groq, which costs more than a refusal here.
                self._invalid_requests.count(hold.principal.key_id, client_address(request), chat.body_bytes)
            request.scope[FAILURE] = exc.details.verdict
            error = renderer.error(http_error(exc, now=time.time()))
            if exc.details.verdict is Verdict.RELEASED:
                headers |= rate_limit_headers(hold.rate_limit.without_one_held(), now=time.time())
            return json_response(error.body, status=error.status, headers={**headers, **error.headers})


async def _store(parsed: SurfaceRequest, headers: dict[str, str]) -> None:
    """Store a whole answer. If that fails, its clients must not send the request again: each answer is charged."""
    try:
        if parsed.store:
            await parsed.store()
    except ServiceError:
        headers["x-should-retry"] = "false"
        raise
