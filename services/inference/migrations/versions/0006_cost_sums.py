"""Add cost and charged amounts to the covering index of sums: usage, and what counts against limits.

Revision ID: 0006
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_OWNER = ["account_id", "day", "model", "key_id", "charged"]
_TOKENS = ["prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens"]
_CHARGED = ["cost", "charged_tokens", "charged_cost"]


def upgrade() -> None:
    """Replace the index. The previous version of the service can use the new one too.

    While Postgres builds it, reads use the old one and rows wait, as in revision 0003: the service keeps them in
    memory and still answers. `CREATE INDEX CONCURRENTLY` is impossible in the transaction that all migrations share.
    """
    op.create_index("ix_usage_ledger_account_sums", "usage_ledger", [*_OWNER, *_TOKENS, *_CHARGED, "reserved_at"])
    op.drop_index("ix_usage_ledger_account_usage", "usage_ledger")


def downgrade() -> None:
    """Restore the previous index."""
    op.create_index("ix_usage_ledger_account_usage", "usage_ledger", [*_OWNER, *_TOKENS])
    op.drop_index("ix_usage_ledger_account_sums", "usage_ledger")
