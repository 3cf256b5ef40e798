"""Plans: what the accounts on them may do."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.auth.audit import Actor
from services.auth.keys.minting import checked_limit
from services.common.errors import InvalidRequest

_NAME = re.compile(r"[a-z0-9_-]{1,50}")
_KEYS_MAX = 10**6


@dataclass(frozen=True, slots=True)
class Plan:
    """What the accounts on it may do."""

    name: str
    daily_limit: int
    """Requests a UTC day of each key without a limit of its own; 0 admits nothing."""
    active_keys_max: int | None = None
    """Most keys that an owner may have working at the same time; None leaves it to the settings."""
    new_keys_per_day_max: int | None = None
    """Most keys that an owner may make in 24 hours; None leaves it to the settings."""


PLAN_FIELDS = frozenset({"daily_limit", "active_keys_max", "new_keys_per_day_max"})
"""What can be set of a plan."""


class PlanStore(Protocol):
    """Where plans are kept. Each method raises `Unavailable` when the store cannot be reached."""

    async def plans(self) -> Sequence[Plan]:
        """Return all plans by name."""

    async def get(self, name: str) -> Plan:
        """Return a plan; `NotFound` when there is none."""

    async def set(self, plan: Plan, *, by: Actor, at: datetime, only: frozenset[str] = PLAN_FIELDS) -> Plan:
        """Make a plan or change it, audited, and return it; every key may have changed then.

        Args:
            plan: What it is to be.
            by: Who asks.
            at: When.
            only: Fields that are set; the others of a plan that exists stay as they are.

        Raises:
            InvalidRequest: There is no such plan, and `daily_limit` is not among the fields.
        """


def checked_plan(plan: Plan) -> Plan:
    """Return a plan that can be kept.

    Raises:
        InvalidRequest: The name or a number cannot be accepted.
    """
    checked_plan_name(plan.name)
    checked_limit(plan.daily_limit)
    for bound in (plan.active_keys_max, plan.new_keys_per_day_max):
        if bound is not None and not 0 <= bound <= _KEYS_MAX:
            raise InvalidRequest(f"a plan's bound of keys is 0 to {_KEYS_MAX}, not {bound}", reason="invalid_limit")
    return plan


def checked_fields(names: Collection[str]) -> frozenset[str]:
    """Return which fields of a plan are to be set; no names mean all.

    Raises:
        InvalidRequest: A plan has no such field.
    """
    if unknown := set(names) - PLAN_FIELDS:
        raise InvalidRequest(
            f"a plan has no {min(unknown)}; name some of {', '.join(sorted(PLAN_FIELDS))}", reason="invalid_field"
        )
    return frozenset(names) or PLAN_FIELDS


def checked_plan_name(name: str) -> str:
    """Return a plan's name, or raise `InvalidRequest`."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            "a plan's name has 1 to 50 characters of a-z, 0-9, - and _; choose another", reason="invalid_plan"
        )
    return name
