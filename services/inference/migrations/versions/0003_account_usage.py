"""Index all that adding up an account's days reads.

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
    """Create the index in place of one that led to the rows; the version before finds its way by this one too."""
    op.create_index("ix_usage_ledger_account_usage", "usage_ledger", _USAGE)
    op.drop_index("ix_usage_ledger_account_day", "usage_ledger")


def downgrade() -> None:
    """Create the index that was before."""
    op.create_index("ix_usage_ledger_account_day", "usage_ledger", ["account_id", "day"])
    op.drop_index("ix_usage_ledger_account_usage", "usage_ledger")
