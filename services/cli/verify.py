"""`stackctl verify`: whether Redis' counters and the ledger tell the same, on a live system."""

from typing import Any

import click

from services.cli import output
from services.cli.client import Backends, call
from stack.quota.v1 import quota_pb2
from stack.quota.v1.quota_pb2_grpc import QuotaServiceStub

_VERIFY_SECONDS_MAX = 30.0
"""Every key and day of Redis is compared, which takes longer than other calls may."""
_OLD = "older than a request can be in flight"
_SAYINGS = {
    quota_pb2.DISCREPANCY_KIND_COUNTER_ABOVE_LEDGER: (
        "charged rows",
        "the key was charged for requests that nothing is known of",
    ),
    quota_pb2.DISCREPANCY_KIND_COUNTER_BELOW_LEDGER: (
        f"charged rows {_OLD}",
        "the key gets requests for nothing; quota should have raised the counter by now",
    ),
    quota_pb2.DISCREPANCY_KIND_HOLD_OVERDUE: (
        f"charged rows {_OLD}",
        "a request has been in flight for too long; quota should have asked the ledger and closed it by now",
    ),
    quota_pb2.DISCREPANCY_KIND_OVER_LIMIT: (
        "charged rows",
        "more is charged and in flight than the key's limit ever was on that day",
    ),
}
"""What the ledger's number counts, and what the disagreement means."""
_UNKNOWN = ("charged rows", "quota says that they disagree in a way that this stackctl does not know")


@click.command()
@output.as_json_option
@click.pass_context
def verify(context: click.Context, *, as_json: bool) -> None:
    """Compare counters and holds with the ledger; what requests in flight explain is no disagreement.

    Exit code 0 when all agree, 1 when something does not.
    """
    backends: Backends = context.obj
    report: quota_pb2.VerifyResponse = call(
        backends.quota(),
        lambda channel: QuotaServiceStub(channel).Verify,
        quota_pb2.VerifyRequest(),
        timeout_seconds=_VERIFY_SECONDS_MAX,
    )
    if as_json:
        output.show_json(_facts(report))
    else:
        for line in _lines(report):
            output.say(line)
    context.exit(1 if report.discrepancies else 0)


def _facts(report: quota_pb2.VerifyResponse) -> dict[str, Any]:
    return {
        "ok": not report.discrepancies,
        "key_days": report.key_days,
        "held": report.held,
        "discrepancies_count": report.discrepancies_count,
        "disagreements": [
            {
                "key_id": one.key_id,
                "day": one.day,
                "kind": _kind(one.kind),
                "charged": one.charged,
                "held": one.held,
                "ledger_charged": one.ledger_charged,
            }
            for one in report.discrepancies
        ],
    }


def _kind(value: int) -> str:
    """Return a kind's name; quota may be newer than this program and know more of them."""
    kind = quota_pb2.DiscrepancyKind.DESCRIPTOR.values_by_number.get(value)
    return kind.name.removeprefix("DISCREPANCY_KIND_").lower() if kind else f"unknown_{value}"


def _lines(report: quota_pb2.VerifyResponse) -> list[str]:
    if not report.discrepancies:
        return [f"{report.key_days} keys and days agree; {report.held} requests in flight"]
    more = report.discrepancies_count - len(report.discrepancies)
    return [*map(_line, report.discrepancies), *([f"and {more:,} more"] if more > 0 else [])]


def _line(one: quota_pb2.Discrepancy) -> str:
    counted, meaning = _SAYINGS.get(one.kind, _UNKNOWN)
    return (
        f"{one.key_id} on {one.day}: Redis has {one.charged} charged and {one.held} in flight, "
        f"the ledger {one.ledger_charged} {counted}: {meaning}"
    )
