"""`stackctl audit`: show the audit log."""

from typing import Any

import click

from services.cli import client, output
from services.cli.client import Backends
from services.cli.usage_errors import Id
from services.common.ids import Kind
from stack.auth.v1 import audit_pb2
from stack.auth.v1.audit_pb2_grpc import AuditServiceStub

_COLUMNS = ("id", "at", "actor", "address", "action", "account_id", "target", "details")


@click.command()
@click.option("--account", default="", help="Show only changes of this account: e-mail address or id.")
@click.option(
    "--limit", type=click.IntRange(1, 1_000), default=50, show_default=True, help="Maximum number of changes."
)
@click.option(
    "--before",
    type=Id(Kind.AUDIT_EVENT),
    default="",
    help="Show only changes older than the one with this id, to get the next page.",
)
@output.as_json_option
@click.pass_obj
def audit(backends: Backends, *, account: str, limit: int, before: str, as_json: bool) -> None:
    """Show changes of accounts, keys, plans and sessions, newest first."""
    request = audit_pb2.ListAuditEventsRequest(account=account, page_size=limit, before=before)
    answer = client.call(backends.auth(), lambda channel: AuditServiceStub(channel).ListAuditEvents, request)
    events = [_fields(event) for event in answer.events]
    if as_json:
        output.show_json({"events": events})
        return
    output.show_table(_COLUMNS, [[_cell(event[name]) for name in _COLUMNS] for event in events])


def _fields(event: audit_pb2.AuditEvent) -> dict[str, Any]:
    return {
        "id": event.id,
        "at": output.moment(event, "at"),
        "actor": event.actor,
        "address": event.address,
        "action": event.action,
        "account_id": event.account_id,
        "target": event.target,
        "details": dict(event.details),
    }


def _cell(value: Any) -> str:
    return ", ".join(f"{name}={text}" for name, text in value.items()) if isinstance(value, dict) else str(value)
