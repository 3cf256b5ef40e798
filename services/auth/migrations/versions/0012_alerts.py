"""Add alerts to owners and their settings.

Revision ID: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_UNSENT = sa.text("is_unsent")
_HAS_EXPIRY = sa.text("expires_at IS NOT NULL AND revoked_at IS NULL")


def upgrade() -> None:
    """Add columns and tables, which the previous version does not read. Its replicas cannot send alerts."""
    op.add_column("accounts", sa.Column("alert_mail", sa.String(100), nullable=True))
    op.add_column("accounts", sa.Column("alert_webhook", sa.String(100), nullable=True))
    op.add_column("emails", sa.Column("alert_id", sa.String(30), nullable=True))
    op.create_table(
        "alerts",
        sa.Column("id", sa.String(30), primary_key=True),
        sa.Column("account_id", sa.String(30), sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("key_id", sa.String(30), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("limit_name", sa.String(40), nullable=False),
        sa.Column("period", sa.String(40), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("limit_value", sa.BigInteger, nullable=False),
        sa.Column("used", sa.BigInteger, nullable=False),
        sa.Column("is_unsent", sa.Boolean, nullable=False),
        sa.UniqueConstraint("account_id", "key_id", "kind", "limit_name", "period", name="one_alert"),
    )
    op.create_index("ix_alerts_created_at", "alerts", ["created_at"])
    op.create_index("ix_alerts_account_created", "alerts", ["account_id", "created_at"])
    op.create_index("ix_alerts_unsent", "alerts", ["id"], sqlite_where=_UNSENT, postgresql_where=_UNSENT)
    op.create_table(
        "alert_runs",
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("run_id", sa.String(30), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("checked_until", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("id = 1", name="one_run"),
    )
    op.create_index(
        "ix_api_keys_expires_at", "api_keys", ["expires_at"], sqlite_where=_HAS_EXPIRY, postgresql_where=_HAS_EXPIRY
    )


def downgrade() -> None:
    """Remove the tables and columns, and queued e-mails of alerts, which the previous version cannot send."""
    op.drop_index("ix_api_keys_expires_at", "api_keys")
    op.drop_table("alert_runs")
    op.drop_table("alerts")
    op.execute("DELETE FROM emails WHERE topic = 'alert'")
    op.drop_column("emails", "alert_id")
    op.drop_column("accounts", "alert_webhook")
    op.drop_column("accounts", "alert_mail")
