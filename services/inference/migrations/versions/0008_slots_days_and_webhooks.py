"""Add slots of requests, an index to list the rows of a day, and usage webhooks.

Revision ID: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_EVERY_ROW = sa.text("request_id >= ''")
"""Keeps other queries away from the index."""


def upgrade() -> None:
    """Add the columns, the index and the table. The previous version of the service inserts rows without the columns.

    While Postgres builds the index, rows wait, as in revision 0003: the service keeps them in memory and still answers.
    """
    op.add_column("usage_ledger", sa.Column("slot_number", sa.BigInteger, nullable=True))
    op.add_column("usage_ledger", sa.Column("slot_limit", sa.BigInteger, nullable=True))
    op.add_column("usage_ledger", sa.Column("slot_scope", sa.String(16), nullable=True))
    op.create_index(
        "ix_usage_ledger_day_request",
        "usage_ledger",
        ["day", "request_id"],
        sqlite_where=_EVERY_ROW,
        postgresql_where=_EVERY_ROW,
    )
    op.create_table(
        "usage_webhook",
        sa.Column("account_id", sa.String(64), primary_key=True),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("url", sa.String(2048), nullable=False),
        sa.Column("secret", sa.LargeBinary, nullable=False),
        sa.Column("next_day", sa.String(10), nullable=False),
        sa.Column("next_attempt_at", sa.Float(53), nullable=True),
        sa.Column("failures", sa.BigInteger, nullable=False),
        sa.Column("last_error", sa.String(256), nullable=False),
    )
    op.create_index("ix_usage_webhook_next_attempt", "usage_webhook", ["next_attempt_at"])


def downgrade() -> None:
    """Drop the table, the index and the columns."""
    op.drop_table("usage_webhook")
    op.drop_index("ix_usage_ledger_day_request", "usage_ledger")
    for name in ("slot_scope", "slot_limit", "slot_number"):
        op.drop_column("usage_ledger", name)
