"""Plans: data model, validation and storage interface."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from services.auth.audit import Actor
from services.auth.keys.minting import checked_limit
from services.auth.limits import WEIGHT_DEFAULT, LimitChanges, checked_plan_limits, checked_weight
from services.common.errors import InvalidRequest
from services.common.limits import Limit

PRO_PLAN = "pro"
"""Name of the plan that the console offers to accounts on the free plan."""

_NAME = re.compile(r"[a-z0-9_-]{1,50}")
_KEYS_MAX = 10**6


@dataclass(frozen=True, slots=True)
class Plan:
    """Limits that apply to the accounts on a plan."""

    name: str
    daily_limit: int
    """Requests per UTC day for each key without its own limit; 0 allows none."""
    active_keys_max: int | None = None
    """Maximum active keys per account; None uses the setting."""
    new_keys_per_day_max: int | None = None
    """Maximum keys that an owner may create in 24 hours; None uses the setting."""
    account_daily_limit: int | None = None
    """Requests per UTC day of an account with all its keys; None sets no limit. An account whose key has a higher limit
    has that one."""
    limits: tuple[Limit, ...] = ()
    """All other limits of the account and of each of its keys. Ordered by name."""
    weight: int = WEIGHT_DEFAULT
    """Share of Groq's allowance that an account gets, relative to others, when not all can be served."""


PLAN_FIELDS = frozenset(
    {"daily_limit", "active_keys_max", "new_keys_per_day_max", "account_daily_limit", "limits", "weight"}
)
"""Fields of a plan that can be set."""


class PlanStore(Protocol):
    """Interface for storing plans. Methods raise `Unavailable` if the store cannot be reached."""

    async def plans(self) -> Sequence[Plan]:
        """Return all plans, ordered by name."""

    async def get(self, name: str) -> Plan:
        """Return a plan. Raises `NotFound` if there is no such plan."""

    async def set(
        self,
        plan: Plan,
        *,
        by: Actor,
        at: datetime,
        only: frozenset[str] = PLAN_FIELDS,
        limit_changes: LimitChanges | None = None,
    ) -> Plan:
        """Create or update a plan with an audit event, and return it. Marks all keys as possibly changed.

        Args:
            plan: The new values.
            by: The caller.
            at: The time of the change.
            only: Fields to set. Other fields of an existing plan keep their values.
            limit_changes: Changes to the plan's limits, made after the fields are set; None makes none.

        Raises:
            InvalidRequest: There is no such plan, and `daily_limit` is not among the fields; or a limit to remove does
                not exist.
        """


def checked_plan(plan: Plan) -> Plan:
    """Return the plan with its limits ordered by name.

    Raises:
        InvalidRequest: The name or a limit is invalid.
    """
    checked_plan_name(plan.name)
    checked_limit(plan.daily_limit)
    checked_limit(plan.account_daily_limit)
    checked_weight(plan.weight)
    for bound in (plan.active_keys_max, plan.new_keys_per_day_max):
        if bound is not None and not 0 <= bound <= _KEYS_MAX:
            raise InvalidRequest(
                f"A limit on the number of keys is {bound}. It must be 0 to {_KEYS_MAX}.", reason="invalid_limit"
            )
    return replace(plan, limits=checked_plan_limits(plan.limits))


def checked_fields(names: Collection[str]) -> frozenset[str]:
    """Return the fields of a plan to set.

    Raises:
        InvalidRequest: A plan has no such field.
    """
    if unknown := set(names) - PLAN_FIELDS:
        raise InvalidRequest(
            f"A plan has no field {min(unknown)}. Use {', '.join(sorted(PLAN_FIELDS))}.", reason="invalid_field"
        )
    return frozenset(names)


def checked_plan_name(name: str) -> str:
    """Return a plan's name, or raise `InvalidRequest` if it is invalid."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            "The plan's name is invalid. Use 1 to 50 of the characters a-z, 0-9, - and _.", reason="invalid_plan"
        )
    return name
