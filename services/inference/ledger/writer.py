"""The usage ledger: one row for each request that arrived here, committed in groups, idempotent by request id."""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.common.concurrency.batch import Batcher
from services.common.errors import Unavailable
from services.common.telemetry import tracing
from services.common.verdict import Verdict
from services.inference import metrics
from services.inference.chat import Outcome, RequestContext, Usage

_log = logging.getLogger(__name__)
_ROWS_IN_A_GROUP_MAX = 200
_RETRY_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One request: what it was, what it used and how it ended."""

    request_id: str
    account_id: str
    key_id: str
    """Empty for a direct caller; such rows count against no key."""
    day: str
    """UTC date of the reserve, `YYYY-MM-DD`."""
    reserved_at: float
    """Unix seconds."""
    model: str
    """As asked for."""
    upstream_model: str
    """As asked of Groq."""
    stream: bool
    outcome: Outcome
    charged: bool
    refund_reason: str
    """Why it does not count; empty when it does."""
    usage: Usage
    upstream_id: str
    """Groq's id; empty when it never said one."""
    attempts: int
    """Calls made to Groq."""
    time_to_first_token_ms: int
    """0 when there was no output."""
    duration_ms: int


@dataclass(frozen=True, slots=True)
class UsageSummary:
    """The sum of a key's rows of one day and model."""

    day: str
    model: str
    charged_requests: int
    released_requests: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    reasoning_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestsPage:
    """Which of an account's rows are asked for, newest first by request id."""

    account_id: str
    key_id: str = ""
    """Only rows of this key; empty means of any."""
    outcome: Outcome | None = None
    """Only rows that ended so; None means in any way."""
    from_day: str = ""
    """First day; empty leaves that end open."""
    to_day: str = ""
    """Last day; empty leaves that end open."""
    before: str = ""
    """Only rows whose request id is smaller; empty begins with the newest."""
    rows_max: int


class LedgerStore(Protocol):
    """Where rows are kept. All calls raise `Unavailable` when the database is away."""

    async def insert(self, rows: Sequence[LedgerRow]) -> list[Verdict]:
        """Commit rows, all or none; return what the ledger then says of each, in order.

        A row whose request id is there already changes nothing, but for an `unknown` row, which takes what was used and
        how it ended, and stays uncharged: the sweeper's verdict is final.
        """

    async def close_unknown(self, contexts: Sequence[RequestContext]) -> list[Verdict]:
        """Return the verdict of each request's row, in order; one without a row gets an `unknown`, uncharged one."""

    async def resolve_abandoned(self, requests: Sequence[tuple[str, Outcome | None]]) -> list[Verdict | None]:
        """Return the verdict of each request's row, in order; None for a request without a row.

        A row whose request was answered takes the outcome that comes with it: why the answer did not reach its client.
        """

    async def count_charged(
        self,
        key_days: Sequence[tuple[str, str]],
        *,
        reserved_before: float | None = None,
        excluded: Sequence[str] = (),
    ) -> list[int]:
        """Return the charged rows of each (key id, day), in order.

        Args:
            key_days: Whose rows are counted.
            reserved_before: Count only rows reserved before this time, in Unix seconds; None counts all.
            excluded: Ids of requests whose rows do not count.
        """

    async def find(self, request_id: str) -> LedgerRow | None:
        """Return one row, or None when there is none."""

    async def summarize(self, key_id: str, *, account_id: str, from_day: str, to_day: str) -> list[UsageSummary]:
        """Return sums by day and model, newest day first.

        Args:
            key_id: Only rows of this key; empty means of any.
            account_id: Only rows of this account; empty means of any.
            from_day: First day; empty leaves that end open.
            to_day: Last day; empty leaves that end open.
        """

    async def list_requests(self, page: RequestsPage) -> list[LedgerRow]:
        """Return a page of rows; fewer than asked for were the last."""

    async def last_uses(self, key_ids: Sequence[str]) -> list[float | None]:
        """Return when each key's latest request was reserved, in order; None for a key without a row."""


class Ledger:
    """Writes rows in groups and says whether they are committed."""

    def __init__(self, store: LedgerStore, *, wait_seconds: float, rows_max: int) -> None:
        """Write to `store`.

        Args:
            store: Where rows are kept.
            wait_seconds: Longest wait for a commit; the row is kept and retried after it.
            rows_max: Rows that may wait before new requests are refused.
        """
        self._store = store
        self._wait_seconds = wait_seconds
        self._rows_max = rows_max
        # One batch at a time: the database commits one group while the next one collects.
        self._groups = Batcher(self._commit, name="rows", max_items=_ROWS_IN_A_GROUP_MAX, max_concurrent_batches=1)
        metrics.LEDGER_LAG.set_function(lambda: float(self._groups.load))

    def check_room(self) -> None:
        """Let a new request in.

        Raises:
            Unavailable: So many rows wait for the database that no more may be added.
        """
        if self._groups.load >= self._rows_max:
            raise Unavailable("the usage ledger is away; try again", reason="ledger_unavailable")

    async def record(self, row: LedgerRow) -> Verdict | None:
        """Write a row and return its verdict once it is committed.

        Returns None when the commit takes longer than `wait_seconds`, and the row is retried until it is written; or
        when the database refuses the row itself, which loses it and affects no other row.
        """
        _note(row)
        commit = self._groups.send(row)
        done, _ = await asyncio.wait({commit}, timeout=self._wait_seconds)
        if not done:
            _log.warning("a row waits for the database", extra={"request_id": row.request_id})
            return None
        return self._result(row, commit)

    def _result(self, row: LedgerRow, commit: "asyncio.Future[Verdict]") -> Verdict | None:
        try:
            return commit.result()
        except Exception as exc:  # noqa: BLE001 - a defect of ours: the answer goes out, the sweeper closes the request
            metrics.LEDGER_ROWS_REFUSED.inc()
            _log.error("A row could not be written.", extra={"request_id": row.request_id}, exc_info=exc)
            return None

    async def close(self, *, timeout_seconds: float) -> None:
        """Write what waits, for at most `timeout_seconds`; what is left then is logged as lost."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._groups.drain()
        except TimeoutError:
            _log.error("rows lost: the database did not come back", extra={"rows": self._groups.load})

    async def _commit(self, rows: Sequence[LedgerRow]) -> Sequence[Verdict]:
        metrics.LEDGER_GROUP_ROWS.observe(len(rows))
        while True:
            try:
                with metrics.LEDGER_COMMIT_SECONDS.time(), tracing.span("commit", {"stack.rows": len(rows)}):
                    verdicts = await self._store.insert(rows)
                _count(rows)
                _count_late(rows, verdicts)
                return verdicts
            except Unavailable as exc:
                metrics.LEDGER_FAILURES.inc()
                _log.warning("the ledger is away", extra={"rows": len(rows), "error": str(exc.__cause__)})
                await asyncio.sleep(_RETRY_SECONDS)


def _count(rows: Sequence[LedgerRow]) -> None:
    for (outcome, charged), count in Counter((row.outcome, row.charged) for row in rows).items():
        metrics.chats(outcome, charged).inc(count)
    for row in rows:
        metrics.CHAT_SECONDS.observe(row.duration_ms / 1000)
        if row.time_to_first_token_ms:
            metrics.FIRST_TOKEN_SECONDS.observe(row.time_to_first_token_ms / 1000)
    metrics.count_tokens([row.usage for row in rows])


def _note(row: LedgerRow) -> None:
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


def _count_late(rows: Sequence[LedgerRow], verdicts: Sequence[Verdict]) -> None:
    for row, verdict in zip(rows, verdicts, strict=True):
        if row.charged and verdict is Verdict.RELEASED:
            metrics.LATE_ROWS.inc()
            _log.warning("a row came after the sweeper's verdict", extra={"request_id": row.request_id})
