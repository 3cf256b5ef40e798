"""`stackctl verify`: compare the counters in Redis with the ledger, on a running system."""

from typing import Any

import click

from services.cli import output
from services.cli.client import Backends, call
from services.common.limits import Unit, Window
from services.common.rpc.limits import unit_from_proto, window_from_proto
from stack.quota.v1 import quota_pb2
from stack.quota.v1.quota_pb2_grpc import QuotaServiceStub

_VERIFY_SECONDS_MAX = 30.0
"""Comparing every key and day in Redis takes longer than other calls."""
_OLD = "older than a request can be in flight"
_EXPLANATIONS = {
    quota_pb2.DISCREPANCY_KIND_COUNTER_ABOVE_LEDGER: (
        "charged rows",
        "the key was charged for requests that are not in the ledger",
    ),
    quota_pb2.DISCREPANCY_KIND_COUNTER_BELOW_LEDGER: (
        f"charged rows {_OLD}",
        "the key has requests that are not counted; quota should have repaired the counter by now",
    ),
    quota_pb2.DISCREPANCY_KIND_HOLD_OVERDUE: (
        f"charged rows {_OLD}",
        "a request has been in flight for too long; quota should have closed it from the ledger by now",
    ),
    quota_pb2.DISCREPANCY_KIND_OVER_LIMIT: (
        "charged rows",
        "charged requests and requests in flight exceed the highest limit of the key on that day",
    ),
}
"""For each kind, the rows that the ledger's number counts, and the meaning of the discrepancy."""
_UNKNOWN = ("charged rows", "quota reports a kind of discrepancy that this version of stackctl does not support")


@click.command()
@output.as_json_option
@click.pass_context
def verify(context: click.Context, *, as_json: bool) -> None:
    """Compare counters and holds with the ledger. Differences explained by requests in flight are not reported.

    Exit code: 0 if there are no discrepancies, otherwise 1.
    """
    backends: Backends = context.obj
    report: quota_pb2.VerifyResponse = call(
        backends.quota(),
        lambda channel: QuotaServiceStub(channel).Verify,
        quota_pb2.VerifyRequest(),
        timeout_seconds=_VERIFY_SECONDS_MAX,
    )
    if as_json:
        output.show_json(_fields(report))
    else:
        for line in _report_lines(report):
            output.say(line)
    context.exit(1 if report.discrepancies else 0)


def _fields(report: quota_pb2.VerifyResponse) -> dict[str, Any]:
    return {
        "ok": not report.discrepancies,
        "key_days": report.key_days,
        "held": report.held,
        "discrepancies_count": report.discrepancies_count,
        "disagreements": [
            {
                "account_id": discrepancy.account_id,
                "key_id": discrepancy.key_id,
                "day": discrepancy.day,
                "kind": _kind(discrepancy.kind),
                "charged": discrepancy.charged,
                "held": discrepancy.held,
                "ledger_charged": discrepancy.ledger_charged,
                "unit": _unit(discrepancy),
                "window": _window(discrepancy),
            }
            for discrepancy in report.discrepancies
        ],
    }


def _kind(value: int) -> str:
    """Return the name of a kind. A newer quota service may return kinds that this version does not have."""

    kind = quota_pb2.DiscrepancyKind.DESCRIPTOR.values_by_number.get(value)
    return kind.name.removeprefix("DISCREPANCY_KIND_").lower() if kind else f"unknown_{value}"


def _report_lines(report: quota_pb2.VerifyResponse) -> list[str]:
    if not report.discrepancies:
        return [f"{report.key_days} counters agree; {report.held} requests in flight"]
    more = report.discrepancies_count - len(report.discrepancies)
    return [*map(_line, report.discrepancies), *([f"and {more:,} more"] if more > 0 else [])]


def _line(discrepancy: quota_pb2.Discrepancy) -> str:
    counted, meaning = _EXPLANATIONS.get(discrepancy.kind, _UNKNOWN)
    name = discrepancy.key_id or discrepancy.account_id
    unit, window = _unit(discrepancy), _window(discrepancy)
    what = f"{name} on {discrepancy.day}"
    if (unit, window) != (Unit.REQUESTS, Window.DAY):
        what, counted = f"{name}, {unit} of the {window} from {discrepancy.day}", f"{unit} of {counted}"
    return (
        f"{what}: Redis has {discrepancy.charged} charged and {discrepancy.held} in "
        f"flight, the ledger {discrepancy.ledger_charged} {counted}: {meaning}"
    )


def _unit(discrepancy: quota_pb2.Discrepancy) -> Unit:
    """Return the unit of the counter; an earlier version of quota, which does not send it, counts requests."""
    return unit_from_proto(discrepancy.unit) or Unit.REQUESTS


def _window(discrepancy: quota_pb2.Discrepancy) -> Window:
    """Return the window of the counter; an earlier version of quota, which does not send it, counts days."""
    return window_from_proto(discrepancy.window) or Window.DAY
