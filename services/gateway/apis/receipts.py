"""What a key's owner may know of its use: today's slots, sums by day and model, and the receipt of one request.

The owner is the account: any of its keys reads the receipts of all of them. Asking costs nothing. A request of somebody
else and one that never was get the same answer, so that nothing can be found out by asking.
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

from services.common.errors import InvalidRequest, NotFound
from services.common.ids import Kind, is_id
from services.common.runtime.clock import Clock
from services.gateway.http.bearer import bearer_token, client_address
from services.gateway.http.redaction import redacted
from services.gateway.http.responses import json_response
from services.gateway.requests.ports import Authenticator
from services.gateway.requests.types import Principal, RateLimit

_DAYS = 30
"""UTC days that a list of usage covers when it is not told where to begin."""
# Python reads more spellings of a date than this, and its `\d` more digits.
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    """Of the prompt's tokens."""
    reasoning_tokens: int
    """Of the generated tokens."""
    source: str
    """`reported` by the model's server, `estimated` from what was seen, or `none`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A ledger row as its owner sees it: nothing in it is of the operator's account with Groq."""

    object: Literal["usage.record"] = field(default="usage.record", init=False)
    id: str
    key_id: str
    day: str
    """UTC date on which it was counted, `YYYY-MM-DD`."""
    created_at: str
    """ISO 8601, UTC."""
    model: str
    """As asked for."""
    stream: bool
    outcome: str
    charged: bool
    refund_reason: str | None
    """Why it does not count; None when it does."""
    usage: Usage
    attempts: int
    """Calls made to the model's server."""
    time_to_first_token_ms: int | None
    """None when there was no output."""
    duration_ms: int


@dataclass(frozen=True, slots=True)
class OwnedReceipt:
    """A receipt and whose it is."""

    account_id: str
    """Empty for a direct caller of inference, whose requests nobody may read here."""
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class DayUsage:
    """The sum of one day's requests to one model."""

    day: str
    model: str
    requests: int
    """Requests that count."""
    released_requests: int
    """Requests that do not."""
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    reasoning_tokens: int


class Counters(Protocol):
    """Today's slots."""

    async def status(self, principal: Principal) -> RateLimit:
        """Return the key's day, changing nothing.

        Raises:
            ServiceError: Nobody knows just now.
        """


class Ledger(Protocol):
    """What happened. All calls raise a `ServiceError` when it cannot be read just now."""

    async def find(self, request_id: str) -> OwnedReceipt | None:
        """Return one request's receipt, or None while it has no row."""

    async def summarize(self, account_id: str, *, key_id: str, from_day: str, to_day: str) -> Sequence[DayUsage]:
        """Return an account's sums by day and model, newest day first.

        Args:
            account_id: Whose.
            key_id: Only rows of this key; empty means of any.
            from_day: First day, `YYYY-MM-DD`.
            to_day: Last day; empty leaves that end open.
        """


class Receipts:
    """The handlers."""

    def __init__(self, principals: Authenticator, counters: Counters, ledger: Ledger, clock: Clock) -> None:
        """Answer those whom `principals` know from `counters` and `ledger`."""
        self._principals = principals
        self._counters = counters
        self._ledger = ledger
        self._clock = clock

    async def key(self, request: Request) -> Response:
        """`GET /api/v1/key`: today's slots of the key that asks."""
        principal = await self._principal(request)
        today = await self._counters.status(principal)
        facts = {
            "object": "key",
            "id": principal.key_id,
            "limit": today.limit,
            "used": today.charged,
            "held": today.held,
            "remaining": today.remaining,
            "resets_at": iso_time(today.reset_at),
            "reset_in_seconds": max(0, math.ceil(today.reset_at - self._clock.now())),
        }
        return json_response(_encode(facts))

    async def usage(self, request: Request) -> Response:
        """`GET /api/v1/usage`: the account's sums by day and model, of the last 30 days unless told otherwise."""
        principal = await self._principal(request)
        from_day, to_day = self._span(request)
        key_id = request.query_params.get("key_id", "")
        if "key_id" in request.query_params and not is_id(key_id, Kind.KEY):
            raise _invalid("key_id", "expected the id of a key, `key_…`; the key itself must not stand in an address")
        days = await self._ledger.summarize(principal.account_id, key_id=key_id, from_day=from_day, to_day=to_day)
        return json_response(_encode({"object": "list", "data": days}))

    async def receipt(self, request: Request) -> Response:
        """`GET /api/v1/usage/{request_id}`: what became of one request of the account."""
        principal = await self._principal(request)
        request_id = request.path_params["request_id"]
        owned = await self._ledger.find(request_id) if is_id(request_id, Kind.REQUEST) else None
        if owned is None or owned.account_id != principal.account_id:
            message = (
                f"No request `{redacted(request_id)}` of this account is recorded. A request has a record once it was "
                "answered, or failed after it was sent to a model."
            )
            raise NotFound(message, metadata={"param": "request_id", "code": "request_not_found"})
        return json_response(_encode(owned.receipt))

    async def _principal(self, request: Request) -> Principal:
        return await self._principals.authenticate(bearer_token(request), address=client_address(request))

    def _span(self, request: Request) -> tuple[str, str]:
        """Return the first day and the last; the last may stay open, as the day is Redis' to tell and not ours."""
        first, last = _day(request, "from"), _day(request, "to")
        if first is None:
            end = last or datetime.fromtimestamp(self._clock.now(), UTC).date()
            first = date.fromordinal(max(1, end.toordinal() - (_DAYS - 1)))
        if last is not None and last < first:
            raise _invalid("from", "expected a day that is not after `to`")
        return first.isoformat(), last.isoformat() if last else ""


def iso_time(seconds: float) -> str:
    """Return a Unix time as ISO 8601 in UTC, with milliseconds where there are any."""
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
    return InvalidRequest(f"Invalid `{param}`: {problem}.", metadata={"param": param})
