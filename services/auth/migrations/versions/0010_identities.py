"""Add identities at identity providers, TOTP secrets and recovery codes.

Revision ID: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add tables, which the previous version does not read. It asks no account for a code."""
    op.create_table(
        "identities",
        sa.Column("id", sa.String(30), primary_key=True),
        sa.Column("account_id", sa.String(30), sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("provider", sa.String(20), nullable=False),
        sa.Column("issuer", sa.String(1_024), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("issuer", "subject", name="one_account"),
    )
    op.create_index("ix_identities_account_id", "identities", ["account_id"])
    op.create_table(
        "totp_secrets",
        sa.Column("account_id", sa.String(30), sa.ForeignKey("accounts.id"), primary_key=True),
        sa.Column("id", sa.String(30), nullable=False, unique=True),
        sa.Column("sealed", sa.String(200), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("enabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_step", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "recovery_codes",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("account_id", sa.String(30), sa.ForeignKey("accounts.id"), nullable=False),
    )
    op.create_index("ix_recovery_codes_account_id", "recovery_codes", ["account_id"])


def downgrade() -> None:
    """Remove the tables. Accounts without a password then need a password reset, and none has a second factor."""
    op.drop_table("recovery_codes")
    op.drop_table("totp_secrets")
    op.drop_table("identities")
