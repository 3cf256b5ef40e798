"""Add the indexes for listing an account's and a key's requests.

Revision ID: 0002
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the indexes."""
    op.create_index("ix_usage_ledger_account_request", "usage_ledger", ["account_id", "request_id"])
    op.create_index("ix_usage_ledger_account_key_request", "usage_ledger", ["account_id", "key_id", "request_id"])


def downgrade() -> None:
    """Drop the indexes."""
    op.drop_index("ix_usage_ledger_account_key_request", "usage_ledger")
    op.drop_index("ix_usage_ledger_account_request", "usage_ledger")
