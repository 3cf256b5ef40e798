"""Add the id under which quota counts an account, and the mailboxes of deleted accounts as digests.

Revision ID: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a nullable column, which the previous version does not read, and a table."""
    op.add_column("accounts", sa.Column("quota_account_id", sa.String(30), nullable=True))
    op.create_table(
        "former_accounts",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("quota_account_id", sa.String(30), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_former_accounts_expires_at", "former_accounts", ["expires_at"])


def downgrade() -> None:
    """Remove the table and the column."""
    op.drop_table("former_accounts")
    op.drop_column("accounts", "quota_account_id")
