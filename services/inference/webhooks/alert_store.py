"""SQL store of alerts for webhooks, for SQLite and Postgres."""

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import delete, func, select, update

from services.common.db.dialects import insert_into
from services.common.db.transactions import Transactions, deadline
from services.common.errors import Unavailable
from services.inference.ledger.tables import webhook_alert
from services.inference.webhooks.alerts import WebhookAlert

_SECONDS_MAX = 5.0
_row = webhook_alert.c


def _unavailable() -> Unavailable:
    return Unavailable("The alerts cannot be read. Try again in a moment.", reason="ledger_unavailable")


class SQLWebhookAlertStore:
    """Implements `WebhookAlertStore` with SQLAlchemy."""

    def __init__(self, transactions: Transactions) -> None:
        """Store alerts in the ledger's database, with its transactions."""
        self._transactions = transactions

    @deadline(_SECONDS_MAX, unavailable=_unavailable)
    async def add(self, alert: WebhookAlert, *, since: float, count_max: int) -> bool:
        """Store an alert. See `WebhookAlertStore.add`."""
        recent = (_row.account_id == alert.account_id) & (_row.created_at > since)
        async with self._transactions.writing() as connection:
            is_known = await connection.scalar(select(_row.id).where(_row.id == alert.id)) is not None
            count = await connection.scalar(select(func.count()).select_from(webhook_alert).where(recent)) or 0
            if not is_known and count < count_max:
                insert = insert_into(connection, webhook_alert).values(asdict(alert))
                await connection.execute(insert.on_conflict_do_nothing())
        return is_known or count < count_max

    @deadline(_SECONDS_MAX, unavailable=_unavailable)
    async def lease(self, alert: WebhookAlert, *, until: float) -> bool:
        """Move the next attempt. See `WebhookAlertStore.lease`."""
        is_expected = (_row.id == alert.id) & (_row.next_attempt_at == alert.next_attempt_at)
        async with self._transactions.writing() as connection:
            leased = await connection.execute(update(webhook_alert).where(is_expected).values(next_attempt_at=until))
        return leased.rowcount == 1

    @deadline(_SECONDS_MAX, unavailable=_unavailable)
    async def finish(self, alert: WebhookAlert) -> None:
        """Store the result of an attempt. See `WebhookAlertStore.finish`."""
        values = {"next_attempt_at": alert.next_attempt_at, "failures": alert.failures}
        async with self._transactions.writing() as connection:
            await connection.execute(update(webhook_alert).where(_row.id == alert.id).values(values))

    @deadline(_SECONDS_MAX, unavailable=_unavailable)
    async def due(self, now: float, *, count: int) -> Sequence[WebhookAlert]:
        """Return alerts that are due. See `WebhookAlertStore.due`."""
        query = select(webhook_alert).where(_row.next_attempt_at <= now).order_by(_row.next_attempt_at).limit(count)
        async with self._transactions.reading() as connection:
            return [WebhookAlert(**row._mapping) for row in await connection.execute(query)]

    @deadline(_SECONDS_MAX, unavailable=_unavailable)
    async def remove_before(self, created_at: float) -> None:
        """Remove old alerts. See `WebhookAlertStore.remove_before`."""
        async with self._transactions.reading() as connection:
            query = select(_row.id).where(_row.created_at < created_at).limit(1)
            if await connection.scalar(query) is None:
                return
        async with self._transactions.writing() as connection:
            await connection.execute(delete(webhook_alert).where(_row.created_at < created_at))
