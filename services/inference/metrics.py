"""What an operator watches of inference."""

from collections.abc import Iterable, Sequence
from functools import cache, partial
from typing import Protocol

from prometheus_client import Counter, Gauge, Histogram

from services.inference.chat import Outcome, Usage

_WAITS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 120)

CHATS = Counter("stack_chats_total", "Chat requests that got a ledger row, by how they ended.", ["outcome", "charged"])
CHAT_SECONDS = Histogram(
    "stack_chat_duration_seconds", "Time from a chat's arrival to the end of Groq's answer.", buckets=_WAITS
)
FIRST_TOKEN_SECONDS = Histogram(
    "stack_time_to_first_token_seconds", "Time from a chat's arrival to the first output.", buckets=_WAITS
)
TOKENS = Counter("stack_tokens_total", "Tokens on ledger rows.", ["kind"])
UPSTREAM_CALLS = Counter("stack_upstream_calls_total", "Calls to Groq, by the number of the key.", ["key", "result"])
UPSTREAM_KEY_STATE = Gauge(
    "stack_upstream_key_usable",
    "Whether a Groq key is used: 1, or 0 while it is in quarantine because Groq refused it.",
    ["key"],
)
UPSTREAM_COOLDOWNS = Gauge(
    "stack_upstream_key_rests", "Models for which a Groq key cools down or has an open circuit.", ["key"]
)
IMPLAUSIBLE_COUNTS = Counter(
    "stack_upstream_counts_implausible_total", "Token counts from Groq that were above a billion and are lowered to it."
)
UPSTREAM_KEY_CHECK = Gauge(
    "stack_upstream_key_check",
    "What Groq said to a key when it was last checked: 1 for that state, 0 for the others.",
    ["key", "state"],
)
LEDGER_LAG = Gauge("stack_ledger_rows_waiting", "Rows that wait for the database; more than a moment's are a lag.")
LEDGER_GROUP_ROWS = Histogram(
    "stack_ledger_group_rows", "Rows committed together.", buckets=(1, 2, 5, 10, 20, 50, 100, 200)
)
LEDGER_COMMIT_SECONDS = Histogram(
    "stack_ledger_commit_seconds",
    "Time that a commit took.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
LEDGER_FAILURES = Counter("stack_ledger_commit_failures_total", "Commits that failed and were tried again.")
LEDGER_ROWS_REFUSED = Counter(
    "stack_ledger_rows_refused_total", "Rows that the database refused; the sweeper closes their requests as unknown."
)
LATE_ROWS = Counter(
    "stack_ledger_late_rows_total",
    "Answers whose row came after the sweeper had closed the request as unknown; they stay uncharged.",
)


class KeyStates(Protocol):
    """What is known of the operator's Groq keys."""

    def __len__(self) -> int:
        """Return how many keys there are."""

    def is_accepted(self, key: int) -> bool:
        """Return whether a key is not in quarantine."""

    def cooling_models(self, key: int) -> int:
        """Return for how many models a key cools down or has an open circuit."""


def watch_keys(keys: KeyStates) -> None:
    """Read the state of each key whenever the metrics are read; keys are numbered from 1, as in the settings."""
    for key in range(len(keys)):
        name = str(key + 1)
        UPSTREAM_KEY_STATE.labels(name).set_function(partial(_is_accepted, keys, key))
        UPSTREAM_COOLDOWNS.labels(name).set_function(partial(keys.cooling_models, key))


def note_key_check(key: int, state: str, states: Iterable[str]) -> None:
    """Show the state of a key, out of all states; `key` is its index."""
    for one in states:
        UPSTREAM_KEY_CHECK.labels(str(key + 1), one).set(one == state)


def _is_accepted(keys: KeyStates, key: int) -> float:
    return float(keys.is_accepted(key))


# Looking a label up costs ten times what counting does.
_TOKENS = {kind: TOKENS.labels(kind) for kind in ("prompt", "completion", "cached", "reasoning")}


@cache
def chats(outcome: Outcome, charged: bool) -> Counter:
    """Return the counter of rows that ended so."""
    return CHATS.labels(outcome.value, "true" if charged else "false")


@cache
def upstream_calls(key: int, result: str) -> Counter:
    """Return the counter of a key's calls with a result of `CallResult`; `key` is its index."""
    return UPSTREAM_CALLS.labels(str(key + 1), result)


def count_tokens(usages: Sequence[Usage]) -> None:
    """Count the tokens of rows."""
    _TOKENS["prompt"].inc(sum(usage.prompt_tokens for usage in usages))
    _TOKENS["completion"].inc(sum(usage.completion_tokens for usage in usages))
    _TOKENS["cached"].inc(sum(usage.cached_tokens for usage in usages))
    _TOKENS["reasoning"].inc(sum(usage.reasoning_tokens for usage in usages))
