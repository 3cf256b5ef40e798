"""Add the surface of a request.

Revision ID: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. The previous version of the service inserts rows without it."""
    op.add_column("usage_ledger", sa.Column("surface", sa.String(32), nullable=True))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("usage_ledger", "surface")
