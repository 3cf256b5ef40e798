"""Limits of plans and keys: validation, changes and their stored form.

Requests per day are not among them: they are the fields `daily_limit` and `account_daily_limit`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from services.common.errors import InvalidRequest
from services.common.limits import Limit, Scope, Unit, Window, checked_limits, effective_limits, parse_limits

WEIGHT_DEFAULT = 1
WEIGHT_MAX = 1_000

_FIELDS = {Scope.KEY: "daily_limit", Scope.ACCOUNT: "account_daily_limit"}


@dataclass(frozen=True, slots=True)
class LimitChanges:
    """Limits to set and to remove. Other limits stay as they are."""

    to_set: tuple[Limit, ...] = ()
    to_remove: frozenset[str] = frozenset()
    """Names of limits, such as `key:tokens:minute`."""

    def apply(self, limits: Iterable[Limit]) -> tuple[Limit, ...]:
        """Return the limits after the changes, ordered by name.

        Raises:
            InvalidRequest: A limit to remove is not among them.
        """
        by_name = {limit.name: limit for limit in limits}
        if missing := self.to_remove - by_name.keys():
            raise InvalidRequest(
                f"There is no limit {min(missing)} to remove. The limits are: {', '.join(sorted(by_name)) or 'none'}.",
                reason="invalid_limit",
            )
        return effective_limits((by_name[name] for name in by_name.keys() - self.to_remove), self.to_set)


def checked_plan_limits(limits: Iterable[Limit]) -> tuple[Limit, ...]:
    """Return the limits of a plan, ordered by name.

    Raises:
        InvalidRequest: Something is limited twice, or a limit has a field of its own.
    """
    checked = checked_limits(limits)
    for limit in checked:
        if limit.unit is Unit.REQUESTS and limit.window is Window.DAY:
            raise InvalidRequest(
                f"{limit.name} cannot be among the limits. Set {_FIELDS[limit.scope]} instead.", reason="invalid_limit"
            )
    return checked


def checked_key_limits(limits: Iterable[Limit]) -> tuple[Limit, ...]:
    """Return the limits of a key of its own, ordered by name.

    Raises:
        InvalidRequest: As for plans, or a limit applies to the account.
    """
    checked = checked_plan_limits(limits)
    for limit in checked:
        if limit.scope is not Scope.KEY:
            raise InvalidRequest(
                f"{limit.name} is a limit of the account, which its plan sets. A key can have limits that start with "
                "`key:`.",
                reason="invalid_limit",
            )
    return checked


def lowered(limits: Iterable[Limit], by_owner: Iterable[Limit]) -> tuple[Limit, ...]:
    """Return limits, with those of the owner where these are lower or there is none, ordered by name."""
    by_name = {limit.name: limit for limit in limits}
    for limit in by_owner:
        if limit.name not in by_name or limit.limit < by_name[limit.name].limit:
            by_name[limit.name] = limit
    return tuple(by_name[name] for name in sorted(by_name))


def checked_weight(weight: int) -> int:
    """Return the weight of a plan, or raise `InvalidRequest` if it is out of range."""
    if not 1 <= weight <= WEIGHT_MAX:
        raise InvalidRequest(f"The weight is {weight}. It must be 1 to {WEIGHT_MAX}.", reason="invalid_weight")
    return weight


def to_json(limits: Iterable[Limit]) -> str | None:
    """Return limits as they are stored; None without limits."""
    return json.dumps([str(limit) for limit in limits]) if limits else None


def from_json(text: str | None) -> tuple[Limit, ...]:
    """Return stored limits."""
    return parse_limits(json.loads(text)) if text else ()
