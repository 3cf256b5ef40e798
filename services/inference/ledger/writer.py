"""Writer of the usage ledger: one row for each request, committed in groups, idempotent by request id."""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.common.concurrency.batch import Batcher
from services.common.concurrency.fixed_timeout import FixedTimeout
from services.common.errors import Unavailable
from services.common.limits import Slot, Unit
from services.common.surface import Surface
from services.common.telemetry import tracing
from services.common.verdict import RELEASED, Amounts, RowVerdict, Verdict
from services.inference import metrics
from services.inference.chat import CallContext, Outcome, Usage
from services.inference.ledger.reports import Report, ReportQuery

_log = logging.getLogger(__name__)
_ROWS_IN_A_GROUP_MAX = 200
_RETRY_SECONDS = 0.25
_WARNED_MODELS_MAX = 100


@dataclass(slots=True)
class LedgerRow:
    """A ledger row: a request with its usage and outcome."""

    request_id: str
    account_id: str
    key_id: str
    """Empty for a direct caller, whose rows do not count against a key."""
    day: str
    """UTC date of the reserve, `YYYY-MM-DD`."""
    reserved_at: float
    """Unix seconds."""
    model: str
    """Requested model."""
    upstream_model: str
    """Model of the last call to Groq."""
    stream: bool
    outcome: Outcome
    charged: bool
    refund_reason: str
    """Why the request is not charged; empty if it is."""
    usage: Usage
    upstream_id: str
    """Groq's request id; empty if Groq sent none."""
    attempts: int
    """Number of calls made to Groq."""
    time_to_first_token_ms: int
    """0 without output."""
    duration_ms: int
    surface: Surface | None
    """None for a direct caller, and if it is not known."""
    cost: int | None
    """Microdollars, by the prices in force when the request ended, whether it is charged or not. None if a model that
    it used has no price, if its outcome is unknown, and in rows of versions that did not record it."""
    queue_ms: int | None = None
    """How long the request waited in the queue for Groq; None in rows of versions that did not record it, and if the
    request is `unknown`."""
    charged_tokens: int | None = None
    """Tokens that count against limits, where Groq counted more than quota held; None means all."""
    charged_cost: int | None = None
    """Cost that counts against limits, where it is not known or more than quota held; None means all."""
    quota_account_id: str | None = None
    """Account under which quota counts the request; None if it is `account_id`."""
    user_digest: str | None = None
    """Keyed digest of the client's `user`; None without one."""
    slot: Slot | None = None
    """Place of the request among those of its tightest limit in requests per day; None if it is not known."""

    @property
    def amounts(self) -> Amounts:
        """What counts against limits, if the row is charged."""
        tokens = self.usage.total_tokens if self.charged_tokens is None else self.charged_tokens
        return Amounts(tokens, (self.cost or 0) if self.charged_cost is None else self.charged_cost)


@dataclass(frozen=True, slots=True)
class ChargedSum:
    """A sum over the charged rows of a key, or of an account. It is 0 without either."""

    key_id: str
    """Empty for the sum of an account."""
    account_id: str
    """The account under which quota counts; empty for all rows of the key."""
    unit: Unit
    from_day: str
    """First day, `YYYY-MM-DD`."""
    to_day: str
    """Last day, `YYYY-MM-DD`."""


@dataclass(frozen=True, slots=True)
class UsageSummary:
    """Sums of the rows of one day and model, and of one surface if requested."""

    day: str
    model: str
    charged_requests: int
    released_requests: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    surface: Surface | None = None
    """None if it is not known, or if the sums are not by surface."""
    cost: int | None = None
    """Microdollars of the rows that have a cost; None if none has one."""
    hour: datetime | None = None
    """Beginning of the hour, if the sums are by hour."""
    user_digest: str = ""
    """Keyed digest of the client's `user`, or `other`, if the sums are by user."""


@dataclass(frozen=True, slots=True)
class AccountUsage:
    """Sums of the rows of one account."""

    account_id: str
    charged_requests: int
    released_requests: int
    total_tokens: int
    cost: int | None = None
    """Microdollars of the rows that have a cost; None if none has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestsPage:
    """A request for a page of an account's rows, newest first by request id."""

    account_id: str
    key_id: str = ""
    """Only rows of this key; empty means all keys."""
    outcome: Outcome | None = None
    """Only rows with this outcome; None means all outcomes."""
    surface: Surface | None = None
    """Only rows of this surface; None means all rows."""
    model: str = ""
    """Only rows of this requested model; empty means all models."""
    from_day: str = ""
    """First day, `YYYY-MM-DD`; empty means no lower bound."""
    to_day: str = ""
    """Last day, `YYYY-MM-DD`; empty means no upper bound."""
    start: float | None = None
    """Only rows reserved from this time on, in Unix seconds; None means no lower bound."""
    end: float | None = None
    """Only rows reserved before this time; None means no upper bound."""
    ended_from: float | None = None
    """Only rows of requests that ended from this time on; None means all."""
    before: str = ""
    """Only rows with a smaller request id; empty starts with the newest."""
    rows_max: int
    """Maximum number of rows."""


class LedgerStore(Protocol):
    """Port to the database. All methods raise `Unavailable` when it cannot be reached."""

    async def insert(self, rows: Sequence[LedgerRow]) -> list[Verdict]:
        """Commit rows, all or none, and return the stored verdicts in order.

        A row whose request id already exists changes nothing, unless the existing row is `unknown`. That row gets the
        usage and the outcome but stays uncharged, since the sweeper's verdict is final.
        """

    async def close_unknown(self, contexts: Sequence[CallContext]) -> list[RowVerdict]:
        """Return the verdict of each request, in order; insert an uncharged `unknown` row where there is none."""

    async def resolve_abandoned(self, requests: Sequence[tuple[str, Outcome | None]]) -> list[RowVerdict | None]:
        """Return the verdict of each request, in order; None for a request without a row.

        A row with the outcome `answered` or `client_left` gets the outcome given with its request id, unless that is
        None.
        """

    async def count_charged(
        self,
        key_days: Sequence[tuple[str, str]],
        *,
        reserved_before: float | None = None,
        excluded: Sequence[str] = (),
    ) -> list[int]:
        """Return the number of charged rows of each (key id, day), in order.

        Args:
            key_days: Key ids and days to count.
            reserved_before: Count only rows reserved before this time, in Unix seconds; None counts all.
            excluded: Request ids whose rows are not counted.
        """

    async def count_charged_of_accounts(
        self,
        account_days: Sequence[tuple[str, str]],
        *,
        reserved_before: float | None = None,
        excluded: Sequence[str] = (),
    ) -> list[int]:
        """Return the number of charged rows that quota counts under each (account id, day); see `count_charged`."""

    async def sum_charged(
        self, sums: Sequence[ChargedSum], *, reserved_before: float | None = None, excluded: Sequence[str] = ()
    ) -> list[int]:
        """Return sums over charged rows, in order; see `count_charged`. A sum of requests counts rows."""

    async def find(self, request_id: str) -> LedgerRow | None:
        """Return a row, or None if there is none."""

    async def summarize(
        self,
        key_id: str,
        *,
        account_id: str,
        from_day: str,
        to_day: str,
        by_surface: bool = False,
        outcome: Outcome | None = None,
        surface: Surface | None = None,
    ) -> list[UsageSummary]:
        """Return sums by day and model, newest day first.

        Args:
            key_id: Only rows of this key; empty means all keys.
            account_id: Only rows of this account; empty means all accounts.
            from_day: First day, `YYYY-MM-DD`; empty means no lower bound.
            to_day: Last day, `YYYY-MM-DD`; empty means no upper bound.
            by_surface: Whether to sum the rows of each surface separately.
            outcome: Only rows with this outcome; None means all.
            surface: Only rows of this surface; None means all.
        """

    async def summarize_hours(self, key_id: str, *, account_id: str, from_day: str, to_day: str) -> list[UsageSummary]:
        """Return sums by hour and model, newest hour first, of five weeks; see `summarize`."""

    async def summarize_users(self, account_id: str, *, from_day: str, to_day: str) -> list[UsageSummary]:
        """Return sums by day and user of an account's requests with a user, newest day first, without a model."""

    async def list_requests(self, page: RequestsPage) -> list[LedgerRow]:
        """Return a page of rows; a page with fewer than `rows_max` rows is the last one."""

    async def scan_requests(self, page: RequestsPage, *, scan_max: int) -> tuple[list[LedgerRow], str]:
        """Return the rows of a page among the next `scan_max`, and the `before` of the next page; empty after the last.

        Unlike `list_requests`, it takes a bounded time however few rows match.
        """

    async def report(self, query: ReportQuery) -> Report:
        """Return sums, and latencies if the query asks for them."""

    async def last_uses(self, key_ids: Sequence[str]) -> list[float | None]:
        """Return the reserve time of each key's last request, in order; None for a key without requests.

        Of a key whose rows were removed, it is the beginning of the day.
        """


class Ledger:
    """Writes rows in groups and returns their verdicts once committed."""

    def __init__(self, store: LedgerStore, *, wait_seconds: float, rows_max: int) -> None:
        """Create a ledger.

        Args:
            store: Store of the rows.
            wait_seconds: Maximum wait for a commit. After it, the row stays queued and is retried.
            rows_max: Maximum number of waiting rows; at this number, new requests are refused.
        """
        self._store = store
        self._slow_commits: FixedTimeout[asyncio.Future[Verdict | None]] = FixedTimeout(wait_seconds, _end_wait)
        self._rows_max = rows_max
        # One batch at a time, so that the next group collects while the database commits.
        self._groups: Batcher[LedgerRow, Verdict | None] = Batcher(
            self._commit, name="rows", max_items=_ROWS_IN_A_GROUP_MAX, max_concurrent_batches=1
        )
        self._models_without_price: set[str] = set()
        metrics.LEDGER_LAG.set_function(lambda: float(self._groups.load))

    def check_room(self) -> None:
        """Check that there is room for another request's row.

        Raises:
            Unavailable: The maximum number of rows is waiting for the database.
        """
        if self._groups.load >= self._rows_max:
            raise Unavailable("The usage ledger is unavailable. Try again in a moment.", reason="ledger_unavailable")

    async def record(self, row: LedgerRow) -> RowVerdict | None:
        """Write a row and return its verdict once it is committed.

        Returns None if the commit takes longer than `wait_seconds`, in which case the row is retried until it is
        written, or if the database rejects the row itself, in which case the row is lost. Other rows are not affected.
        """
        _trace(row)
        commit: asyncio.Future[Verdict | None] = self._groups.send(row)
        self._slow_commits.watch(commit)
        try:
            verdict = await commit
        except Exception as exc:  # noqa: BLE001 - the answer must still be sent; the sweeper closes the request
            metrics.LEDGER_ROWS_REFUSED.inc()
            _log.error(
                "The database rejected a ledger row. The request will be closed as unknown.",
                extra={"request_id": row.request_id},
                exc_info=exc,
            )
            return None
        finally:
            self._slow_commits.forget(commit)
        if verdict is None:
            _log.warning("The database is slow; a ledger row is waiting.", extra={"request_id": row.request_id})
            return None
        return RowVerdict(Verdict.CHARGED, row.amounts) if verdict is Verdict.CHARGED else RELEASED

    async def close(self, *, timeout_seconds: float) -> None:
        """Write the waiting rows for at most `timeout_seconds`, then log the remaining ones as lost."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._groups.drain()
        except TimeoutError:
            _log.error(
                "Ledger rows were lost because the database did not recover before shutdown.",
                extra={"rows": self._groups.load},
            )

    async def _commit(self, rows: Sequence[LedgerRow]) -> Sequence[Verdict]:
        metrics.LEDGER_GROUP_ROWS.observe(len(rows))
        while True:
            try:
                with metrics.LEDGER_COMMIT_SECONDS.time(), tracing.span("commit", {"stack.rows": len(rows)}):
                    verdicts = await self._store.insert(rows)
                _count(rows)
                self._warn_about_prices(rows)
                _count_rows_after_close(rows, verdicts)
                return verdicts
            except Unavailable as exc:
                metrics.LEDGER_FAILURES.inc()
                _log.warning(
                    "The ledger's database is unavailable. Retrying.",
                    extra={"rows": len(rows), "error": str(exc.__cause__)},
                )
                await asyncio.sleep(_RETRY_SECONDS)

    def _warn_about_prices(self, rows: Sequence[LedgerRow]) -> None:
        """Log each model without a price once. A budget cannot limit requests without a cost."""
        models = {row.upstream_model for row in rows if row.cost is None} - self._models_without_price
        for model in sorted(models)[: _WARNED_MODELS_MAX - len(self._models_without_price)]:
            self._models_without_price.add(model)
            message = "A model has no price, so its requests have no cost. Add it, or `*`, to PRICES_FILE."
            _log.warning(message, extra={"model": model})


def _end_wait(commit: "asyncio.Future[Verdict | None]") -> None:
    """Let a request end before its row is committed."""
    if not commit.done():
        commit.set_result(None)


def _count(rows: Sequence[LedgerRow]) -> None:
    for (outcome, charged), count in Counter((row.outcome, row.charged) for row in rows).items():
        metrics.chats(outcome, charged).inc(count)
    for row in rows:
        metrics.CHAT_SECONDS.observe(row.duration_ms / 1000)
        if row.time_to_first_token_ms:
            metrics.FIRST_TOKEN_SECONDS.observe(row.time_to_first_token_ms / 1000)
    metrics.count_tokens([row.usage for row in rows])
    metrics.count_costs([row.cost for row in rows])


def _trace(row: LedgerRow) -> None:
    if not tracing.is_on():
        return
    tracing.note(
        {
            "stack.request_id": row.request_id,
            "stack.outcome": row.outcome.value,
            "stack.charged": row.charged,
            "gen_ai.usage.input_tokens": row.usage.prompt_tokens,
            "gen_ai.usage.output_tokens": row.usage.completion_tokens,
        }
    )


def _count_rows_after_close(rows: Sequence[LedgerRow], verdicts: Sequence[Verdict]) -> None:
    for row, verdict in zip(rows, verdicts, strict=True):
        if row.charged and verdict is Verdict.RELEASED:
            metrics.ROWS_AFTER_CLOSE.inc()
            _log.warning(
                "An answer was recorded after the sweeper had closed its request. It stays uncharged.",
                extra={"request_id": row.request_id},
            )
