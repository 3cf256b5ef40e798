"""`stackctl accounts sessions`: list and end the sessions of an account."""

from typing import Any

import click

from services.cli import client, output
from services.cli.client import Backends
from services.cli.usage_errors import Id
from services.common.ids import Kind
from stack.auth.v1 import account_sessions_pb2, sessions_pb2
from stack.auth.v1.account_sessions_pb2_grpc import AccountSessionServiceStub

_COLUMNS = ("id", "created_at", "last_used_at", "expires_at", "address")


@click.group()
def sessions() -> None:
    """List and end the sessions of an account in the console."""


@sessions.command("list")
@click.argument("account")
@output.as_json_option
@click.pass_obj
def list_sessions(backends: Backends, account: str, *, as_json: bool) -> None:
    """List the open sessions of an account, newest first."""
    request = account_sessions_pb2.ListSessionsRequest(account=account)
    listed = client.call(
        backends.auth(), lambda channel: AccountSessionServiceStub(channel).ListSessions, request
    ).sessions
    found = [_fields(session) for session in listed]
    if as_json:
        output.show_json({"sessions": found})
        return
    output.show_table(_COLUMNS, [[item[name] or "unknown" for name in _COLUMNS] for item in found])


@sessions.command("end")
@click.argument("account")
@click.argument("session_id", type=Id(Kind.SESSION), required=False, default="")
@click.option("--all", "all_sessions", is_flag=True, help="End all sessions of the account.")
@output.as_json_option
@click.pass_obj
def end_sessions(backends: Backends, account: str, session_id: str, *, all_sessions: bool, as_json: bool) -> None:
    """End one session of an account, or all. Its owner can log in again."""
    if bool(session_id) == all_sessions:
        raise click.UsageError("Give either SESSION_ID or --all.")
    request = account_sessions_pb2.EndSessionsRequest(account=account, session_id=session_id)
    answer = client.call(backends.auth(), lambda channel: AccountSessionServiceStub(channel).EndSessions, request)
    fields = {"ended": answer.count}
    output.show_json(fields) if as_json else output.show_fields(fields)


def _fields(session: sessions_pb2.Session) -> dict[str, Any]:
    times = {name: output.moment(session, name) for name in ("created_at", "last_used_at", "expires_at")}
    return {"id": session.id, **times, "address": session.address}
