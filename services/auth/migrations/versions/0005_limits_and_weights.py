"""Add limits of every unit and weights to plans, limits to keys, and the plan `pro`.

Revision ID: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_PRO = {"name": "pro", "daily_limit": 10_000, "account_daily_limit": 50_000, "weight": 4}
_PLANS = sa.table(
    "plans",
    sa.column("name", sa.String),
    sa.column("daily_limit", sa.BigInteger),
    sa.column("account_daily_limit", sa.BigInteger),
    sa.column("weight", sa.Integer),
)


def upgrade() -> None:
    """Add nullable columns, which the previous version does not read. An existing plan `pro` stays as it is."""
    op.add_column("plans", sa.Column("limits", sa.Text, nullable=True))
    op.add_column("plans", sa.Column("weight", sa.Integer, nullable=True))
    op.add_column("api_keys", sa.Column("limits", sa.Text, nullable=True))
    if op.get_bind().scalar(sa.select(_PLANS.c.name).where(_PLANS.c.name == "pro")) is None:
        op.execute(sa.insert(_PLANS).values(_PRO))


def downgrade() -> None:
    """Remove the columns. The plan `pro` stays, because accounts may be on it."""
    op.drop_column("api_keys", "limits")
    op.drop_column("plans", "weight")
    op.drop_column("plans", "limits")
