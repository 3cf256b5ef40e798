"""Add the daily limit of accounts to plans: 5,000 requests in the free plan, none in others.

Revision ID: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_FREE_LIMIT = 5_000
_HAS_OWN_LIMIT = sa.text("daily_limit IS NOT NULL AND revoked_at IS NULL")
_PLANS = sa.table("plans", sa.column("name", sa.String), sa.column("account_daily_limit", sa.BigInteger))


def upgrade() -> None:
    """Add the column. An account's limit is never below the highest of its keys, so no key loses requests."""
    op.add_column("plans", sa.Column("account_daily_limit", sa.BigInteger, nullable=True))
    op.execute(sa.update(_PLANS).where(_PLANS.c.name == "free").values(account_daily_limit=_FREE_LIMIT))
    op.create_index(
        "ix_api_keys_own_limits",
        "api_keys",
        ["account_id", "daily_limit"],
        sqlite_where=_HAS_OWN_LIMIT,
        postgresql_where=_HAS_OWN_LIMIT,
    )


def downgrade() -> None:
    """Remove the column and the index."""
    op.drop_index("ix_api_keys_own_limits", "api_keys")
    op.drop_column("plans", "account_daily_limit")
