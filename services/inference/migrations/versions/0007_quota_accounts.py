"""Add the account under which quota counts a request, if it is another one.

Revision ID: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_HAS_ANOTHER = sa.text("quota_account_id IS NOT NULL")


def upgrade() -> None:
    """Add the column and its index. The previous version of the service inserts rows without it."""
    op.add_column("usage_ledger", sa.Column("quota_account_id", sa.String(64), nullable=True))
    op.create_index(
        "ix_usage_ledger_quota_account_day",
        "usage_ledger",
        ["quota_account_id", "day"],
        sqlite_where=_HAS_ANOTHER,
        postgresql_where=_HAS_ANOTHER,
    )


def downgrade() -> None:
    """Drop the index and the column."""
    op.drop_index("ix_usage_ledger_quota_account_day", "usage_ledger")
    op.drop_column("usage_ledger", "quota_account_id")
