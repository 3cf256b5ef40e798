"""Add passwords, sessions, one-time tokens, rate limits, key limits of plans, and the audit log."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def _new_columns() -> tuple[tuple[str, sa.Column[Any]], ...]:
    """Return new column objects for the existing tables. A column object can belong to one table only."""
    return (
        ("plans", sa.Column("active_keys_max", sa.Integer, nullable=True)),
        ("plans", sa.Column("new_keys_per_day_max", sa.Integer, nullable=True)),
        ("accounts", sa.Column("password_hash", sa.String(256), nullable=True)),
        ("accounts", sa.Column("email_verified_at", _TIME, nullable=True)),
        ("accounts", sa.Column("deleted_at", _TIME, nullable=True)),
        ("api_keys", sa.Column("models", sa.Text, nullable=True)),
        ("api_keys", sa.Column("replaced_by", sa.String(30), nullable=True)),
        ("key_revision", sa.Column("all_keys_revision", sa.BigInteger, nullable=False, server_default="0")),
    )


def upgrade() -> None:
    for table, column in _new_columns():
        op.add_column(table, column)
    op.create_index("ix_api_keys_pepper_id", "api_keys", ["pepper_id"])
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(30), primary_key=True),
        sa.Column("account_id", sa.String(30), sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("last_used_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
    )
    op.create_index("ix_sessions_account_id", "sessions", ["account_id"])
    op.create_index("ix_sessions_expires_at", "sessions", ["expires_at"])
    op.create_table(
        "one_time_tokens",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("purpose", sa.String(20), nullable=False),
        sa.Column("account_id", sa.String(30), sa.ForeignKey("accounts.id"), nullable=True),
        sa.Column("plan", sa.String(50), nullable=True),
        sa.Column("expires_at", _TIME, nullable=False),
    )
    op.create_index("ix_one_time_tokens_account_id", "one_time_tokens", ["account_id"])
    op.create_index("ix_one_time_tokens_expires_at", "one_time_tokens", ["expires_at"])
    op.create_table(
        "throttles",
        sa.Column("subject", sa.String(64), primary_key=True),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("window_ends_at", _TIME, nullable=False),
    )
    op.create_index("ix_throttles_window_ends_at", "throttles", ["window_ends_at"])
    op.create_table(
        "audit_events",
        sa.Column("id", sa.String(30), primary_key=True),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("actor", sa.String(80), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("account_id", sa.String(30), nullable=False),
        sa.Column("target", sa.String(64), nullable=False),
        sa.Column("details", sa.Text, nullable=False),
    )
    op.create_index("ix_audit_events_account_id", "audit_events", ["account_id", "id"])


def downgrade() -> None:
    for table in ("audit_events", "throttles", "one_time_tokens", "sessions"):
        op.drop_table(table)
    op.drop_index("ix_api_keys_pepper_id", "api_keys")
    for table, column in reversed(_new_columns()):
        op.drop_column(table, column.name)
