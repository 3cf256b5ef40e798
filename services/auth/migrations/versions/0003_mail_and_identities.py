"""Add the e-mail queue and mailbox identities, and convert domains of e-mail addresses to punycode."""

import sqlalchemy as sa
from alembic import op

from services.auth.accounts.addresses import identity_of, normalized_email
from services.common.errors import InvalidRequest

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_ACCOUNTS = sa.table(
    "accounts",
    sa.column("id", sa.String),
    sa.column("email", sa.String),
    sa.column("identity", sa.String),
    sa.column("deleted_at", _TIME),
)
_ROWS = 1_000


def upgrade() -> None:
    op.create_table(
        "emails",
        sa.Column("id", sa.String(30), primary_key=True),
        sa.Column("topic", sa.String(20), nullable=False),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("account_id", sa.String(30), nullable=True),
        sa.Column("actor", sa.String(80), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("next_try_at", _TIME, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
    )
    op.create_index("ix_emails_next_try_at", "emails", ["next_try_at"])
    # Nullable, because replicas of the previous version create accounts during a rollout.
    op.add_column("accounts", sa.Column("identity", sa.String(254), nullable=True))
    op.create_index("ix_accounts_identity", "accounts", ["identity"])
    _fill_identities()


def _fill_identities() -> None:
    connection, after = op.get_bind(), ""
    page = sa.select(_ACCOUNTS.c.id, _ACCOUNTS.c.email).where(_ACCOUNTS.c.deleted_at.is_(None))
    while rows := connection.execute(page.where(_ACCOUNTS.c.id > after).order_by(_ACCOUNTS.c.id).limit(_ROWS)).all():
        for account_id, email in rows:
            try:
                address = normalized_email(email)
            except InvalidRequest:
                address = email
            is_taken = address != email and connection.scalar(
                sa.select(_ACCOUNTS.c.id).where(_ACCOUNTS.c.email == address)
            )
            # If two accounts now have the same address, the later one keeps its old spelling.
            values = {"identity": identity_of(address), "email": email if is_taken else address}
            connection.execute(sa.update(_ACCOUNTS).where(_ACCOUNTS.c.id == account_id).values(values))
        after = rows[-1][0]


def downgrade() -> None:
    op.drop_index("ix_accounts_identity", "accounts")
    op.drop_column("accounts", "identity")
    op.drop_table("emails")
