"""Add the place of a request among those of its tightest limit, and an index to list the rows of a day.

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
    """Add the columns and the index. The previous version of the service inserts rows without the columns.

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


def downgrade() -> None:
    """Drop the index and the columns."""
    op.drop_index("ix_usage_ledger_day_request", "usage_ledger")
    for name in ("slot_scope", "slot_limit", "slot_number"):
        op.drop_column("usage_ledger", name)
