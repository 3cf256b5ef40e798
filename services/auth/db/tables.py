"""Tables of the auth database."""

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)

metadata = MetaData()


class UTCDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC. SQLite stores no time zone, so it is added when a value is read."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert a value to UTC before it is stored."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return a stored value as an aware datetime in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_HAS_EXPIRY = text("expires_at IS NOT NULL AND revoked_at IS NULL")
_HAS_OWN_LIMIT = text("daily_limit IS NOT NULL AND revoked_at IS NULL")

plans = Table(
    "plans",
    metadata,
    Column("name", String(50), primary_key=True),
    Column("daily_limit", BigInteger, nullable=False),
    # Null means that the settings apply.
    Column("active_keys_max", Integer, nullable=True),
    Column("new_keys_per_day_max", Integer, nullable=True),
    # Requests a day of an account with all its keys. Null, as for plans of earlier versions, sets no limit.
    Column("account_daily_limit", BigInteger, nullable=True),
    # All other limits: a JSON array of texts such as `key:tokens:minute=6000`; null means none.
    Column("limits", Text, nullable=True),
    # Share of Groq's allowance relative to other accounts; null means 1.
    Column("weight", Integer, nullable=True),
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", String(30), primary_key=True),
    # For a deleted account, a unique placeholder that is not an address.
    Column("email", String(254), nullable=False, unique=True),
    Column("plan", ForeignKey("plans.name"), nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column("password_hash", String(256), nullable=True),
    Column("email_verified_at", UTCDateTime, nullable=True),
    Column("deleted_at", UTCDateTime, nullable=True),
    # Identity of the mailbox, from `identity_of`. Null for deleted accounts, and for accounts that a replica of schema
    # version 0002 created.
    Column("identity", String(254), nullable=True, index=True),
    # Id under which quota counts the account, if it continues the counts of a deleted one; null means its own id.
    Column("quota_account_id", String(30), nullable=True),
    # Time of the event or of the operator's call that set the plan; null if none has set it since the sign-up.
    Column("plan_set_at", UTCDateTime, nullable=True),
    # When the account got the role of operators; null if it does not have it.
    Column("operator_since", UTCDateTime, nullable=True),
    # When an operator suspended the account; null means that it is not suspended.
    Column("suspended_at", UTCDateTime, nullable=True),
    # Kinds of alerts that the owner wants by mail, with commas between them; null means all of them.
    Column("alert_mail", String(100), nullable=True),
    # As `alert_mail`, for the account's webhook; null means none.
    Column("alert_webhook", String(100), nullable=True),
)

# Alerts to owners, each of which is sent once.
alerts = Table(
    "alerts",
    metadata,
    Column("id", String(30), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    # Empty for a limit of the account.
    Column("key_id", String(30), nullable=False),
    Column("kind", String(20), nullable=False),
    # Name of the limit, such as `key:tokens:day`; empty for other kinds.
    Column("limit_name", String(40), nullable=False),
    # The day, month or expiry time for which there is one alert.
    Column("period", String(40), nullable=False),
    Column("created_at", UTCDateTime, nullable=False, index=True),
    Column("limit_value", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    # Whether inference must still get the alert for the account's webhook.
    Column("is_unsent", Boolean, nullable=False),
    UniqueConstraint("account_id", "key_id", "kind", "limit_name", "period", name="one_alert"),
    Index("ix_alerts_account_created", "account_id", "created_at"),
    Index("ix_alerts_unsent", "id", sqlite_where=text("is_unsent"), postgresql_where=text("is_unsent")),
)

# The run over all keys, which one gateway has at a time.
alert_runs = Table(
    "alert_runs",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("run_id", String(30), nullable=False),
    Column("started_at", UTCDateTime, nullable=False),
    Column("leased_until", UTCDateTime, nullable=False),
    # All keys that were used before this time have been checked.
    Column("checked_until", UTCDateTime, nullable=False),
    CheckConstraint("id = 1", name="one_run"),
)

# Ids of the plan events that were received, each of which is applied once.
plan_events = Table(
    "plan_events",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("expires_at", UTCDateTime, nullable=False, index=True),
)

# Deleted accounts whose counts an account with the same mailbox continues. The digest is keyed: no address is kept.
former_accounts = Table(
    "former_accounts",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("quota_account_id", String(30), nullable=False),
    Column("expires_at", UTCDateTime, nullable=False, index=True),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", String(30), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("created_at", UTCDateTime, nullable=False),
    Column("last_used_at", UTCDateTime, nullable=False),
    Column("expires_at", UTCDateTime, nullable=False, index=True),
    Column("address", String(64), nullable=False),
    # In the operators' console: id of the TOTP enrolment whose code was checked. Null for all other sessions.
    Column("operator_totp_id", String(30), nullable=True),
)

# Identities at identity providers, with which owners log in.
identities = Table(
    "identities",
    metadata,
    Column("id", String(30), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("provider", String(20), nullable=False),
    Column("issuer", String(1_024), nullable=False),
    Column("subject", String(255), nullable=False),
    # Address that the provider stated when the identity was linked, for the owner to recognise it; empty if none.
    Column("email", String(254), nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    UniqueConstraint("issuer", "subject", name="one_account"),
)

# TOTP secrets, encrypted under the pepper. One that is not enabled yet has no effect.
totp_secrets = Table(
    "totp_secrets",
    metadata,
    Column("account_id", ForeignKey("accounts.id"), primary_key=True),
    Column("id", String(30), nullable=False, unique=True),
    Column("sealed", String(200), nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column("enabled_at", UTCDateTime, nullable=True),
    # Latest time step whose code was used. Codes of it and of earlier steps are refused.
    Column("last_step", BigInteger, nullable=False),
)

# Unused recovery codes, as HMACs under the pepper.
recovery_codes = Table(
    "recovery_codes",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False, index=True),
)

one_time_tokens = Table(
    "one_time_tokens",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("purpose", String(20), nullable=False),
    # Null for an invitation, which is not tied to an account.
    Column("account_id", ForeignKey("accounts.id"), nullable=True, index=True),
    # Plan of an invitation.
    Column("plan", String(50), nullable=True),
    Column("expires_at", UTCDateTime, nullable=False, index=True),
)

# Queued e-mails. They contain no secret, because their text is generated when they are sent.
emails = Table(
    "emails",
    metadata,
    Column("id", String(30), primary_key=True),
    Column("topic", String(20), nullable=False),
    Column("email", String(254), nullable=False),
    # Account created by the sign-up.
    Column("account_id", String(30), nullable=True),
    # Actor of the request, for the audit log.
    Column("actor", String(80), nullable=False),
    Column("address", String(64), nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    # A sender claims an e-mail by setting this to a later time, so that no other sender takes it.
    Column("next_try_at", UTCDateTime, nullable=False, index=True),
    Column("tries", Integer, nullable=False),
    # The alert; null for other topics.
    Column("alert_id", String(30), nullable=True),
)

# Counters of the rate limiter. The subject is a digest, so that the table contains no IP or e-mail addresses.
throttles = Table(
    "throttles",
    metadata,
    Column("subject", String(64), primary_key=True),
    Column("tries", Integer, nullable=False),
    Column("window_ends_at", UTCDateTime, nullable=False, index=True),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(30), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("name", String(100), nullable=False),
    Column("prefix", String(12), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("pepper_id", String(12), nullable=False, index=True),
    Column("daily_limit", BigInteger, nullable=True),
    Column("created_at", UTCDateTime, nullable=False),
    Column("revoked_at", UTCDateTime, nullable=True),
    Column("expires_at", UTCDateTime, nullable=True),
    # JSON array of model names and patterns; null allows all models.
    Column("models", Text, nullable=True),
    # Id of the key that replaced this one in a rotation.
    Column("replaced_by", String(30), nullable=True),
    # Limits of the key that override its plan's, as in `plans.limits`; null means none.
    Column("limits", Text, nullable=True),
    # Whether automatic retries of SDKs get the answer of the request that they retry.
    Column("deduplicate_retries", Boolean, nullable=False, server_default=false()),
    # When the owner paused the key; null means that it is not paused.
    Column("paused_at", UTCDateTime, nullable=True),
    # Limits that the owner has set. They apply where they are below those of the key or its plan.
    Column("owner_daily_limit", BigInteger, nullable=True),
    Column("owner_limits", Text, nullable=True),
    # Revision of the key's latest change, read by WatchKeys.
    Column("revision", BigInteger, nullable=False, index=True),
)

# The keys with an expiry, of which some expire soon.
Index("ix_api_keys_expires_at", api_keys.c.expires_at, sqlite_where=_HAS_EXPIRY, postgresql_where=_HAS_EXPIRY)

# The keys with a limit of their own, of which the highest can be the account's.
Index(
    "ix_api_keys_own_limits",
    api_keys.c.account_id,
    api_keys.c.daily_limit,
    sqlite_where=_HAS_OWN_LIMIT,
    postgresql_where=_HAS_OWN_LIMIT,
)

# Every key change first takes the next revision here and locks the row until it commits.
key_revision = Table(
    "key_revision",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
    # Latest revision that may have changed any key, for example a new limit of a plan; 0 means never.
    Column("all_keys_revision", BigInteger, nullable=False, server_default="0"),
    CheckConstraint("id = 1", name="one_row"),
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("id", String(30), primary_key=True),
    Column("at", UTCDateTime, nullable=False),
    Column("actor", String(80), nullable=False),
    Column("address", String(64), nullable=False),
    Column("action", String(40), nullable=False),
    # No foreign key: events outlive the objects they refer to.
    Column("account_id", String(30), nullable=False),
    Column("target", String(64), nullable=False),
    # JSON object of strings.
    Column("details", Text, nullable=False),
    Index("ix_audit_events_account_id", "account_id", "id"),
)
