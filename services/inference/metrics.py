"""Prometheus metrics of the inference service."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Protocol

from prometheus_client import Counter, Gauge, Histogram, Metric

from services.inference.chat import Outcome, Usage

_DURATION_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 120)

CHATS = Counter("stack_chats_total", "Chat requests with a ledger row, by outcome.", ["outcome", "charged"])
CHAT_SECONDS = Histogram(
    "stack_chat_duration_seconds", "Time from a chat's arrival to the end of Groq's answer.", buckets=_DURATION_BUCKETS
)
FIRST_TOKEN_SECONDS = Histogram(
    "stack_time_to_first_token_seconds", "Time from a chat's arrival to the first output.", buckets=_DURATION_BUCKETS
)
TOKENS = Counter("stack_tokens_total", "Tokens in ledger rows.", ["kind"])
COST = Counter("stack_cost_microdollars_total", "Cost of ledger rows in microdollars.")
ROWS_WITHOUT_PRICE = Counter(
    "stack_ledger_rows_unpriced_total", "Ledger rows without a cost, because their model has no price."
)
UPSTREAM_CALLS = Counter("stack_upstream_calls_total", "Calls to Groq by key number and result.", ["key", "result"])
UPSTREAM_KEY_STATE = Gauge(
    "stack_upstream_key_usable",
    "Whether a Groq key is usable: 1, or 0 while it is quarantined because Groq rejected it.",
    ["key"],
)
UPSTREAM_COOLDOWNS = Gauge(
    "stack_upstream_key_cooldowns", "Models for which a Groq key is cooling down or has an open circuit.", ["key"]
)
QUEUE_REQUESTS = Gauge("stack_upstream_queue_requests", "Requests waiting in the queue for Groq.")
QUEUE_SECONDS = Histogram(
    "stack_upstream_queue_wait_seconds",
    "Time in the queue for Groq, of requests that were not sent at once.",
    buckets=(0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
QUEUE_REFUSED = Counter(
    "stack_upstream_queue_refused_total", "Requests that were not sent to Groq because they would have waited too long."
)


class _AllowanceGauge(Gauge):
    """A gauge whose values are read at each scrape, since they change with time."""

    read: Callable[[], Iterable[tuple[int, str, str, float]]] = tuple

    def collect(self) -> Iterable[Metric]:
        """Return the current values."""
        self.clear()
        for key, model, window, left in self.read():
            self.labels(str(key + 1), model, window).set(left)
        return super().collect()


ALLOWANCE_REMAINING = _AllowanceGauge(
    "stack_upstream_allowance_left",
    "What is left of a rate limit of Groq, in requests or tokens, by key number, model and window.",
    ["key", "model", "window"],
)
ALLOWANCE_SHARED = Gauge(
    "stack_upstream_allowance_shared",
    "Whether the view of Groq's rate limits is shared by all replicas: 1, or 0 while this replica uses its own.",
)
ALLOWANCE_CALLS = Counter(
    "stack_upstream_allowance_calls_total",
    "Calls to the Redis of Groq's rate limits: `acquire`, `admit` or `record`, by result.",
    ["call", "result"],
)
IMPLAUSIBLE_COUNTS = Counter(
    "stack_upstream_counts_implausible_total",
    "Token counts from Groq above one billion, which are capped at one billion.",
)
UPSTREAM_KEY_CHECK = Gauge(
    "stack_upstream_key_check",
    "Result of a Groq key's last check: 1 for its state, 0 for the others.",
    ["key", "state"],
)
LEDGER_LAG = Gauge("stack_ledger_rows_waiting", "Ledger rows waiting to be committed.")
LEDGER_GROUP_ROWS = Histogram(
    "stack_ledger_group_rows", "Ledger rows per commit.", buckets=(1, 2, 5, 10, 20, 50, 100, 200)
)
LEDGER_COMMIT_SECONDS = Histogram(
    "stack_ledger_commit_seconds",
    "Duration of a ledger commit.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
LEDGER_FAILURES = Counter("stack_ledger_commit_failures_total", "Ledger commits that failed and were retried.")
LEDGER_ROWS_REFUSED = Counter(
    "stack_ledger_rows_refused_total",
    "Ledger rows rejected by the database. The sweeper closes their requests as unknown.",
)
ROWS_AFTER_CLOSE = Counter(
    "stack_ledger_rows_after_close_total",
    "Answers recorded after the sweeper had closed their request as unknown; they stay uncharged.",
)
ROLLUP_LAG = Gauge(
    "stack_ledger_rollup_lag_seconds", "Time since this replica last found every delta folded into the roll-ups."
)
ROLLUP_BACKFILL = Gauge(
    "stack_ledger_rollup_backfill_ratio", "Share of the rows from before the roll-ups that the roll-ups contain."
)
LEDGER_ROWS_REMOVED = Counter("stack_ledger_rows_removed_total", "Ledger rows removed because of their age.")
STORED_RESPONSE_CALLS = Counter(
    "stack_stored_response_calls_total",
    "Calls to the Redis of stored responses: `check`, `store`, `get`, `delete` or `delete_account`, and of idempotency "
    "keys `claim` or `finish`, by result.",
    ["call", "result"],
)


WEBHOOK_ATTEMPTS = Counter(
    "stack_webhook_attempts_total",
    "Attempts to send a day's usage to a webhook, by result: `delivered`, `failed`, or `disabled` after too many.",
    ["result"],
)


class KeyStates(Protocol):
    """Port to the state of the operator's Groq keys. `key` is an index."""

    def __len__(self) -> int:
        """Return the number of keys."""

    def is_accepted(self, key: int) -> bool:
        """Return whether a key is not quarantined."""

    def cooling_models(self, key: int) -> int:
        """Return the number of models for which a key is cooling down or has an open circuit."""


def export_keys(keys: KeyStates) -> None:
    """Export the state of each key, read at each scrape. Keys are numbered from 1, in the order of the settings."""
    for key in range(len(keys)):
        name = str(key + 1)
        UPSTREAM_KEY_STATE.labels(name).set_function(partial(_is_accepted, keys, key))
        UPSTREAM_COOLDOWNS.labels(name).set_function(partial(keys.cooling_models, key))


def export_allowance(
    remaining: Callable[[], Iterable[tuple[int, str, str, float]]], is_shared: Callable[[], bool]
) -> None:
    """Export the view of Groq's rate limits, read at each scrape.

    Args:
        remaining: Returns the index of a key, a model, a window and what is left, for each known limit.
        is_shared: Returns whether all replicas share the view.
    """
    ALLOWANCE_REMAINING.read = remaining
    ALLOWANCE_SHARED.set_function(lambda: float(is_shared()))


def set_key_check(key: int, state: str, states: Iterable[str]) -> None:
    """Export the result of a key's check.

    Args:
        key: Index of the key.
        state: Current state.
        states: All possible states.
    """
    for candidate in states:
        UPSTREAM_KEY_CHECK.labels(str(key + 1), candidate).set(candidate == state)


def _is_accepted(keys: KeyStates, key: int) -> float:
    return float(keys.is_accepted(key))


# Bound once, since looking up a label takes ten times as long as incrementing.
_TOKENS = {kind: TOKENS.labels(kind) for kind in ("prompt", "completion", "cached", "reasoning")}


@cache
def chats(outcome: Outcome, charged: bool) -> Counter:
    """Return the counter of rows with an outcome."""
    return CHATS.labels(outcome.value, "true" if charged else "false")


@cache
def upstream_calls(key: int, result: str) -> Counter:
    """Return the counter of a key's calls with a result.

    Args:
        key: Index of the key.
        result: Value of a `CallResult`.
    """
    return UPSTREAM_CALLS.labels(str(key + 1), result)


def count_tokens(usages: Sequence[Usage]) -> None:
    """Add the tokens of rows to the counters."""
    _TOKENS["prompt"].inc(sum(usage.prompt_tokens for usage in usages))
    _TOKENS["completion"].inc(sum(usage.completion_tokens for usage in usages))
    _TOKENS["cached"].inc(sum(usage.cached_tokens for usage in usages))
    _TOKENS["reasoning"].inc(sum(usage.reasoning_tokens for usage in usages))


def count_costs(costs: Sequence[int | None]) -> None:
    """Add the costs of rows to the counters; None is a row whose model has no price."""
    priced = [cost for cost in costs if cost is not None]
    COST.inc(sum(priced))
    ROWS_WITHOUT_PRICE.inc(len(costs) - len(priced))
