"""SQL store for plans."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.accounts.plans import PLAN_FIELDS, Plan
from services.auth.audit import Actor
from services.auth.db.records import READ_SECONDS_MAX, WRITE_SECONDS_MAX, change_all_keys, record, unavailable
from services.auth.db.tables import plans
from services.common.db.transactions import Transactions, deadline
from services.common.errors import InvalidRequest, NotFound


class SQLPlanStore:
    """SQL implementation of `PlanStore`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def plans(self) -> Sequence[Plan]:
        """Return all plans, ordered by name."""
        async with self._transactions.reading() as connection:
            return [Plan(**row._mapping) for row in await connection.execute(select(plans).order_by(plans.c.name))]

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def get(self, name: str) -> Plan:
        """Return a plan. See `PlanStore.get`."""
        async with self._transactions.reading() as connection:
            row = (await connection.execute(select(plans).where(plans.c.name == name))).one_or_none()
        if row is None:
            raise _plan_not_found(name)
        return Plan(**row._mapping)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def set(self, plan: Plan, *, by: Actor, at: datetime, only: frozenset[str] = PLAN_FIELDS) -> Plan:
        """Create or update a plan. See `PlanStore.set`."""
        values = {name: getattr(plan, name) for name in sorted(only)}
        async with self._transactions.writing() as connection:
            # This comes first, because it serializes transactions that create the same plan.
            await change_all_keys(connection)
            changed = await connection.execute(update(plans).where(plans.c.name == plan.name).values(values))
            if not changed.rowcount:
                if "daily_limit" not in only:
                    raise InvalidRequest(
                        f"There is no plan {plan.name} yet, and a new plan needs a daily limit. Set daily_limit."
                    )
                await connection.execute(insert(plans).values(name=plan.name, **values))
            await record(connection, "plan.set", by=by, at=at, target=plan.name, details=values)
            row = (await connection.execute(select(plans).where(plans.c.name == plan.name))).one()
        return Plan(**row._mapping)


async def require_plan(connection: AsyncConnection, plan: str) -> None:
    """Check that a plan exists.

    Raises:
        NotFound: There is no such plan.
    """
    if await connection.scalar(select(plans.c.name).where(plans.c.name == plan)) is None:
        raise _plan_not_found(plan)


def _plan_not_found(name: str) -> NotFound:
    return NotFound(f"No plan {name} was found. List the plans with `stackctl plans list`.", reason="plan_not_found")
