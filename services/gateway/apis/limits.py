"""The limits of a key and its account, as the API and the console show them."""

import math
from typing import Any

from services.common.limits import Limit, Scope, Unit, Window
from services.gateway.requests.types import Principal, RateLimit


def limits_of(principal: Principal) -> list[Limit]:
    """Return all limits of a key and its account: requests per day first, then the others by name."""
    limits = [Limit(Scope.KEY, Unit.REQUESTS, Window.DAY, principal.daily_limit)]
    if principal.account_limit is not None:
        limits.append(Limit(Scope.ACCOUNT, Unit.REQUESTS, Window.DAY, principal.account_limit))
    return [*limits, *principal.limits]


def limit_body(limit: Limit) -> dict[str, Any]:
    """Return a limit as the members of a JSON object. A cost is in microdollars."""
    return {"scope": limit.scope, "unit": limit.unit, "window": limit.window, "limit": limit.limit}


def rate_limit_body(limit: RateLimit, *, resets_at: str, now: float) -> dict[str, Any]:
    """Return a limit and what is used of it as a JSON object. Without a window, it does not reset.

    Args:
        limit: The limit.
        resets_at: End of the window in ISO 8601.
        now: The current time in Unix seconds.
    """
    has_window = limit.window is not None
    return {
        "object": "limit",
        "scope": limit.scope,
        "unit": limit.unit,
        "window": limit.window,
        "limit": limit.limit,
        "used": limit.charged,
        "held": limit.held,
        "remaining": limit.remaining,
        "resets_at": resets_at if has_window else None,
        "reset_in_seconds": max(0, math.ceil(limit.reset_at - now)) if has_window else None,
    }
