"""SQL store for plan events."""

from datetime import datetime, timedelta

from sqlalchemy import insert, select

from services.auth.accounts.plan_events import PlanEvent, PlanEventStatus
from services.auth.accounts.plan_store import require_plan
from services.auth.accounts.store import account_id_of, move_to_plan
from services.auth.audit import Actor
from services.auth.db.records import WRITE_SECONDS_MAX, take_revisions, unavailable
from services.auth.db.tables import accounts, plan_events
from services.common.db.transactions import Transactions, deadline

_KEPT = timedelta(days=30)
"""Time for which event ids are kept. Providers repeat deliveries for days."""


class SQLPlanEventStore:
    """SQL implementation of `PlanEventStore`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def apply(self, event: PlanEvent, *, by: Actor, at: datetime) -> PlanEventStatus:
        """Apply a plan event. See `PlanEventStore.apply`."""
        async with self._transactions.writing() as connection:
            # This comes first: it serializes events, so that of two deliveries at once the second sees the first.
            await take_revisions(connection)
            known = await connection.scalar(select(plan_events.c.id).where(plan_events.c.id == event.id))
            if known is not None:
                await connection.rollback()
                return PlanEventStatus.DUPLICATE
            account_id = await account_id_of(connection, event.account)
            await require_plan(connection, event.plan)
            await connection.execute(insert(plan_events).values(id=event.id, expires_at=at + _KEPT))
            account = accounts.c.id == account_id
            plan_set_at = await connection.scalar(select(accounts.c.plan_set_at).where(account))
            if plan_set_at is not None and plan_set_at > event.at:
                return PlanEventStatus.STALE
            details = {"event": event.id}
            await move_to_plan(connection, account_id, event.plan, set_at=event.at, by=by, at=at, details=details)
            return PlanEventStatus.APPLIED
