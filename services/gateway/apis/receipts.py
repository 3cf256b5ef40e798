"""The usage API: today's quota of a key, usage by day and model, and the receipt of one request.

Usage belongs to the account: each key can read the receipts of all keys of its account. Requests to this API are not
charged. A request of another account gets the same 404 as one that does not exist, so that ids cannot be probed.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Literal, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from services.common.errors import ErrorDetails, InvalidRequest, NotFound
from services.common.ids import Kind, is_id
from services.common.runtime.clock import Clock
from services.common.surface import Surface
from services.gateway.apis.limits import limit_body, limits_of, rate_limit_body
from services.gateway.http.bearer import bearer_token, client_address
from services.gateway.http.redaction import redacted
from services.gateway.http.responses import json_response
from services.gateway.requests.ports import Authenticator
from services.gateway.requests.types import Principal, RateLimit

_DAYS = 30
"""UTC days of usage to list if the request has no `from`."""
# `date.fromisoformat` accepts other ISO formats, and `\d` matches digits outside ASCII.
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class ReceiptUsage:
    """Token counts of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    """Part of `prompt_tokens`."""
    reasoning_tokens: int
    """Part of `completion_tokens`."""
    source: str
    """`reported` by the upstream, `estimated` from the output received, or `none`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The public part of a ledger row. It contains nothing about the operator's Groq account."""

    object: Literal["usage.record"] = field(default="usage.record", init=False)
    id: str
    key_id: str
    day: str
    """UTC date to which the request is charged, `YYYY-MM-DD`."""
    created_at: str
    """ISO 8601, UTC."""
    model: str
    """The model name in the request, or the model that GATEWAY_MODEL_ALIASES names for it."""
    upstream_model: str | None
    """The model that was called, which differs from `model` if that is an alias or had a fallback. None if none was."""
    surface: Surface | None
    """The API through which the request came; None if it is not known."""
    stream: bool
    outcome: str
    charged: bool
    refund_reason: str | None
    """Why the request was not charged; None if it was charged."""
    usage: ReceiptUsage
    cost_microdollars: int | None
    """Cost of the tokens in millionths of a US dollar, rounded up, whether the request was charged or not. None if it
    is not known: the model has no price, the outcome is `unknown`, or an earlier version did not record it."""
    cost_usd: str | None
    """The same cost in US dollars, such as `0.001234`."""
    attempts: int
    """Number of upstream calls."""
    time_to_first_token_ms: int | None
    """None if there was no output."""
    duration_ms: int
    queue_ms: int | None = None
    """How long the request waited for its share of the upstream's rate limits; None if it is not known."""


@dataclass(frozen=True, slots=True)
class OwnedReceipt:
    """A receipt and the account that owns it."""

    account_id: str
    """Empty for requests of direct callers of inference; this API does not return those."""
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class DayUsage:
    """Usage of one model on one day."""

    day: str
    model: str
    requests: int
    """Charged requests."""
    released_requests: int
    """Requests that were not charged."""
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost_microdollars: int | None
    """Cost of the requests that have one, in millionths of a US dollar; None if none has one."""
    cost_usd: str | None
    """The same cost in US dollars."""


class Counters(Protocol):
    """Reads the quota counters."""

    async def status(self, principal: Principal) -> RateLimit:
        """Return today's quota of a key without changing it.

        Raises:
            ServiceError: The counters cannot be read.
        """

    async def limits(self, principal: Principal) -> list[RateLimit]:
        """Return all limits of a key and its account, and what is used of them, without changing anything.

        Raises:
            ServiceError: The counters cannot be read.
        """


class Ledger(Protocol):
    """Reads the ledger. All methods raise a `ServiceError` if it cannot be read."""

    async def find(self, request_id: str) -> OwnedReceipt | None:
        """Return the receipt of a request, or None if the ledger has no row for it."""

    async def summarize(self, account_id: str, *, key_id: str, from_day: str, to_day: str) -> Sequence[DayUsage]:
        """Return the usage of an account by day and model, newest day first.

        Args:
            account_id: The account.
            key_id: Count only requests of this key; empty counts all keys.
            from_day: First day, `YYYY-MM-DD`.
            to_day: Last day, `YYYY-MM-DD`; empty means no end.
        """


class Receipts:
    """The endpoints of the usage API."""

    def __init__(self, authenticator: Authenticator, counters: Counters, ledger: Ledger, clock: Clock) -> None:
        self._authenticator = authenticator
        self._counters = counters
        self._ledger = ledger
        self._clock = clock

    async def key(self, request: Request) -> Response:
        """`GET /api/v1/key`: return the key that authenticates the request, its limits and its requests today."""
        principal = await self._principal(request)
        today = await self._counters.status(principal)
        body = {
            "object": "key",
            "id": principal.key_id,
            "name": principal.key_name or None,
            "plan": principal.plan or None,
            "models": principal.models,
            "expires_at": None if principal.expires_at is None else iso_time(principal.expires_at),
            "deduplicate_retries": principal.deduplicate_retries,
            "limits": [limit_body(limit) for limit in limits_of(principal)],
            "limit": today.limit,
            "used": today.charged,
            "held": today.held,
            "remaining": today.remaining,
            "resets_at": iso_time(today.reset_at),
            "reset_in_seconds": max(0, math.ceil(today.reset_at - self._clock.now())),
        }
        return json_response(_encode(body))

    async def limits(self, request: Request) -> Response:
        """`GET /api/v1/limits`: return all limits of the key and its account, and what is used of them."""
        limits = await self._counters.limits(await self._principal(request))
        now = self._clock.now()
        data = [rate_limit_body(limit, resets_at=iso_time(limit.reset_at), now=now) for limit in limits]
        return json_response(_encode({"object": "list", "data": data}))

    async def usage(self, request: Request) -> Response:
        """`GET /api/v1/usage`: return the account's usage by day and model, of the last 30 days by default."""
        principal = await self._principal(request)
        from_day, to_day = self._days(request)
        key_id = request.query_params.get("key_id", "")
        if "key_id" in request.query_params and not is_id(key_id, Kind.KEY):
            raise _invalid("key_id", "expected a key id, `key_…`. Do not put the secret key in a URL")
        days = await self._ledger.summarize(principal.account_id, key_id=key_id, from_day=from_day, to_day=to_day)
        return json_response(_encode({"object": "list", "data": days}))

    async def receipt(self, request: Request) -> Response:
        """`GET /api/v1/usage/{request_id}`: return the receipt of one request of the account."""
        principal = await self._principal(request)
        request_id = request.path_params["request_id"]
        owned = await self._ledger.find(request_id) if is_id(request_id, Kind.REQUEST) else None
        if owned is None or owned.account_id != principal.account_id:
            message = (
                f"No request `{redacted(request_id)}` is recorded for this account. A request is recorded after it was "
                "answered, or after it failed at the model. Check the id."
            )
            raise NotFound(message, details=ErrorDetails(param="request_id", code="request_not_found"))
        return json_response(_encode(owned.receipt))

    async def _principal(self, request: Request) -> Principal:
        return await self._authenticator.authenticate(bearer_token(request), address=client_address(request))

    def _days(self, request: Request) -> tuple[str, str]:
        """Return the first and the last day; the last is empty without `to`, because Redis decides the current day."""
        first, last = _day(request, "from"), _day(request, "to")
        if first is None:
            end = last or datetime.fromtimestamp(self._clock.now(), UTC).date()
            first = date.fromordinal(max(1, end.toordinal() - (_DAYS - 1)))
        if last is not None and last < first:
            raise _invalid("from", "expected a date that is not after `to`")
        return first.isoformat(), last.isoformat() if last else ""


def iso_time(seconds: float) -> str:
    """Return Unix seconds as ISO 8601 in UTC, with milliseconds unless they are zero."""
    milliseconds = round(seconds * 1000)
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC) + timedelta(milliseconds=milliseconds % 1000)
    precision = "milliseconds" if moment.microsecond else "seconds"
    return moment.isoformat(timespec=precision).replace("+00:00", "Z")


def _day(request: Request, name: str) -> date | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        if _DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise _invalid(name, "expected a date, YYYY-MM-DD")


def _invalid(param: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid `{param}`: {problem}.", details=ErrorDetails(param=param))
