"""State of a request in progress, from which its ledger row is made."""

from collections.abc import Sequence
from functools import reduce
from operator import add

from services.common.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ServiceError,
    Throttled,
    TooLarge,
    Unavailable,
)
from services.common.prices import PricedCall, Prices
from services.common.runtime.clock import Clock
from services.inference.chat import CallContext, ChatCall, Outcome, Usage
from services.inference.ledger.users import UserDigests
from services.inference.ledger.writer import LedgerRow

_REFUSALS = (InvalidRequest, NotFound, PermissionDenied, TooLarge, Throttled)


class CallerLeft(Unavailable):
    """The caller disconnected before Groq was called."""

    default_reason = "client_left"

    def __init__(self) -> None:
        super().__init__("The client closed the connection before the model was called.")


class RequestRecord:
    """The progress of one request.

    Attributes:
        call: The chat request.
        stream: Whether the answer is streamed.
        started: Monotonic time of the arrival.
        abandoned: Why the caller no longer waits: `CLIENT_LEFT`, or `TIMED_OUT` after a time-out error; None while it
            waits.
        is_waiting: Whether no call to Groq is in progress: before the first call, or between two calls.
        attempts: Number of calls made to Groq.
        upstream_model: Model of the last call to Groq.
        upstream_id: Groq's id of the last call; empty until it is known.
        body_bytes: Size of the last request to Groq.
        queue_seconds: Time that the request waited in the queue for Groq.
    """

    def __init__(
        self,
        call: ChatCall,
        context: CallContext,
        *,
        clock: Clock,
        prices: Prices,
        stream: bool,
        users: UserDigests | None = None,
    ) -> None:
        """Create the record of a request that is arriving now."""
        self.call = call
        self.stream = stream
        self.started = clock.monotonic()
        self.abandoned: Outcome | None = None
        self.is_waiting = True
        self.attempts = 0
        self.upstream_model = call.model
        self.upstream_id = ""
        self.body_bytes = 0
        self._failed: list[tuple[str, Usage]] = []
        self._prices = prices
        self._users = users
        self.queue_seconds = 0.0
        self._context = context
        self._clock = clock
        self._first_token_ms = 0

    @property
    def completion_id(self) -> str:
        """The answer's id, derived from the request id."""
        return "chatcmpl-" + self._context.request_id.removeprefix("req_")

    @property
    def account_id(self) -> str:
        """Id of the account; empty for a direct caller."""
        return self._context.account_id

    @property
    def weight(self) -> int:
        """Share of Groq's allowance that the account gets, relative to others."""
        return self._context.weight

    @property
    def models_permitted(self) -> tuple[str, ...]:
        """Models permitted to the API key, by name or as patterns with `*`; empty permits all."""
        return self._context.models

    def abandon(self, outcome: Outcome) -> None:
        """Record that the caller no longer waits; the first reason is kept."""
        self.abandoned = self.abandoned or outcome

    def begin_call(self, upstream_model: str) -> None:
        """Record a call to Groq.

        Raises:
            CallerLeft: The caller no longer waits.
        """
        if self.abandoned:
            raise CallerLeft
        self.is_waiting = False
        self.attempts += 1
        self.upstream_model = upstream_model
        self.upstream_id = ""

    def add_failed_attempt(self, upstream_model: str, usage: Usage) -> None:
        """Add the usage of a failed call, which Groq bills like that of the last one."""
        self._failed.append((upstream_model, usage))

    def mark_first_token(self) -> None:
        """Record the time of the first output; later calls have no effect."""
        self._first_token_ms = self._first_token_ms or self._age_ms()

    def answered_row(self, usage: Usage) -> LedgerRow:
        """Return the row of a request that Groq answered."""
        return self._row(self.abandoned or Outcome.ANSWERED, self._calls(usage), charged=True)

    def failed_row(self, error: ServiceError, usage: Usage | None) -> LedgerRow:
        """Return the row of a request that failed with `error`.

        Args:
            error: Cause of the failure.
            usage: Usage to charge; None if output had not begun, in which case the row is not charged.
        """
        outcome = outcome_of(error, after_output=usage is not None)
        reason = error.reason
        if self.abandoned is Outcome.TIMED_OUT:
            outcome, reason = Outcome.TIMED_OUT, "upstream_timeout"
        if usage is not None:
            return self._row(outcome, self._calls(usage), charged=True)
        return self._row(outcome, [], charged=False, reason=reason)

    def stopped_row(self, usage: Usage | None) -> LedgerRow:
        """Return the row of a request cancelled because the service stops; it is not charged.

        Args:
            usage: Usage so far; None if output had not begun.
        """
        outcome = Outcome.UPSTREAM_FAILED if usage is None else Outcome.CUT
        return self._row(outcome, self._calls(usage or Usage()), charged=False, reason="service_stopped")

    def _calls(self, usage: Usage) -> list[tuple[str, Usage]]:
        """Return the upstream model and the usage of each call, of which the last one has `usage`."""
        return [*self._failed, (self.upstream_model, usage)]

    def _cost(self, calls: Sequence[tuple[str, Usage]]) -> int | None:
        images = self.call.images if self._prices.has_image_prices else 0
        return self._prices.total_cost(PricedCall(model, usage, images=images) for model, usage in calls)

    def _row(
        self, outcome: Outcome, calls: Sequence[tuple[str, Usage]], *, charged: bool, reason: str = ""
    ) -> LedgerRow:
        context = self._context
        usages = [usage for _, usage in calls]
        usage = reduce(add, usages) if usages else Usage()
        cost = self._cost(calls)
        held = context.held if charged else None
        return LedgerRow(
            request_id=context.request_id,
            account_id=context.account_id,
            key_id=context.key_id,
            day=context.day,
            reserved_at=context.reserved_at,
            model=self.call.model,
            upstream_model=self.upstream_model,
            stream=self.stream,
            outcome=outcome,
            charged=charged,
            refund_reason=reason,
            usage=usage,
            upstream_id=self.upstream_id,
            attempts=self.attempts,
            time_to_first_token_ms=self._first_token_ms,
            duration_ms=self._age_ms(),
            surface=context.surface,
            cost=cost,
            charged_tokens=held.tokens if held and usage.total_tokens > held.tokens else None,
            charged_cost=held.cost if held and (cost is None or cost > held.cost) else None,
            quota_account_id=_other(context.quota_account_id, context.account_id),
            queue_ms=round(self.queue_seconds * 1000),
            user_digest=self._user_digest(),
            slot=context.slot,
        )

    def _user_digest(self) -> str | None:
        if self._users is None:
            return None
        return self._users.digest(self._context.account_id, self.call.members.get("user"))

    def _age_ms(self) -> int:
        return max(1, round((self._clock.monotonic() - self.started) * 1000))


def _other(quota_account_id: str, account_id: str) -> str | None:
    return quota_account_id if quota_account_id not in ("", account_id) else None


def outcome_of(error: ServiceError, *, after_output: bool) -> Outcome:
    """Return the outcome of a request that failed with `error`."""
    if isinstance(error, DeadlineExceeded):
        return Outcome.TIMED_OUT
    if isinstance(error, CallerLeft):
        return Outcome.CLIENT_LEFT
    if after_output:
        return Outcome.CUT
    return Outcome.REFUSED if isinstance(error, _REFUSALS) else Outcome.UPSTREAM_FAILED
