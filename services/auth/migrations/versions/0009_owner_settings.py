"""Add what owners set for their keys: a pause, and limits below those of the plan.

Revision ID: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_COLUMNS = ("paused_at", "owner_daily_limit", "owner_limits")


def upgrade() -> None:
    """Add nullable columns, which the previous version neither reads nor writes."""
    op.add_column("api_keys", sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("api_keys", sa.Column("owner_daily_limit", sa.BigInteger(), nullable=True))
    op.add_column("api_keys", sa.Column("owner_limits", sa.Text(), nullable=True))


def downgrade() -> None:
    """Remove the columns."""
    for column in _COLUMNS:
        op.drop_column("api_keys", column)
