"""SQL store of usage webhooks, for SQLite and Postgres."""

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from services.common.db.transactions import Transactions, deadline
from services.common.errors import Unavailable
from services.inference.ledger.tables import usage_webhook
from services.inference.webhooks.model import Webhook

_SECONDS_MAX = 5.0
_row = usage_webhook.c


def _unavailable() -> Unavailable:
    return Unavailable("The webhooks cannot be read. Try again in a moment.", reason="ledger_unavailable")


class SQLWebhookStore:
    """Implements `WebhookStore` with SQLAlchemy."""

    def __init__(self, transactions: Transactions) -> None:
        """Store webhooks in the ledger's database, with its transactions."""
        self._transactions = transactions

    @deadline(_SECONDS_MAX, unavailable=_unavailable)
    async def insert(self, webhook: Webhook) -> bool:
        """Store a webhook, and return false if its account has one already."""
        async with self._transactions.writing() as connection:
            insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
            query = insert(usage_webhook).values(asdict(webhook)).on_conflict_do_nothing()
            return (await connection.execute(query)).rowcount == 1

    @deadline(_SECONDS_MAX, unavailable=_unavailable)
    async def update(self, webhook: Webhook, *, expected: Webhook) -> bool:
        """Replace a webhook, and return false if it is not as expected any more."""
        is_expected = (_row.account_id == expected.account_id) & (_row.id == expected.id)
        is_expected &= _row.next_attempt_at.is_not_distinct_from(expected.next_attempt_at)
        is_expected &= (_row.url == expected.url) & (_row.failures == expected.failures)
        async with self._transactions.writing() as connection:
            result = await connection.execute(update(usage_webhook).where(is_expected).values(asdict(webhook)))
        return result.rowcount == 1

    @deadline(_SECONDS_MAX, unavailable=_unavailable)
    async def find(self, account_id: str) -> Webhook | None:
        """Return the webhook of an account, or None if there is none."""
        async with self._transactions.reading() as connection:
            query = select(usage_webhook).where(_row.account_id == account_id)
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else Webhook(**row._mapping)

    @deadline(_SECONDS_MAX, unavailable=_unavailable)
    async def delete(self, account_id: str) -> bool:
        """Delete the webhook of an account, and return whether there was one."""
        async with self._transactions.writing() as connection:
            result = await connection.execute(delete(usage_webhook).where(_row.account_id == account_id))
        return result.rowcount == 1

    @deadline(_SECONDS_MAX, unavailable=_unavailable)
    async def due(self, now: float, *, count: int) -> Sequence[Webhook]:
        """Return webhooks with an attempt at or before `now`, the longest overdue first."""
        query = select(usage_webhook).where(_row.next_attempt_at <= now).order_by(_row.next_attempt_at).limit(count)
        async with self._transactions.reading() as connection:
            return [Webhook(**row._mapping) for row in await connection.execute(query)]
