"""The page of all accounts, with a search."""

from urllib.parse import urlencode

from starlette.responses import Response

from services.operator_console.model import AccountSearch
from services.operator_console.page import Pages
from services.operator_console.request import OperatorRequest

_PAGE_SIZE = 50
_STATES = ("", "active", "suspended", "deleted")


class AccountsPage:
    """Handler of the page."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    async def index(self, request: OperatorRequest) -> Response:
        """`GET /accounts`: newest first."""
        state = request.query("state")
        wanted = AccountSearch(
            text=request.query("text"),
            plan=request.query("plan"),
            state=state if state in _STATES else "",
            before=request.query("before"),
        )
        found = await request.operator.accounts(wanted, limit=_PAGE_SIZE + 1)
        plans = [plan.name for plan in await request.operator.plans()]
        accounts, has_more = found[:_PAGE_SIZE], len(found) > _PAGE_SIZE
        return self._pages.show(
            request,
            "accounts",
            accounts=accounts,
            plans=plans,
            states=_STATES,
            wanted=wanted,
            older=_older(wanted, accounts[-1].id) if has_more else "",
        )


def _older(wanted: AccountSearch, before: str) -> str:
    fields = {"text": wanted.text, "plan": wanted.plan, "state": wanted.state, "before": before}
    return urlencode({name: value for name, value in fields.items() if value})
