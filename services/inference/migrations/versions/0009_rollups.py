"""Add roll-ups: sums of the rows that outlive them, and triggers that record every change of the rows.

Triggers also cover the rows of the previous version while both run. The migration reads no row, so it is as fast with
ten million rows as without any: the service adds the existing rows to the roll-ups later, in steps
(services/inference/ledger/backfill.py).

Revision ID: 0009
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_TEXTS = {
    "account_id": 64,
    "key_id": 64,
    "quota_account_id": 64,
    "model": 256,
    "surface": 32,
    "outcome": 32,
    "day": 10,
}
_MEASURES = (
    *("requests", "charged_requests", "priced_requests"),
    *("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens"),
    *("cost", "charged_tokens", "charged_cost"),
)
_DAY_KEY = ("account_id", "day", "key_id", "model", "surface", "outcome", "quota_account_id")
_HOUR_KEY = ("account_id", "hour", "key_id", "model", "surface", "outcome")
_USER_KEY = ("account_id", "day", "user_digest")
_TABLES = ("rollup_state", "usage_users", "usage_hours", "usage_days", "usage_deltas")
_DELTA = (*_TEXTS, "hour", "user_digest", *_MEASURES)


def _dimension(name: str) -> sa.Column[Any]:
    if name == "hour":
        return sa.Column(name, sa.BigInteger(), nullable=False)
    return sa.Column(name, sa.String(32 if name == "user_digest" else _TEXTS[name]), nullable=False)


def _measures() -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger(), nullable=False) for name in _MEASURES]


def _rollup(name: str, key: tuple[str, ...]) -> None:
    columns: list[Any] = [*(_dimension(one) for one in key), *_measures()]
    op.create_table(name, *columns, sa.PrimaryKeyConstraint(*key), sqlite_with_rowid=False)


def _values(row: str, sign: str = "", *, floor: str) -> str:
    """Return the values of a delta, in the order of `_DELTA`, from a row of the ledger."""
    charged = f"CASE WHEN {row}.charged THEN {{}} ELSE 0 END"
    measures = (
        "1",
        charged.format("1"),
        f"CASE WHEN {row}.cost IS NULL THEN 0 ELSE 1 END",
        *(f"{row}.{name}" for name in _MEASURES[3:8]),
        f"coalesce({row}.cost, 0)",
        charged.format(f"coalesce({row}.charged_tokens, {row}.total_tokens)"),
        charged.format(f"coalesce({row}.charged_cost, {row}.cost, 0)"),
    )
    texts = [
        f"coalesce({row}.{name}, '')" if name in ("quota_account_id", "surface") else f"{row}.{name}" for name in _TEXTS
    ]
    hour = floor.format(f"{row}.reserved_at / 3600")
    return ", ".join([*texts, hour, f"coalesce({row}.user_digest, '')", *(f"{sign}({one})" for one in measures)])


_INSERT = f"INSERT INTO usage_deltas ({', '.join(_DELTA)})"


def upgrade() -> None:
    """Create the tables, the columns and the triggers. The previous version inserts rows without the columns."""
    for table in _TABLES:
        op.execute(f"DROP TABLE IF EXISTS {table}")  # Restoring the dump of an older version leaves them.
    op.add_column("usage_ledger", sa.Column("user_digest", sa.String(32), nullable=True))
    op.add_column("usage_ledger", sa.Column("is_rolled_up", sa.Boolean(), nullable=True))
    op.create_table(
        "usage_deltas",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True),
        *(_dimension(name) for name in (*_TEXTS, "hour", "user_digest")),
        *_measures(),
    )
    op.create_index(
        "ix_usage_deltas_account", "usage_deltas", ["account_id", "day"], sqlite_where=sa.text("id IS NULL")
    )
    _rollup("usage_days", _DAY_KEY)
    op.create_index("ix_usage_days_key", "usage_days", ["key_id", "day"])
    has_another = sa.text("quota_account_id <> ''")
    op.create_index(
        "ix_usage_days_quota_account",
        "usage_days",
        ["quota_account_id", "day"],
        sqlite_where=has_another,
        postgresql_where=has_another,
    )
    _rollup("usage_hours", _HOUR_KEY)
    op.create_index("ix_usage_hours_hour", "usage_hours", ["hour"])
    _rollup("usage_users", _USER_KEY)
    op.create_table(
        "rollup_state",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("is_complete", sa.Boolean(), nullable=False),
        sa.Column("backfilled_to", sa.String(64), nullable=False),
        sa.Column("backfilled_rows", sa.BigInteger(), nullable=False),
        sa.Column("rows_max", sa.BigInteger(), nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        _create_postgres_triggers()
        rows = "(SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'usage_ledger'::regclass)"
    else:
        _create_sqlite_triggers()
        rows = "(SELECT coalesce(max(rowid), 0) FROM usage_ledger)"
    op.execute(
        "INSERT INTO rollup_state (id, is_complete, backfilled_to, backfilled_rows, rows_max)"
        f" SELECT 1, NOT EXISTS (SELECT 1 FROM usage_ledger), '', 0, {rows}"
    )


def _create_postgres_triggers() -> None:
    op.execute("ALTER TABLE usage_ledger ALTER COLUMN is_rolled_up SET DEFAULT true")
    # Dead entries stay in the queue until autovacuum comes.
    op.execute("ALTER TABLE usage_deltas SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000)")
    floor = "floor({})::bigint"
    op.execute(
        "CREATE OR REPLACE FUNCTION usage_ledger_inserted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" {_INSERT} SELECT {_values('added', floor=floor)} FROM added; RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER usage_ledger_inserted AFTER INSERT ON usage_ledger REFERENCING NEW TABLE AS added"
        " FOR EACH STATEMENT EXECUTE FUNCTION usage_ledger_inserted()"
    )
    # A row from before this revision counts from its backfill on. The lock, which a step of the backfill holds
    # exclusively, makes the cursor and the row that the step read belong together.
    op.execute(
        "CREATE OR REPLACE FUNCTION usage_ledger_updated() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF OLD.is_rolled_up IS NULL THEN"
        " PERFORM pg_advisory_xact_lock_shared(7301936221);"
        " IF NOT EXISTS (SELECT 1 FROM rollup_state WHERE is_complete OR backfilled_to >= OLD.request_id) THEN"
        " RETURN NULL; END IF; END IF;"
        f" {_INSERT} SELECT {_values('OLD', '-', floor=floor)} UNION ALL SELECT {_values('NEW', floor=floor)};"
        " RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER usage_ledger_updated AFTER UPDATE ON usage_ledger"
        " FOR EACH ROW EXECUTE FUNCTION usage_ledger_updated()"
    )


def _create_sqlite_triggers() -> None:
    floor = "CAST({} AS INTEGER)"
    # Without a FROM clause, a row per VALUES list avoids the planner.
    op.execute(
        "CREATE TRIGGER usage_ledger_inserted AFTER INSERT ON usage_ledger BEGIN"
        f" {_INSERT} VALUES ({_values('NEW', floor=floor)}); END"
    )
    # Only the previous version, after a rollback, inserts rows without the mark.
    op.execute(
        "CREATE TRIGGER usage_ledger_marked AFTER INSERT ON usage_ledger WHEN NEW.is_rolled_up IS NULL BEGIN"
        " UPDATE usage_ledger SET is_rolled_up = 1 WHERE request_id = NEW.request_id; END"
    )
    changed = ", ".join([*_TEXTS, "reserved_at", "charged", *_MEASURES[3:], "user_digest"])
    op.execute(
        f"CREATE TRIGGER usage_ledger_updated AFTER UPDATE OF {changed} ON usage_ledger"
        " WHEN OLD.is_rolled_up IS NOT NULL OR EXISTS"
        " (SELECT 1 FROM rollup_state WHERE is_complete OR backfilled_to >= OLD.request_id) BEGIN"
        f" {_INSERT} VALUES ({_values('OLD', '-', floor=floor)}), ({_values('NEW', floor=floor)}); END"
    )


def downgrade() -> None:
    """Drop everything again. Sums of removed rows are lost."""
    is_postgres = op.get_bind().dialect.name == "postgresql"
    for name in ("inserted", "updated") if is_postgres else ("inserted", "marked", "updated"):
        op.execute(f"DROP TRIGGER usage_ledger_{name}" + (" ON usage_ledger" if is_postgres else ""))
        if is_postgres:
            op.execute(f"DROP FUNCTION usage_ledger_{name}")
    for table in _TABLES:
        op.drop_table(table)
    op.drop_column("usage_ledger", "is_rolled_up")
    op.drop_column("usage_ledger", "user_digest")
