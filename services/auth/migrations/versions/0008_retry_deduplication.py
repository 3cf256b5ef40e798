"""Add whether a key deduplicates automatic retries.

Revision ID: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column with a default, which the previous version neither reads nor writes."""
    op.add_column("api_keys", sa.Column("deduplicate_retries", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """Remove the column."""
    op.drop_column("api_keys", "deduplicate_retries")
