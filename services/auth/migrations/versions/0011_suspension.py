"""Add the suspension of accounts.

Revision ID: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column, which the previous version does not read: its replicas accept keys of suspended accounts."""
    op.add_column("accounts", sa.Column("suspended_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Remove the column. No account is suspended then."""
    op.drop_column("accounts", "suspended_at")
