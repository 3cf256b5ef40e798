"""SQL store for plans."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.accounts.plans import PLAN_FIELDS, Plan
from services.auth.audit import Actor
from services.auth.db.records import READ_SECONDS_MAX, WRITE_SECONDS_MAX, change_all_keys, record, unavailable
from services.auth.db.tables import plans
from services.auth.limits import WEIGHT_DEFAULT, LimitChanges, from_json, to_json
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
            return [_plan(row) for row in await connection.execute(select(plans).order_by(plans.c.name))]

    @deadline(READ_SECONDS_MAX, unavailable=unavailable)
    async def get(self, name: str) -> Plan:
        """Return a plan. See `PlanStore.get`."""
        async with self._transactions.reading() as connection:
            row = (await connection.execute(select(plans).where(plans.c.name == name))).one_or_none()
        if row is None:
            raise _plan_not_found(name)
        return _plan(row)

    @deadline(WRITE_SECONDS_MAX, unavailable=unavailable)
    async def set(
        self,
        plan: Plan,
        *,
        by: Actor,
        at: datetime,
        only: frozenset[str] = PLAN_FIELDS,
        limit_changes: LimitChanges | None = None,
    ) -> Plan:
        """Create or update a plan. See `PlanStore.set`."""
        async with self._transactions.writing() as connection:
            # This comes first, because it serializes transactions that create the same plan.
            await change_all_keys(connection)
            row = (await connection.execute(select(plans).where(plans.c.name == plan.name))).one_or_none()
            if row is None and "daily_limit" not in only:
                raise InvalidRequest(
                    f"There is no plan {plan.name} yet, and a new plan needs a daily limit. Set daily_limit."
                )
            values = {name: getattr(plan, name) for name in sorted(only)}
            if limit_changes is not None:
                before = plan.limits if "limits" in only or row is None else from_json(row.limits)
                values["limits"] = limit_changes.apply(before)
            details = dict(values)
            if "limits" in values:
                values["limits"] = to_json(values["limits"])
                details["limits"] = ", ".join(map(str, details["limits"])) or "none"
            if row is None:
                await connection.execute(insert(plans).values(name=plan.name, **values))
            else:
                await connection.execute(update(plans).where(plans.c.name == plan.name).values(values))
            await record(connection, "plan.set", by=by, at=at, target=plan.name, details=details)
            row = (await connection.execute(select(plans).where(plans.c.name == plan.name))).one()
        return _plan(row)


async def require_plan(connection: AsyncConnection, plan: str) -> None:
    """Check that a plan exists.

    Raises:
        NotFound: There is no such plan.
    """
    if await connection.scalar(select(plans.c.name).where(plans.c.name == plan)) is None:
        raise _plan_not_found(plan)


def _plan(row: Row[Any]) -> Plan:
    return Plan(
        row.name,
        row.daily_limit,
        active_keys_max=row.active_keys_max,
        new_keys_per_day_max=row.new_keys_per_day_max,
        account_daily_limit=row.account_daily_limit,
        limits=from_json(row.limits),
        weight=WEIGHT_DEFAULT if row.weight is None else row.weight,
    )


def _plan_not_found(name: str) -> NotFound:
    return NotFound(f"No plan {name} was found. List the plans with `stackctl plans list`.", reason="plan_not_found")
