"""Add the cost of a request, the time for which it waited for its turn, and what counts against limits.

Revision ID: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns. The previous version of the service inserts rows without them."""
    op.add_column("usage_ledger", sa.Column("cost", sa.BigInteger(), nullable=True))
    op.add_column("usage_ledger", sa.Column("queue_ms", sa.BigInteger(), nullable=True))
    op.add_column("usage_ledger", sa.Column("charged_tokens", sa.BigInteger(), nullable=True))
    op.add_column("usage_ledger", sa.Column("charged_cost", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Drop the columns."""
    op.drop_column("usage_ledger", "charged_cost")
    op.drop_column("usage_ledger", "charged_tokens")
    op.drop_column("usage_ledger", "queue_ms")
    op.drop_column("usage_ledger", "cost")
