"""The pages of plans: all of them, and one to change."""

import json
from collections.abc import Mapping
from dataclasses import replace

from starlette.responses import Response

from services.common.errors import InvalidRequest, NotFound, ServiceError
from services.common.limits import parse_limit
from services.operator_console.model import Plan
from services.operator_console.page import Pages
from services.operator_console.request import OperatorRequest

_NUMBERS = ("daily_limit", "account_daily_limit", "active_keys_max", "new_keys_per_day_max", "weight")
_REQUIRED = frozenset({"daily_limit", "weight"})
_FIELDS = (*_NUMBERS, "limits")
_DIGITS_MAX = 16
_NUMBER_MAX = 2**31 - 1
"""The largest number that all fields can carry. Auth has lower limits, and says which."""


class PlanViews:
    """Handlers of the pages and their forms."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    async def index(self, request: OperatorRequest) -> Response:
        """`GET /plans`."""
        plans = await request.operator.plans()
        return self._pages.show(request, "plans", plans=plans, form={"name": "", "daily_limit": ""}, error="")

    async def create(self, request: OperatorRequest) -> Response:
        """`POST /plans`: a plan with a name and a daily limit, whose page then has the rest."""
        form = {name: request.text(name) for name in ("name", "daily_limit")}
        plans = await request.operator.plans()
        try:
            if form["name"] in {plan.name for plan in plans}:
                raise InvalidRequest(f"There is a plan {form['name']} already. Open it to change it.")
            plan = Plan(form["name"], _number("daily_limit", form["daily_limit"]) or 0)
            created = await request.operator.set_plan(plan, {"daily_limit"})
        except ServiceError as exc:
            return self._pages.show_error(request, "plans", exc, plans=plans, form=form)
        return self._pages.confirm(request, f"The plan {created.name} is created.", f"/plans/{created.name}")

    async def plan(self, request: OperatorRequest) -> Response:
        """`GET /plans/{name}`."""
        plan = await _plan(request)
        return self._pages.show(request, "plan", plan=plan, form=_texts(plan), was=_packed(_texts(plan)), error="")

    async def change(self, request: OperatorRequest) -> Response:
        """`POST /plans/{name}`: sets what differs from what the form showed, so that no other change is undone."""
        plan, form = await _plan(request), {name: request.text(name) for name in _FIELDS}
        was = _unpacked(request.text("was"))
        changed = {name for name in _FIELDS if form[name].split() != was.get(name, "").split()}
        try:
            if changed:
                await request.operator.set_plan(_changed(plan, form), changed)
        except ServiceError as exc:
            return self._pages.show_error(request, "plan", exc, plan=plan, form=form, was=request.text("was"))
        message = f"The plan {plan.name} is changed." if changed else "Nothing was changed."
        return self._pages.confirm(request, message, f"/plans/{plan.name}")


async def _plan(request: OperatorRequest) -> Plan:
    name = request.request.path_params["name"]
    found = next((plan for plan in await request.operator.plans() if plan.name == name), None)
    if found is None:
        raise NotFound("There is no such plan. See all plans under Plans.")
    return found


def _changed(plan: Plan, form: Mapping[str, str]) -> Plan:
    """Return a plan with the values of a form.

    Raises:
        InvalidRequest: A value is not a number or a limit.
    """
    numbers = {name: _number(name, form[name]) for name in _NUMBERS}
    if numbers["weight"] == 0:
        raise InvalidRequest("The weight must be at least 1.")
    limits = tuple(parse_limit(line) for line in form["limits"].split())
    return replace(plan, **numbers, limits=limits)  # type: ignore[arg-type]


def _number(name: str, text: str) -> int | None:
    """Return a number; None for an empty text, which resets a limit that is not required.

    Raises:
        InvalidRequest: The text is not a number or too large, or a required one is missing.
    """
    plain, label = text.replace(",", ""), name.replace("_", " ").capitalize()
    if not plain and name not in _REQUIRED:
        return None
    if not (plain.isascii() and plain.isdigit() and len(plain) <= _DIGITS_MAX):
        raise InvalidRequest(f"{label}: enter a whole number.")
    if (number := int(plain)) > _NUMBER_MAX:
        raise InvalidRequest(f"{label}: enter at most {_NUMBER_MAX:,}.")
    return number


def _texts(plan: Plan) -> dict[str, str]:
    """Return the fields of a plan as a form shows them."""
    numbers = {name: "" if getattr(plan, name) is None else str(getattr(plan, name)) for name in _NUMBERS}
    return numbers | {"limits": "\n".join(map(str, plan.limits))}


def _packed(texts: Mapping[str, str]) -> str:
    return json.dumps(texts)


def _unpacked(text: str) -> Mapping[str, str]:
    """Return what a form showed.

    Raises:
        InvalidRequest: The hidden field was changed.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise InvalidRequest("The form is not valid. Go back, reload the page and try again.")
    return found
