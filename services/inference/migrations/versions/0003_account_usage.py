"""Add a covering index for an account's usage summary.

Revision ID: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_USAGE = [
    *("account_id", "day", "model", "key_id", "charged"),
    *("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens"),
]


def upgrade() -> None:
    """Replace the index over account and day. The previous version of the service can use the new index too."""
    op.create_index("ix_usage_ledger_account_usage", "usage_ledger", _USAGE)
    op.drop_index("ix_usage_ledger_account_day", "usage_ledger")


def downgrade() -> None:
    """Restore the previous index."""
    op.create_index("ix_usage_ledger_account_day", "usage_ledger", ["account_id", "day"])
    op.drop_index("ix_usage_ledger_account_usage", "usage_ledger")
