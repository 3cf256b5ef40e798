"""Schema of the usage ledger."""

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table, text

metadata = MetaData()

usage_ledger = Table(
    "usage_ledger",
    metadata,
    Column("request_id", String(64), primary_key=True),
    Column("account_id", String(64), nullable=False),
    Column("key_id", String(64), nullable=False),
    # ISO dates sort correctly as text, which both databases store the same way.
    Column("day", String(10), nullable=False),
    Column("reserved_at", Float(53), nullable=False),
    Column("model", String(256), nullable=False),
    Column("upstream_model", String(256), nullable=False),
    Column("stream", Boolean, nullable=False),
    Column("outcome", String(32), nullable=False),
    Column("charged", Boolean, nullable=False),
    Column("refund_reason", String(128), nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("total_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("usage_source", String(16), nullable=False),
    Column("upstream_id", String(128), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("time_to_first_token_ms", BigInteger, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    # Null for direct callers, if it is not known, and in rows of versions that did not record it.
    Column("surface", String(32), nullable=True),
    # Microdollars, by the prices in force when the request ended. Null if a model that it used has no price, if the
    # outcome is unknown, and in rows of versions that did not record it.
    Column("cost", BigInteger, nullable=True),
    Column("queue_ms", BigInteger, nullable=True),
    # What counts against limits, where Groq counted more than was held or the cost is not known. Null means all tokens,
    # and the cost.
    Column("charged_tokens", BigInteger, nullable=True),
    Column("charged_cost", BigInteger, nullable=True),
    # Account under which quota counts the request: a deleted one whose counts `account_id` continues. Usually null.
    Column("quota_account_id", String(64), nullable=True),
    # Keyed digest of the client's `user`. Null without one, and in rows of versions that did not record it.
    Column("user_digest", String(32), nullable=True),
    # Null in rows from before the roll-ups (rollup_tables.py), which the backfill adds to them; else true. Postgres has
    # a default and SQLite a trigger for rows of the previous version.
    Column("is_rolled_up", Boolean, nullable=True),
    # Place among the requests of the tightest limit in requests per day, and that limit. Null where it is not known.
    Column("slot_number", BigInteger, nullable=True),
    Column("slot_limit", BigInteger, nullable=True),
    Column("slot_scope", String(16), nullable=True),
    # Covering index of CountCharged, from which quota initialises its counters.
    Index("ix_usage_ledger_key_day", "key_id", "day", "charged", "reserved_at"),
    # Covering index of SummarizeUsage, and of the sums of CountCharged. Reading an account's rows, which are spread
    # over many pages, took thirty times as long among ten million rows (docs/benchmarks/growth.md).
    Index(
        "ix_usage_ledger_account_sums",
        *("account_id", "day", "model", "key_id", "charged"),
        *("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens"),
        *("cost", "charged_tokens", "charged_cost", "reserved_at"),
    ),
    # Index of CountCharged, for the few rows that count under another account.
    Index(
        "ix_usage_ledger_quota_account_day",
        *("quota_account_id", "day"),
        sqlite_where=text("quota_account_id IS NOT NULL"),
        postgresql_where=text("quota_account_id IS NOT NULL"),
    ),
    # Indexes of ListRequests, by account and by key, newest first.
    Index("ix_usage_ledger_account_request", "account_id", "request_id"),
    Index("ix_usage_ledger_account_key_request", "account_id", "key_id", "request_id"),
    # Index of ListDayRequests. Rows are added at its end, so that it costs little. The condition holds for every row,
    # and keeps other queries away: Postgres would take this index for days since its last ANALYZE, of which it expects
    # no rows.
    Index(
        "ix_usage_ledger_day_request",
        *("day", "request_id"),
        sqlite_where=text("request_id >= ''"),
        postgresql_where=text("request_id >= ''"),
    ),
)

usage_webhook = Table(
    "usage_webhook",
    metadata,
    Column("account_id", String(64), primary_key=True),
    Column("id", String(64), nullable=False),
    Column("url", String(2048), nullable=False),
    # Encrypted under a receipt key.
    Column("secret", LargeBinary, nullable=False),
    # First day whose usage is not delivered yet.
    Column("next_day", String(10), nullable=False),
    # Null if the webhook is disabled after too many failures.
    Column("next_attempt_at", Float(53), nullable=True),
    Column("failures", BigInteger, nullable=False),
    Column("last_error", String(256), nullable=False),
    Index("ix_usage_webhook_next_attempt", "next_attempt_at"),
)

# Alerts for webhooks. A row stays for a while after its delivery, so that a repeated one is recognised.
webhook_alert = Table(
    "webhook_alert",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("account_id", String(64), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_at", Float(53), nullable=False),
    # Null if it was delivered or given up.
    Column("next_attempt_at", Float(53), nullable=True),
    Column("failures", BigInteger, nullable=False),
    Index("ix_webhook_alert_next_attempt", "next_attempt_at"),
    Index("ix_webhook_alert_account", "account_id", "created_at"),
)
