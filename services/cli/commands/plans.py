"""`stackctl plans`: manage plans."""

from typing import Any

import click
from google.protobuf.field_mask_pb2 import FieldMask

from services.cli import client, output
from services.cli.client import Backends
from services.cli.failures import Failure
from services.cli.limits import LimitName, LimitText
from services.common.limits import Limit
from services.common.rpc.limits import limit_to_proto, limits_from_proto
from stack.auth.v1 import plans_pb2
from stack.auth.v1.plans_pb2_grpc import PlanServiceStub

_COLUMNS = ("name", "daily_limit", "account_daily_limit", "active_keys_max", "new_keys_per_day_max", "weight", "limits")
_OPTIONAL = ("account_daily_limit", "active_keys_max", "new_keys_per_day_max")
_DEFAULT = -1
_ABSENT = {"account_daily_limit": "none"}
"""What a table shows for a limit that is not set, in the word that sets it; `default` for others."""


class Bound(click.ParamType[int]):
    """A limit on keys; `default` uses the setting of auth."""

    name = "number|default"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse a limit."""
        return _DEFAULT if value == "default" else click.IntRange(0, 10**6).convert(value, param, ctx)


class AccountLimit(click.ParamType[int]):
    """A limit on requests; `none` removes it."""

    name = "number|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse a limit."""
        return _DEFAULT if value == "none" else click.IntRange(0, 10**9).convert(value, param, ctx)


@click.group()
def plans() -> None:
    """Manage plans. NAME is the name of a plan."""


@plans.command("list")
@output.as_json_option
@click.pass_obj
def list_plans(backends: Backends, *, as_json: bool) -> None:
    """List the plans with all their limits."""
    found = _all(backends)
    if as_json:
        output.show_json({"plans": found})
        return
    rows = [[_shown(name, item[name]) for name in _COLUMNS] for item in found]
    output.show_table(_COLUMNS, rows)


@plans.command("show")
@click.argument("name")
@output.as_json_option
@click.pass_obj
def show_plan(backends: Backends, name: str, *, as_json: bool) -> None:
    """Show one plan with all its limits."""
    if (fields := next((plan for plan in _all(backends) if plan["name"] == name), None)) is None:
        raise Failure(f"No plan {name} was found. List the plans with `stackctl plans list`.")
    _show(fields, as_json=as_json)


@plans.command("set")
@click.argument("name")
@click.option(
    "--daily-limit", type=click.IntRange(0, 10**9), help="Requests per UTC day of each key. Required for a new plan."
)
@click.option(
    "--account-daily-limit",
    type=AccountLimit(),
    help="Requests per UTC day of each account, with all its keys. A higher limit of one of its keys applies instead.",
)
@click.option("--active-keys-max", type=Bound(), help="Active keys of each account.")
@click.option("--new-keys-per-day-max", type=Bound(), help="New keys of each account in any 24 hours.")
@click.option("--weight", type=click.IntRange(1, 1_000), help="Share of Groq's allowance relative to other accounts.")
@click.option(
    "--limit",
    "limits",
    type=LimitText(),
    multiple=True,
    help="Other limit, such as key:tokens:minute=6000 or account:cost:month=$20. Can be repeated.",
)
@click.option(
    "--no-limit",
    "removed_limits",
    type=LimitName(),
    multiple=True,
    help="Limit to remove, such as key:tokens:minute. Can be repeated.",
)
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
    weight: int | None,
    limits: tuple[Limit, ...],
    removed_limits: tuple[Limit, ...],
    as_json: bool,
) -> None:
    """Create a plan, or change it for all its accounts. Limits whose options are not given stay as they are.

    Other limits are written `SCOPE:UNIT:WINDOW=NUMBER`: the scope is `key` or `account`, and the rest is
    `requests:minute`, `tokens:minute`, `tokens:day`, `cost:day`, `cost:month` (in microdollars, or in dollars after
    `$`) or `concurrent_requests`.

    For limits on keys, `default` means the value of AUTH_ACTIVE_KEYS_MAX or AUTH_NEW_KEYS_PER_DAY_MAX. For the limit on
    an account's requests, `none` means no limit.
    """
    options = {
        "daily_limit": daily_limit,
        "account_daily_limit": account_daily_limit,
        "active_keys_max": active_keys_max,
        "new_keys_per_day_max": new_keys_per_day_max,
        "weight": weight,
    }
    named = {field: value for field, value in options.items() if value is not None}
    if not (named or limits or removed_limits):
        raise click.UsageError("There is nothing to set. Give at least one option, such as --daily-limit.")
    values: dict[str, Any] = {field: value for field, value in named.items() if value != _DEFAULT}
    request = plans_pb2.SetPlanRequest(
        plan=plans_pb2.Plan(name=name, **values),
        update_mask=FieldMask(paths=sorted(named)),
        changed_limits=map(limit_to_proto, limits),
        removed_limits=map(limit_to_proto, removed_limits),
    )
    answer = client.call(backends.auth(), lambda channel: PlanServiceStub(channel).SetPlan, request)
    _show(_fields(answer.plan), as_json=as_json)


def _all(backends: Backends) -> list[dict[str, Any]]:
    request = plans_pb2.ListPlansRequest()
    answer = client.call(backends.auth(), lambda channel: PlanServiceStub(channel).ListPlans, request)
    return [_fields(plan) for plan in answer.plans]


def _show(fields: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.show_json(fields)
        return
    output.show_fields({name: _shown(name, value) for name, value in fields.items()})


def _shown(field: str, value: Any) -> Any:
    if field == "limits":
        return ", ".join(value) or "none"
    return _ABSENT.get(field, "default") if value is None else value


def _fields(plan: plans_pb2.Plan) -> dict[str, Any]:
    bounds = {field: getattr(plan, field) if plan.HasField(field) else None for field in _OPTIONAL}  # type: ignore[arg-type]
    limits = [str(limit) for limit in limits_from_proto(plan.limits)]
    return {
        "name": plan.name,
        "daily_limit": plan.daily_limit,
        **bounds,
        "weight": plan.weight or 1,
        "limits": limits,
    }
