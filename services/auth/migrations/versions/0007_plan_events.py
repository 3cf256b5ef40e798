"""Add the time at which an account's plan was set, and the ids of plan events.

Revision ID: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a nullable column, which the previous version does not read, and a table."""
    op.add_column("accounts", sa.Column("plan_set_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "plan_events",
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_plan_events_expires_at", "plan_events", ["expires_at"])


def downgrade() -> None:
    """Remove the table and the column."""
    op.drop_table("plan_events")
    op.drop_column("accounts", "plan_set_at")
