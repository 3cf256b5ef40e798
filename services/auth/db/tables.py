"""The schema: plans, accounts, sessions, keys, the one row whose revision orders all changes of keys, the audit log."""

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
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
)

metadata = MetaData()


class UTCDateTime(TypeDecorator[datetime]):
    """An aware time in UTC on every database; SQLite forgets the zone, so it is put back here."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn a time to UTC on its way in."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Name the zone on the way out."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


plans = Table(
    "plans",
    metadata,
    Column("name", String(50), primary_key=True),
    Column("daily_limit", BigInteger, nullable=False),
    # Null leaves these to the settings.
    Column("active_keys_max", Integer, nullable=True),
    Column("new_keys_per_day_max", Integer, nullable=True),
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", String(30), primary_key=True),
    # Of a deleted account a text that is no address and nobody else's.
    Column("email", String(254), nullable=False, unique=True),
    Column("plan", ForeignKey("plans.name"), nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    Column("password_hash", String(256), nullable=True),
    Column("email_verified_at", UTCDateTime, nullable=True),
    Column("deleted_at", UTCDateTime, nullable=True),
    # What addresses of one mailbox have in common; null of deleted accounts, and of those that 0002 opened.
    Column("identity", String(254), nullable=True, index=True),
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
)

one_time_tokens = Table(
    "one_time_tokens",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("purpose", String(20), nullable=False),
    # Null for an invitation, which is for whoever holds it.
    Column("account_id", ForeignKey("accounts.id"), nullable=True, index=True),
    # The plan of an invitation.
    Column("plan", String(50), nullable=True),
    Column("expires_at", UTCDateTime, nullable=False, index=True),
)

# E-mails to send. They hold no secret: their text is made when they are sent.
emails = Table(
    "emails",
    metadata,
    Column("id", String(30), primary_key=True),
    Column("topic", String(20), nullable=False),
    Column("email", String(254), nullable=False),
    # The account that a sign-up opened.
    Column("account_id", String(30), nullable=True),
    # Who asked for it, for the audit log.
    Column("actor", String(80), nullable=False),
    Column("address", String(64), nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    # A sender claims an e-mail by moving this forward, so that no other sender takes it.
    Column("next_try_at", UTCDateTime, nullable=False, index=True),
    Column("tries", Integer, nullable=False),
)

# How often somebody tried something; the subject is a digest, so that this holds neither addresses nor e-mails.
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
    # JSON array of names and patterns; null allows all models.
    Column("models", Text, nullable=True),
    # Id of the key that it was rotated into.
    Column("replaced_by", String(30), nullable=True),
    # The revision of the key's latest change; WatchKeys reads by it.
    Column("revision", BigInteger, nullable=False, index=True),
)

# Whoever changes a key first takes the next revision here and keeps this row locked until the commit.
key_revision = Table(
    "key_revision",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
    # The latest revision at which any key may have changed, as by a plan's new limit; 0 means never.
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
    # No foreign key: the log outlives what it tells of.
    Column("account_id", String(30), nullable=False),
    Column("target", String(64), nullable=False),
    # JSON object of strings.
    Column("details", Text, nullable=False),
    Index("ix_audit_events_account_id", "account_id", "id"),
)
