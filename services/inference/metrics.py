"""What an operator watches of inference."""

from prometheus_client import Counter

LATE_ROWS = Counter(
    "stack_ledger_late_rows_total",
    "Answers whose row came after the sweeper had closed the request as unknown; they stay uncharged.",
)
