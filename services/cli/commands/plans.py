"""`stackctl plans`: manage plans."""

from typing import Any

import click
from google.protobuf.field_mask_pb2 import FieldMask

from services.cli import client, output
from services.cli.client import Backends
from stack.auth.v1 import plans_pb2
from stack.auth.v1.plans_pb2_grpc import PlanServiceStub

_COLUMNS = ("name", "daily_limit", "account_daily_limit", "active_keys_max", "new_keys_per_day_max")
_DEFAULT = -1
_ABSENT = {"account_daily_limit": "none"}
"""What a table shows for a limit that is not set; `default` for others."""


class Bound(click.ParamType[int]):
    """A limit on the number of keys; `default` uses the setting."""

    name = "number|default"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse a limit."""
        return _DEFAULT if value == "default" else click.IntRange(0, 10**6).convert(value, param, ctx)


class AccountLimit(click.ParamType[int]):
    """A limit of requests; `none` sets no limit."""

    name = "number|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse a limit."""
        return _DEFAULT if value == "none" else click.IntRange(0, 10**9).convert(value, param, ctx)


@click.group()
def plans() -> None:
    """Manage plans."""


@plans.command("list")
@output.as_json_option
@click.pass_obj
def list_plans(backends: Backends, *, as_json: bool) -> None:
    """List all plans."""
    request = plans_pb2.ListPlansRequest()
    answer = client.call(backends.auth(), lambda channel: PlanServiceStub(channel).ListPlans, request)
    found = [_fields(plan) for plan in answer.plans]
    if as_json:
        output.show_json({"plans": found})
        return
    rows = [[_shown(name, item[name]) for name in _COLUMNS] for item in found]
    output.show_table(_COLUMNS, rows)


@plans.command("set")
@click.argument("name")
@click.option(
    "--daily-limit", type=click.IntRange(0, 10**9), help="Requests per UTC day of each key. Required for a new plan."
)
@click.option(
    "--account-daily-limit",
    type=AccountLimit(),
    help="Requests per UTC day of an account with all its keys. A higher limit of one of its keys applies instead.",
)
@click.option("--active-keys-max", type=Bound(), help="Maximum active keys per account.")
@click.option("--new-keys-per-day-max", type=Bound(), help="Maximum keys created in 24 hours.")
@output.as_json_option
@click.pass_obj
def set_plan(
    backends: Backends,
    name: str,
    *,
    daily_limit: int | None,
    account_daily_limit: int | None,
    active_keys_max: int | None,
    new_keys_per_day_max: int | None,
    as_json: bool,
) -> None:
    """Create the plan NAME, or change it for all its accounts. Options that are not given keep their values.

    A limit on keys is a number, or `default` for the value of AUTH_ACTIVE_KEYS_MAX or AUTH_NEW_KEYS_PER_DAY_MAX.
    """
    options = {
        "daily_limit": daily_limit,
        "account_daily_limit": account_daily_limit,
        "active_keys_max": active_keys_max,
        "new_keys_per_day_max": new_keys_per_day_max,
    }
    named = {field: value for field, value in options.items() if value is not None}
    if not named:
        raise click.UsageError("There is nothing to set. Give at least one option, such as --daily-limit.")
    values: dict[str, Any] = {field: value for field, value in named.items() if value != _DEFAULT}
    request = plans_pb2.SetPlanRequest(
        plan=plans_pb2.Plan(name=name, **values), update_mask=FieldMask(paths=sorted(named))
    )
    fields = _fields(client.call(backends.auth(), lambda channel: PlanServiceStub(channel).SetPlan, request).plan)
    output.show_json(fields) if as_json else output.show_fields(fields)


def _shown(field: str, value: Any) -> Any:
    return _ABSENT.get(field, "default") if value is None else value


def _fields(plan: plans_pb2.Plan) -> dict[str, Any]:
    bounds = {field: getattr(plan, field) if plan.HasField(field) else None for field in _COLUMNS[2:]}  # type: ignore[arg-type]
    return {"name": plan.name, "daily_limit": plan.daily_limit, **bounds}
