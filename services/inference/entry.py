"""What is learnt of a request on its way to becoming a ledger row."""

from services.common.clock import Clock
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
from services.inference.chat import ChatCall, Members, Outcome, RequestContext, Usage
from services.inference.ledger import LedgerRow

_REFUSALS = (InvalidRequest, NotFound, PermissionDenied, TooLarge, Throttled)


class CallerLeft(Unavailable):
    """The caller went away before Groq was asked; nobody hears of it but the ledger."""

    default_reason = "client_left"


class Entry:
    """What is learnt of a request on its way to becoming a ledger row."""

    def __init__(self, call: ChatCall, context: RequestContext, *, clock: Clock, stream: bool) -> None:
        """Begin at the request's arrival."""
        self.call = call
        self.stream = stream
        self.caller_left = False
        """The caller went away before the end."""
        self.is_given_up = False
        """The bound for reading on without a caller is reached."""
        self.upstream_model = call.model
        self.upstream_id = ""
        self.attempts = 0
        """Calls made to Groq."""
        self.prompt_characters = 0
        self._context = context
        self._clock = clock
        self.started = clock.monotonic()
        self._first_token_ms = 0

    @property
    def completion_id(self) -> str:
        """Our id of the answer, made from the request's."""
        return "chatcmpl-" + self._context.request_id.removeprefix("req_")

    @property
    def key_id(self) -> str:
        """The API key that asks; empty for a direct caller."""
        return self._context.key_id

    @property
    def models_permitted(self) -> tuple[str, ...]:
        """Patterns of the models that the API key may ask for; empty permits all."""
        return self._context.models

    def dispatch(self, upstream_model: str) -> None:
        """Note that Groq is asked."""
        self.attempts += 1
        self.upstream_model = upstream_model

    def mark_first_token(self) -> None:
        """Note that output has begun; later calls change nothing."""
        self._first_token_ms = self._first_token_ms or self._age_ms()

    def row(self, outcome: Outcome, usage: Usage, *, charged: bool, reason: str = "") -> LedgerRow:
        """Return the row for how the request ended; `reason` is why, when it is not charged."""
        context = self._context
        if outcome is Outcome.ANSWERED and self.caller_left:
            outcome = Outcome.CLIENT_LEFT
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
            refund_reason="" if charged else reason,
            usage=usage,
            upstream_id=self.upstream_id,
            attempts=self.attempts,
            time_to_first_token_ms=self._first_token_ms,
            duration_ms=self._age_ms(),
        )

    def _age_ms(self) -> int:
        return max(1, round((self._clock.monotonic() - self.started) * 1000))


def outcome_of(error: ServiceError, *, after_output: bool) -> Outcome:
    """Return how a request ended that failed with `error`."""
    if isinstance(error, DeadlineExceeded):
        return Outcome.TIMED_OUT
    if isinstance(error, CallerLeft):
        return Outcome.CLIENT_LEFT
    if after_output:
        return Outcome.CUT
    return Outcome.REFUSED if isinstance(error, _REFUSALS) else Outcome.UPSTREAM_FAILED


def usage_of(members: Members, entry: Entry) -> Usage:
    """Return the usage of an answer in one piece: Groq's count, or an estimate where it said none."""
    usage = members.get("usage")
    if isinstance(usage, dict):
        return Usage.reported(usage)
    characters = len(str(members.get("choices") or ""))
    return Usage.estimated(prompt_characters=entry.prompt_characters, pieces=max(1, characters // 4))
