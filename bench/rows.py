"""Test data: accounts with five keys, and with 500 requests within 30 days, interleaved with other accounts."""

import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from typing import Any

from sqlalchemy import Table, insert, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.auth.db.tables import accounts, api_keys, key_revision
from services.inference.chat import Outcome, Usage, UsageSource
from services.inference.ledger.queries import COUNTS
from services.inference.ledger.rollup_tables import rollup_state
from services.inference.ledger.writer import LedgerRow

_KEYS_PER_ACCOUNT = 5
_ROWS_PER_ACCOUNT = 500
_DAYS = 30
_BATCH = 5_000
_ROWS_BATCH = 200_000
_NOW = datetime(2026, 8, 1, tzinfo=UTC)


class Filler:
    """Fills the databases of auth and inference, and returns ids of existing rows."""

    first_day = date(2026, 7, 1).isoformat()
    last_day = (date(2026, 7, 1) + timedelta(days=_DAYS - 1)).isoformat()

    def __init__(self, keys: AsyncEngine, ledger: AsyncEngine) -> None:
        """Create a filler for the empty databases `keys` and `ledger`."""
        self._engines = {"keys": keys, "ledger": ledger}
        self._random = random.Random(0)
        self._keys = self._rows = self._new = 0

    @property
    def revision(self) -> int:
        """The latest revision of the key table."""
        return self._keys

    async def fill(self, keys: int, rows: int) -> None:
        """Add keys and ledger rows up to these totals."""
        first = self._keys // _KEYS_PER_ACCOUNT
        await self._insert("keys", accounts, first, keys // _KEYS_PER_ACCOUNT, _account)
        await self._insert("keys", api_keys, self._keys, keys, _key)
        async with self._engines["keys"].begin() as connection:
            await connection.execute(update(key_revision).values(revision=keys))
        new_accounts = max(1, (rows - self._rows) // _ROWS_PER_ACCOUNT)
        base = self._rows // _ROWS_PER_ACCOUNT
        await self._insert_rows(self._rows, rows, base, new_accounts)
        self._keys, self._rows = keys, rows

    async def fill_as_before(self, keys: int, rows: int) -> None:
        """Add keys and ledger rows like the version before the roll-ups, whose backfill starts again."""
        first = self._rows
        async with _without_triggers(self._engines["ledger"]):
            await self.fill(keys, rows)
        async with self._engines["ledger"].begin() as connection:
            position = _request_id(first - 1) if first else ""
            state = {"is_complete": False, "backfilled_to": position, "backfilled_rows": 0, "rows_max": rows}
            await connection.execute(update(rollup_state).values(state))

    async def settle(self) -> None:
        """Do what Postgres does by itself within minutes of so many changes: vacuum, analyse, and write pages."""
        engine = self._engines["ledger"]
        if engine.dialect.name != "postgresql":
            return
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            await connection.execute(text("VACUUM ANALYZE"))
            await connection.execute(text("CHECKPOINT"))

    def new_rows(self, count: int) -> list[LedgerRow]:
        """Return rows of today to insert, of random accounts."""
        first, self._new = self._new, self._new + count
        return [self._new_row(number) for number in range(first, first + count)]

    def _new_row(self, number: int) -> LedgerRow:
        values = _row(number, self._random.randrange(max(1, self._rows // _ROWS_PER_ACCOUNT)), number)
        usage = Usage(**{name: values.pop(name) for name in COUNTS}, source=UsageSource(values.pop("usage_source")))
        values |= {"request_id": f"req_new{number:023d}", "day": self.last_day, "outcome": Outcome.ANSWERED}
        return LedgerRow(**values, usage=usage, surface=None, cost=7)

    def some_digest(self) -> str:
        """Return the digest of a random key."""
        return _digest(self._random.randrange(self._keys))

    def some_owner(self) -> str:
        """Return a random account with keys."""
        return _account_id(self._random.randrange(self._keys // _KEYS_PER_ACCOUNT))

    def some_account(self) -> str:
        """Return a random account with ledger rows."""
        return _account_id(self._random.randrange(max(1, self._rows // _ROWS_PER_ACCOUNT)))

    def some_key(self) -> str:
        """Return a random key with ledger rows."""
        account = self._random.randrange(max(1, self._rows // _ROWS_PER_ACCOUNT))
        return _key_id(account * _KEYS_PER_ACCOUNT + self._random.randrange(_KEYS_PER_ACCOUNT))

    def some_keys(self, count: int) -> list[str]:
        """Return random keys with ledger rows."""
        return [self.some_key() for _ in range(count)]

    async def _insert_rows(self, first: int, end: int, base: int, new_accounts: int) -> None:
        """Insert rows of the accounts from `base` in turn. The database makes them: ten million take minutes."""
        engine = self._engines["ledger"]
        for numbers in _batches(first, end, _ROWS_BATCH):
            async with engine.begin() as connection:
                if engine.dialect.name == "sqlite":
                    await connection.execute(text("PRAGMA cache_size = -1000000"))
                values = {"first": numbers.start, "end": numbers.stop, "base": base, "accounts": new_accounts}
                await connection.execute(text(_INSERT_ROWS[engine.dialect.name]), values)

    async def _insert(
        self, engine: str, table: Table, first: int, end: int, row: Callable[[int], dict[str, Any]]
    ) -> None:
        for numbers in _batches(first, end, _BATCH):
            async with self._engines[engine].begin() as connection:
                await connection.execute(insert(table), [row(number) for number in numbers])


@asynccontextmanager
async def _without_triggers(engine: AsyncEngine) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        restore = await _drop_triggers(connection)
    yield
    async with engine.begin() as connection:
        for statement in restore:
            await connection.execute(text(statement))


async def _drop_triggers(connection: AsyncConnection) -> list[str]:
    """Switch the ledger's triggers off, and return the statements that switch them on."""
    if connection.dialect.name == "postgresql":
        await connection.execute(text("ALTER TABLE usage_ledger DISABLE TRIGGER USER"))
        await connection.execute(text("ALTER TABLE usage_ledger ALTER COLUMN is_rolled_up DROP DEFAULT"))
        return [
            "ALTER TABLE usage_ledger ENABLE TRIGGER USER",
            "ALTER TABLE usage_ledger ALTER COLUMN is_rolled_up SET DEFAULT true",
        ]
    triggers = (await connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"))).all()
    for name, _ in triggers:
        await connection.execute(text(f"DROP TRIGGER {name}"))
    return [sql for _, sql in triggers]


def _batches(first: int, end: int, size: int) -> Iterator[range]:
    for start in range(first, end, size):
        yield range(start, min(start + size, end))


def _insert_rows(numbers: str, *, padded: str, day: str, midnight: str) -> str:
    """Return a statement that inserts what `_row` returns for numbers."""
    account, turn = "(:base + number % :accounts)", "(number / :accounts)"
    key = f"({account} * {_KEYS_PER_ACCOUNT} + {turn} / {_DAYS} % {_KEYS_PER_ACCOUNT})"
    expressions = {
        "request_id": f"'req_' || {padded.format('number')}",
        "account_id": f"'acc_' || {padded.format(account)}",
        "key_id": f"'key_' || {padded.format(key)}",
        "day": day,
        "reserved_at": f"{midnight} + number % 86400",
        "upstream_id": "'chatcmpl-' || number",
    }
    columns = {name: expressions.get(name, _literal(value)) for name, value in _row(0, 0, 0).items()}
    return f"INSERT INTO usage_ledger ({', '.join(columns)}) SELECT {', '.join(columns.values())} FROM {numbers}"


def _literal(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value).lower()


def _account(number: int) -> dict[str, Any]:
    return {
        "id": _account_id(number),
        "email": f"person{number}@example.com",
        "plan": "free",
        "created_at": _NOW,
    }


def _key(number: int) -> dict[str, Any]:
    return {
        "id": _key_id(number),
        "account_id": _account_id(number // _KEYS_PER_ACCOUNT),
        "name": "laptop",
        "prefix": "sk_stk_abcde",
        "digest": _digest(number),
        "pepper_id": "0123456789ab",
        "created_at": _NOW,
        "revision": number + 1,
    }


def _row(number: int, account: int, turn: int) -> dict[str, Any]:
    """Return the row of a number: one of its account's in each turn, which go through days and keys."""
    day = date(2026, 7, 1) + timedelta(days=turn % _DAYS)
    return {
        "request_id": _request_id(number),
        "account_id": _account_id(account),
        "key_id": _key_id(account * _KEYS_PER_ACCOUNT + turn // _DAYS % _KEYS_PER_ACCOUNT),
        "day": day.isoformat(),
        "reserved_at": datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() + number % 86_400,
        "model": "llama-3.1-8b-instant",
        "upstream_model": "openai/gpt-oss-20b",
        "stream": False,
        "outcome": "answered",
        "charged": True,
        "refund_reason": "",
        "prompt_tokens": 42,
        "completion_tokens": 128,
        "total_tokens": 170,
        "cached_tokens": 0,
        "reasoning_tokens": 0,
        "usage_source": "reported",
        "upstream_id": f"chatcmpl-{number}",
        "attempts": 1,
        "time_to_first_token_ms": 90,
        "duration_ms": 400,
    }


def _request_id(number: int) -> str:
    return f"req_{number:026d}"


def _account_id(number: int) -> str:
    return f"acc_{number:026d}"


def _key_id(number: int) -> str:
    return f"key_{number:026d}"


def _digest(number: int) -> str:
    return sha256(str(number).encode()).hexdigest()


_INSERT_ROWS = {
    "sqlite": _insert_rows(
        "(WITH RECURSIVE numbers(number) AS (SELECT :first UNION ALL SELECT number + 1 FROM numbers"
        " WHERE number + 1 < :end) SELECT number FROM numbers)",
        padded="printf('%026d', {})",
        day=f"date('2026-07-01', '+' || (number / :accounts % {_DAYS}) || ' days')",
        midnight=f"(strftime('%s', '2026-07-01') + number / :accounts % {_DAYS} * 86400)",
    ),
    "postgresql": _insert_rows(
        "generate_series(CAST(:first AS BIGINT), CAST(:end AS BIGINT) - 1) AS numbers(number)",
        padded="lpad(CAST({} AS TEXT), 26, '0')",
        day=f"to_char(DATE '2026-07-01' + CAST(number / :accounts % {_DAYS} AS INTEGER), 'YYYY-MM-DD')",
        midnight=f"extract(epoch FROM TIMESTAMP '2026-07-01' + number / :accounts % {_DAYS} * INTERVAL '1 day')",
    ),
}
