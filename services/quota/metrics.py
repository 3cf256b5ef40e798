"""What an operator watches of quota."""

from prometheus_client import Counter, Gauge, Histogram

REDIS_UP = Gauge("stack_quota_redis_up", "Whether Redis answered when it was last asked: 1, else 0.")
RESERVATIONS = Counter("stack_quota_reservations_total", "Wishes for a slot, by what came of them.", ["outcome"])
SETTLEMENTS = Counter("stack_quota_settlements_total", "Holds closed by their verdict.", ["verdict"])
BATCH_ITEMS = Histogram(
    "stack_quota_batch_items", "Items that travelled in one RPC.", ["rpc"], buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500)
)
ENTRIES_UNREADABLE = Counter(
    "stack_quota_entries_unreadable_total",
    "Commands that failed on one entry in Redis because it holds something that this service never writes.",
)
OLDEST_HOLD = Gauge(
    "stack_quota_oldest_hold_age_seconds",
    "Age of the oldest hold when counters and ledger were last compared; 0 when there was none.",
)
CLOCK_STEP = Gauge(
    "stack_quota_clock_step_seconds",
    "How far Redis' clock stepped from where a steady one would be, while that is waited out; 0 otherwise.",
)
DRIFT = Gauge(
    "stack_quota_drift_key_days",
    "Keys' days on which counters and ledger differ for longer than a hold lives; must be 0.",
    ["kind"],
)
ROUNDS_FAILED = Counter(
    "stack_quota_rounds_failed_total", "Rounds of sweeping or reconciling that ended with an unexpected error."
)
SWEPT = Counter("stack_quota_holds_swept_total", "Overdue holds closed by the ledger's word.", ["verdict"])
COUNTERS_REPAIRED = Counter(
    "stack_quota_charges_raised_total", "Charges that Redis had lost and reconciliation restored."
)
VERIFIED_AT = Gauge(
    "stack_quota_verified_timestamp_seconds",
    "When counters and ledger were last compared; the drift is as old as this.",
)
