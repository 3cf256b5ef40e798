"""Schema of the roll-ups: sums of the ledger's rows, which stay when the rows are removed.

Triggers (revision 0009) write a delta for every change of the ledger's rows: plus for a new row; minus and plus for a
changed one. A delta waits in `usage_deltas` until a fold adds it to the roll-ups and deletes it, in one transaction. So
a roll-up and the deltas together equal the sums of all rows ever written, at any time.
"""

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, String, Table, text

from services.inference.ledger.tables import metadata

MEASURES = (
    *("requests", "charged_requests", "priced_requests"),
    *("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens"),
    *("cost", "charged_tokens", "charged_cost"),
)
"""What roll-ups add up: requests that are charged or have a cost, tokens, microdollars, and what counts against
limits."""

_TEXTS = {
    "account_id": 64,
    "key_id": 64,
    # Account under which quota counts, if it is another one.
    "quota_account_id": 64,
    "model": 256,
    "surface": 32,
    "outcome": 32,
    "day": 10,
    "user_digest": 32,
}
"""Dimensions that are text; what a row does not have is the empty text."""


def _dimension(name: str, *, is_key: bool) -> Column[int] | Column[str]:
    if name == "hour":
        return Column(name, BigInteger, primary_key=is_key, autoincrement=False, nullable=False)
    return Column(name, String(_TEXTS[name]), primary_key=is_key, nullable=False)


def _measures() -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=False) for name in MEASURES]


def _rollup(name: str, key: tuple[str, ...], *indices: Index) -> Table:
    # The rows of an account are next to each other, which is the order of the key.
    columns = [_dimension(one, is_key=True) for one in key]
    return Table(name, metadata, *columns, *_measures(), *indices, sqlite_with_rowid=False)


usage_deltas = Table(
    "usage_deltas",
    metadata,
    Column("id", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True),
    *(_dimension(name, is_key=False) for name in (*_TEXTS, "hour")),
    *_measures(),
    # Empty on SQLite, where readers scan the deltas of a second: the index would triple the cost of inserting one.
    Index("ix_usage_deltas_account", "account_id", "day", sqlite_where=text("id IS NULL")),
)

_HAS_ANOTHER_ACCOUNT = text("quota_account_id <> ''")

usage_days = _rollup(
    "usage_days",
    ("account_id", "day", "key_id", "model", "surface", "outcome", "quota_account_id"),
    Index("ix_usage_days_key", "key_id", "day"),
    Index(
        "ix_usage_days_quota_account",
        *("quota_account_id", "day"),
        sqlite_where=_HAS_ANOTHER_ACCOUNT,
        postgresql_where=_HAS_ANOTHER_ACCOUNT,
    ),
)

usage_hours = _rollup(
    "usage_hours",
    # The hour of the reserve, in hours since 1970.
    ("account_id", "hour", "key_id", "model", "surface", "outcome"),
    Index("ix_usage_hours_hour", "hour"),
)

usage_users = _rollup("usage_users", ("account_id", "day", "user_digest"))

rollup_state = Table(
    "rollup_state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    # Whether the roll-ups contain the rows from before they existed. Until then, readers sum the rows.
    Column("is_complete", Boolean, nullable=False),
    # The backfill's position: the last request id that it added.
    Column("backfilled_to", String(64), nullable=False),
    Column("backfilled_rows", BigInteger, nullable=False),
    # Estimate of the rows to add.
    Column("rows_max", BigInteger, nullable=False),
)
