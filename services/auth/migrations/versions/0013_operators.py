"""Add the role of operators, and sessions in the operators' console.

Revision ID: 0013
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add nullable columns, which the previous version neither reads nor writes: it knows no token of operators."""
    op.add_column("accounts", sa.Column("operator_since", sa.DateTime(timezone=True), nullable=True))
    op.add_column("sessions", sa.Column("operator_totp_id", sa.String(30), nullable=True))


def downgrade() -> None:
    """Remove the columns. Sessions of operators would count as sessions of owners, so they end."""
    op.execute(sa.text("DELETE FROM sessions WHERE operator_totp_id IS NOT NULL"))
    op.drop_column("sessions", "operator_totp_id")
    op.drop_column("accounts", "operator_since")
