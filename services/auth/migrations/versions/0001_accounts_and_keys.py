"""Create plans, accounts and keys, and the free plan with 1,000 requests a day."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    plans = op.create_table(
        "plans",
        sa.Column("name", sa.String(50), primary_key=True),
        sa.Column("daily_limit", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "accounts",
        sa.Column("id", sa.String(30), primary_key=True),
        sa.Column("email", sa.String(254), nullable=False, unique=True),
        sa.Column("plan", sa.String(50), sa.ForeignKey("plans.name"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(30), primary_key=True),
        sa.Column("account_id", sa.String(30), sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("prefix", sa.String(12), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("pepper_id", sa.String(12), nullable=False),
        sa.Column("daily_limit", sa.BigInteger, nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_api_keys_account_id", "api_keys", ["account_id"])
    op.create_index("ix_api_keys_revision", "api_keys", ["revision"])
    key_revision = op.create_table(
        "key_revision",
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.CheckConstraint("id = 1", name="one_row"),
    )
    op.bulk_insert(plans, [{"name": "free", "daily_limit": 1000}])
    op.bulk_insert(key_revision, [{"id": 1, "revision": 0}])


def downgrade() -> None:
    for table in ("key_revision", "api_keys", "accounts", "plans"):
        op.drop_table(table)
