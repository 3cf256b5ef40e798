"""What an operator watches of quota."""

from prometheus_client import Counter, Gauge

DRIFT = Gauge(
    "stack_quota_drift_key_days",
    "Keys' days on which counters and ledger differ for longer than a hold lives; must be 0.",
    ["kind"],
)
SWEPT = Counter("stack_quota_holds_swept_total", "Overdue holds closed by the ledger's word.", ["verdict"])
RAISED = Counter("stack_quota_charges_raised_total", "Charges that Redis had lost and reconciliation restored.")
VERIFIED_AT = Gauge(
    "stack_quota_verified_timestamp_seconds",
    "When counters and ledger were last compared; the drift is as old as this.",
)
