"""`stackctl usage`: show the usage of a key or of all accounts, and export rows."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import click

from services.cli import client, output
from services.cli.client import Backends
from services.cli.commands import keys
from services.cli.commands.usage_export import export
from services.cli.failures import Failure
from services.cli.key_uses import quota_account
from services.cli.usage_errors import Id
from services.common.ids import Kind
from services.common.prices import dollars
from services.common.rpc.surface import surface_from_proto
from stack.auth.v1 import keys_pb2
from stack.inference.v1 import export_pb2, export_pb2_grpc, usage_pb2, usage_pb2_grpc
from stack.quota.v1 import quota_pb2, quota_pb2_grpc

_SUMS = (
    "charged_requests",
    "released_requests",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "reasoning_tokens",
)
_ALL_SECONDS_MAX = 30.0
_COLUMNS = ("day", "model", "surface", *_SUMS, "cost_usd")


class _WithDefault(click.Group):
    """A group in which `usage KEY_ID` means `usage show KEY_ID`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Add the name of the default command."""
        is_named = not args or args[0] in self.commands or args[0] in ctx.help_option_names
        return super().parse_args(ctx, args if is_named else ["show", *args])


@click.group(cls=_WithDefault)
def usage() -> None:
    """Show the usage of a key or, with --all, of all accounts, and export rows.

    `usage KEY_ID` means `usage show KEY_ID`, and `usage --all` means `usage show --all`.
    """


usage.add_command(export)


@usage.command()
@click.argument("key_id", type=Id(Kind.KEY), required=False, default="")
@click.option("--all", "all_accounts", is_flag=True, help="Show the usage of all accounts instead of one key.")
@click.option(
    "--days", type=click.IntRange(1, 3660), default=7, show_default=True, help="Number of UTC days, including today."
)
@output.as_json_option
@click.pass_obj
def show(backends: Backends, key_id: str, *, all_accounts: bool, days: int, as_json: bool) -> None:
    """Show a key's requests today, and its requests, tokens and cost by day, model and surface; or all accounts' sums.

    The surface is the API of the requests. It is empty for requests of earlier versions, and if the outcome is unknown.
    The cost is that of the requests whose cost is known; it is empty if there are none, as for a model without a price.
    """
    if bool(key_id) == all_accounts:
        raise click.UsageError("Give either KEY_ID or --all.")
    if all_accounts:
        _show_all(backends, days=days, as_json=as_json)
        return
    key = keys.get(backends, key_id)
    status = _status(backends, key)
    # Quota's clock decides which day it is.
    first_day = (date.fromisoformat(status.day) - timedelta(days=days - 1)).isoformat()
    today, rows = _today(key, status), _days(backends, key_id, first_day=first_day, last_day=status.day)
    if as_json:
        output.show_json({"key_id": key_id, "today": today, "days": rows})
        return
    output.show_fields({"key_id": key_id, **today})
    output.say()
    _show_table(rows)


def _show_all(backends: Backends, *, days: int, as_json: bool) -> None:
    """Show the sums of all accounts. This machine's clock decides which day it is, since no key is counted."""
    last_day = datetime.now(UTC).date()
    request = export_pb2.SummarizeAllUsageRequest(
        from_day=(last_day - timedelta(days=days - 1)).isoformat(), to_day=last_day.isoformat()
    )
    answer = client.call(
        backends.inference(),
        lambda channel: export_pb2_grpc.UsageExportServiceStub(channel).SummarizeAllUsage,
        request,
        timeout_seconds=_ALL_SECONDS_MAX,
    )
    rows = [_row(summary) for summary in answer.summaries]
    output.show_json({"days": rows}) if as_json else _show_table(rows)


def _show_table(rows: Sequence[dict[str, Any]]) -> None:
    output.show_table(_COLUMNS, [["" if row[name] is None else row[name] for name in _COLUMNS] for row in rows])


def _status(backends: Backends, key: keys_pb2.Key) -> quota_pb2.DayStatus:
    statuses = client.call(
        backends.quota(),
        lambda channel: quota_pb2_grpc.QuotaServiceStub(channel).GetStatus,
        quota_pb2.GetStatusRequest(key_ids=[key.id], account_ids=[quota_account(key)]),
    ).statuses
    if not statuses or not statuses[0].day:
        raise Failure("The quota service cannot read today's counter. Try again.")
    return statuses[0]


def _today(key: keys_pb2.Key, status: quota_pb2.DayStatus) -> dict[str, Any]:
    return {
        "day": status.day,
        "charged": status.charged,
        "held": status.held,
        "limit": key.daily_limit,
        # A lowered limit can be below the requests already used.
        "remaining": max(0, key.daily_limit - status.charged - status.held),
        "reset_at": output.moment(status, "reset_at"),
    }


def _days(backends: Backends, key_id: str, *, first_day: str, last_day: str) -> Sequence[dict[str, Any]]:
    summaries = client.call(
        backends.inference(),
        lambda channel: usage_pb2_grpc.UsageServiceStub(channel).SummarizeUsage,
        usage_pb2.SummarizeUsageRequest(key_id=key_id, from_day=first_day, to_day=last_day, by_surface=True),
    ).summaries
    return [_row(summary) for summary in summaries]


def _row(summary: usage_pb2.UsageSummary) -> dict[str, Any]:
    sums = {name: getattr(summary, name) for name in _SUMS}
    cost = summary.cost if summary.HasField("cost") else None
    return {
        "day": summary.day,
        "model": summary.model,
        "surface": surface_from_proto(summary.surface),
        **sums,
        "cost_microdollars": cost,
        "cost_usd": None if cost is None else dollars(cost),
    }
