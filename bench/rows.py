"""Test data: accounts with five keys, and with 500 requests within 30 days, interleaved with other accounts."""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from typing import Any

from sqlalchemy import Table, insert, update
from sqlalchemy.ext.asyncio import AsyncEngine

from services.auth.db.tables import accounts, api_keys, key_revision
from services.inference.ledger.tables import usage_ledger

_KEYS_PER_ACCOUNT = 5
_ROWS_PER_ACCOUNT = 500
_DAYS = 30
_BATCH = 5_000
_NOW = datetime(2026, 8, 1, tzinfo=UTC)


class Filler:
    """Fills the databases of auth and inference, and returns ids of existing rows."""

    first_day = date(2026, 7, 1).isoformat()
    last_day = (date(2026, 7, 1) + timedelta(days=_DAYS - 1)).isoformat()

    def __init__(self, keys: AsyncEngine, ledger: AsyncEngine) -> None:
        """Create a filler for the empty databases `keys` and `ledger`."""
        self._engines = {"keys": keys, "ledger": ledger}
        self._random = random.Random(0)
        self._keys = self._rows = 0

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
        await self._insert(
            "ledger", usage_ledger, self._rows, rows, lambda number: _row(number, base + number % new_accounts)
        )
        self._keys, self._rows = keys, rows

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

    async def _insert(
        self, engine: str, table: Table, first: int, end: int, row: Callable[[int], dict[str, Any]]
    ) -> None:
        for numbers in _batches(first, end):
            async with self._engines[engine].begin() as connection:
                await connection.execute(insert(table), [row(number) for number in numbers])


def _batches(first: int, end: int) -> Iterator[range]:
    for start in range(first, end, _BATCH):
        yield range(start, min(start + _BATCH, end))


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


def _row(number: int, account: int) -> dict[str, Any]:
    day = date(2026, 7, 1) + timedelta(days=number % _DAYS)
    return {
        "request_id": f"req_{number:026d}",
        "account_id": _account_id(account),
        "key_id": _key_id(account * _KEYS_PER_ACCOUNT + number % _KEYS_PER_ACCOUNT),
        "day": day.isoformat(),
        "reserved_at": float(number),
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


def _account_id(number: int) -> str:
    return f"acc_{number:026d}"


def _key_id(number: int) -> str:
    return f"key_{number:026d}"


def _digest(number: int) -> str:
    return sha256(str(number).encode()).hexdigest()
