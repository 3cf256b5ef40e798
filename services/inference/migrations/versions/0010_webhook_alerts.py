"""Add the alerts that are sent to webhooks.

Revision ID: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a table, which the previous version does not read."""
    op.create_table(
        "webhook_alert",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("account_id", sa.String(64), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("next_attempt_at", sa.Float(53), nullable=True),
        sa.Column("failures", sa.BigInteger, nullable=False),
        if_not_exists=True,  # The restore of an older dump leaves it.
    )
    op.create_index("ix_webhook_alert_next_attempt", "webhook_alert", ["next_attempt_at"], if_not_exists=True)
    op.create_index("ix_webhook_alert_account", "webhook_alert", ["account_id", "created_at"], if_not_exists=True)


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("webhook_alert")
