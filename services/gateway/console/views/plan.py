"""Plan page: the account's limits, what is used of them, and what the plan `pro` offers."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from starlette.responses import Response

from services.common.errors import ServiceError
from services.common.limits import Scope, Unit, Window
from services.gateway.console.labels import limit_amount, limit_label
from services.gateway.console.page import Pages
from services.gateway.console.ports import Plan, Session
from services.gateway.console.request_context import RequestContext, SessionScope
from services.gateway.requests.types import RateLimit

_FREE = "free"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlanRow:
    """A row of the comparison of plans."""

    label: str
    own: str
    pro: str
    """Empty if `pro` is not offered."""


@dataclass(frozen=True, slots=True)
class UseRow:
    """A limit of the account and what is used of it."""

    label: str
    used: str
    limit: str
    share: RateLimit


class PlanViews:
    """Handlers of the plan page."""

    def __init__(self, pages: Pages, upgrade: str) -> None:
        """Render with `pages`. See `upgrade_link` for `upgrade`."""
        self._pages = pages
        self._upgrade = upgrade

    async def index(self, context: RequestContext) -> Response:
        """`GET /plan`."""
        scope = context.scope
        plans = await scope.owner.plan()
        pro = plans.pro if self._upgrade and plans.own.name == _FREE else None
        return self._pages.show(
            context,
            "plan",
            plan=plans.own,
            pro=pro,
            rows=compare(plans.own, pro),
            uses=await _uses(scope, now=self._pages.now()),
            upgrade=upgrade_link(self._upgrade, scope.session) if pro else "",
        )


def upgrade_link(upgrade: str, session: Session) -> str:
    """Return the address to which "Upgrade to Pro" leads.

    Args:
        upgrade: An e-mail address, or a URL in which `{account_id}` and `{email}` are replaced by those of the account.
        session: The session of the account.
    """
    if not upgrade.startswith(("https://", "http://")):
        subject = urlencode({"subject": f"Upgrade to Pro ({session.account_id})"}, quote_via=quote)
        return f"mailto:{quote(upgrade, safe='@')}?{subject}"
    account_id, email = quote(session.account_id, safe=""), quote(session.email, safe="")
    return upgrade.replace("{account_id}", account_id).replace("{email}", email)


async def _uses(scope: SessionScope, *, now: float) -> Sequence[UseRow] | None:
    """Return what is used of the account's limits; empty without an active key, and None if it cannot be read."""
    try:
        active = [key for key in (await scope.owner.keys()).keys if key.state(now) in ("active", "rotated")]
        if not active:
            return []
        limits = await scope.usage.limits(await scope.owner.principal(active[-1].id))
    except ServiceError as exc:
        _log.warning("The counts of an account could not be read.", extra={"reason": exc.reason})
        return None
    return [_use(limit) for limit in limits if limit.is_of_account]


def _use(limit: RateLimit) -> UseRow:
    used = limit_amount(limit.unit, limit.charged + limit.held)
    label = limit_label(limit.scope, limit.unit, limit.window)
    return UseRow(label, used, limit_amount(limit.unit, limit.limit), limit)


def compare(own: Plan, pro: Plan | None) -> Sequence[PlanRow]:
    """Return the limits of one or two plans side by side, and those of keys and the weight last."""
    columns = [dict(_cells(plan)) for plan in (own, pro) if plan is not None]
    labels = dict.fromkeys(label for column in columns for label in column)
    ordered = [label for label in labels if label not in _LAST] + [label for label in _LAST if label in labels]
    cells = [[column.get(label, "no limit") for column in columns] for label in ordered]
    return [PlanRow(label, row[0], row[1] if pro else "") for label, row in zip(ordered, cells, strict=True)]


_KEYS, _NEW_KEYS, _WEIGHT = "Active API keys", "New API keys per day", "Share of capacity when it is scarce"
_LAST = (_KEYS, _NEW_KEYS, _WEIGHT)


def _cells(plan: Plan) -> Sequence[tuple[str, str]]:
    per_day = Unit.REQUESTS, Window.DAY
    of_account = "no limit" if plan.account_daily_limit is None else f"{plan.account_daily_limit:,}"
    return [
        (limit_label(Scope.KEY, *per_day), f"{plan.daily_limit:,}"),
        (limit_label(Scope.ACCOUNT, *per_day), of_account),
        *((limit_label(one.scope, one.unit, one.window), limit_amount(one.unit, one.limit)) for one in plan.limits),
        (_KEYS, f"{plan.active_keys_max:,}"),
        (_NEW_KEYS, f"{plan.new_keys_per_day_max:,}"),
        (_WEIGHT, f"{plan.weight}x"),
    ]
