"""Prometheus metrics of the quota service."""

from prometheus_client import Counter, Gauge, Histogram

REDIS_UP = Gauge("stack_quota_redis_up", "Whether the last command to Redis succeeded: 1 or 0.")
RESERVATIONS = Counter("stack_quota_reservations_total", "Reservation attempts by outcome.", ["outcome"])
SETTLEMENTS = Counter("stack_quota_settlements_total", "Settlements by verdict.", ["verdict"])
BATCH_ITEMS = Histogram(
    "stack_quota_batch_items", "Items in one RPC.", ["rpc"], buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500)
)
ENTRIES_UNREADABLE = Counter(
    "stack_quota_entries_unreadable_total",
    "Redis commands that failed because an entry has a type or value that this service never writes.",
)
OLDEST_HOLD = Gauge(
    "stack_quota_oldest_hold_age_seconds",
    "Age of the oldest hold at the last comparison of counters and ledger; 0 without holds.",
)
CLOCK_STEP = Gauge(
    "stack_quota_clock_step_seconds",
    "Size of the step of Redis' clock that the service is waiting out; 0 without a step.",
)
DRIFT = Gauge(
    "stack_quota_drift_key_days",
    "Key days whose counter and ledger have differed for longer than a hold can live; must be 0.",
    ["kind"],
)
ROUNDS_FAILED = Counter(
    "stack_quota_rounds_failed_total", "Sweep or reconciliation rounds that failed with an unexpected error."
)
SWEPT = Counter(
    "stack_quota_holds_swept_total", "Overdue holds closed by the sweeper, by the ledger's verdict.", ["verdict"]
)
COUNTERS_REPAIRED = Counter(
    "stack_quota_counters_repaired_total",
    "Charges lost by Redis and restored by reconciliation, of keys and of accounts.",
)
VERIFIED_AT = Gauge(
    "stack_quota_verified_timestamp_seconds",
    "Time of the last comparison of counters and ledger, which set the drift.",
)
