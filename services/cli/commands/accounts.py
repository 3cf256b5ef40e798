"""`stackctl accounts`: manage accounts, password resets and invitations."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import click
from google.protobuf.message import Message
from grpc import aio

from services.cli import client, output
from services.cli.client import Backends, Service
from services.cli.commands.sessions import sessions
from services.cli.confirmation import confirmed
from services.cli.failures import Failure
from services.cli.usage_errors import Id
from services.common.errors import Unavailable
from services.common.ids import Kind
from stack.auth.v1 import accounts_pb2
from stack.auth.v1.accounts_pb2_grpc import AccountServiceStub
from stack.inference.v1 import responses_pb2, webhooks_pb2
from stack.inference.v1.responses_pb2_grpc import StoredResponseServiceStub
from stack.inference.v1.webhooks_pb2_grpc import UsageWebhookServiceStub

_DELETE_SECONDS_MAX = 10.0
"""Longer than two attempts of inference to reach the Redis of stored responses."""
_STORAGE_UNAVAILABLE = "response_storage_unavailable"
"""The reason of inference's errors when that Redis cannot be used."""

_LATER = ("email_verified_at", "deleted_at", "suspended_at", "operator_since")
"""Times that are shown if there are any."""

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@click.group()
def accounts() -> None:
    """Manage accounts. ACCOUNT is an e-mail address or an id."""


@accounts.command()
@click.option("--email", required=True, help="E-mail address of the new account.")
@click.option("--plan", default="free", show_default=True, help="Plan of the new account.")
@output.as_json_option
@click.pass_obj
def create(backends: Backends, email: str, *, plan: str, as_json: bool) -> None:
    """Create an account without a password. Use `reset-password` to let its owner choose one."""
    request = accounts_pb2.CreateAccountRequest(email=email, plan=plan)
    _show(_call(backends, lambda stub: stub.CreateAccount, request).account, as_json=as_json)


@accounts.command("list")
@click.option(
    "--limit", type=click.IntRange(1, 1_000), default=100, show_default=True, help="Maximum number of accounts."
)
@click.option("--after", type=Id(Kind.ACCOUNT), default="", help="Continue after this account's id.")
@output.as_json_option
@click.pass_obj
def list_accounts(backends: Backends, *, limit: int, after: str, as_json: bool) -> None:
    """List accounts, oldest first, including deleted ones."""
    request = accounts_pb2.ListAccountsRequest(page_size=limit, after=after)
    found = [_fields(account) for account in _call(backends, lambda stub: stub.ListAccounts, request).accounts]
    if as_json:
        output.show_json({"accounts": found})
        return
    columns = ("id", "email", "plan", "created_at", "state")
    rows = [[*(item.get(name) or "" for name in columns[:-1]), _state(item)] for item in found]
    output.show_table(columns, rows, colors={"state": output.state_color})


@accounts.command()
@click.argument("account")
@output.as_json_option
@click.pass_obj
def show(backends: Backends, account: str, *, as_json: bool) -> None:
    """Show one account."""
    request = accounts_pb2.GetAccountRequest(account=account)
    _show(_call(backends, lambda stub: stub.GetAccount, request).account, as_json=as_json)


@accounts.command("set-plan")
@click.argument("account")
@click.argument("plan")
@output.as_json_option
@click.pass_obj
def set_plan(backends: Backends, account: str, plan: str, *, as_json: bool) -> None:
    """Move an account to another plan. The plan's limit applies to its keys immediately."""
    request = accounts_pb2.SetAccountPlanRequest(account=account, plan=plan)
    _show(_call(backends, lambda stub: stub.SetAccountPlan, request).account, as_json=as_json)


@accounts.command()
@click.argument("account")
@click.option("--reason", default="", help="Reason for the audit log, which the owner can read.")
@output.as_json_option
@click.pass_obj
def suspend(backends: Backends, account: str, *, reason: str, as_json: bool) -> None:
    """Suspend an account: refuse its keys within a second, end its sessions, and refuse log-ins, until `resume`."""
    request = accounts_pb2.SuspendAccountRequest(account=account, reason=reason)
    _show(_call(backends, lambda stub: stub.SuspendAccount, request).account, as_json=as_json)


@accounts.command()
@click.argument("account")
@output.as_json_option
@click.pass_obj
def resume(backends: Backends, account: str, *, as_json: bool) -> None:
    """End the suspension of an account. Its keys work again; its owner logs in again."""
    request = accounts_pb2.ResumeAccountRequest(account=account)
    _show(_call(backends, lambda stub: stub.ResumeAccount, request).account, as_json=as_json)


accounts.add_command(sessions)


@accounts.command()
@click.argument("account")
@confirmed("This revokes all keys of the account and erases its personal data.")
@output.as_json_option
@click.pass_obj
def delete(backends: Backends, account: str, *, as_json: bool) -> None:
    """Delete an account: revoke its keys, end its sessions, and keep its usage without personal data.

    Its stored responses are deleted, too. If that fails, repeat the command with the account's id.
    """
    request = accounts_pb2.DeleteAccountRequest(account=account)
    deleted = _call(backends, lambda stub: stub.DeleteAccount, request).account
    _show(deleted, as_json=as_json)
    _delete_responses(backends.inference(), deleted.id)
    _delete_webhook(backends.inference(), deleted.id)


@accounts.command("reset-password")
@click.argument("account")
@output.as_json_option
@click.pass_obj
def reset_password(backends: Backends, account: str, *, as_json: bool) -> None:
    """Print a link that lets the owner choose a password. Share it over a private channel."""
    request = accounts_pb2.CreatePasswordResetRequest(account=account)
    _show_link(_call(backends, lambda stub: stub.CreatePasswordReset, request), as_json=as_json)


@accounts.command("reset-totp")
@click.argument("account")
@confirmed("This removes the second factor of the account and its recovery codes.")
@output.as_json_option
@click.pass_obj
def reset_totp(backends: Backends, account: str, *, as_json: bool) -> None:
    """Remove the second factor of an owner who lost it. Make sure that it is the owner who asks."""
    request = accounts_pb2.ResetTOTPRequest(account=account)
    _show(_call(backends, lambda stub: stub.ResetTOTP, request).account, as_json=as_json)


@accounts.command()
@click.option("--plan", default="free", show_default=True, help="Plan of the account created with the invitation.")
@output.as_json_option
@click.pass_obj
def invite(backends: Backends, *, plan: str, as_json: bool) -> None:
    """Print an invitation link for one sign-up. Required to sign up if AUTH_SIGN_UP is `invite`."""
    request = accounts_pb2.CreateInviteRequest(plan=plan)
    _show_link(_call(backends, lambda stub: stub.CreateInvite, request), as_json=as_json)


def _call(
    backends: Backends,
    method: "Callable[[AccountServiceStub], aio.UnaryUnaryMultiCallable[Request, Response]]",
    request: Request,
) -> Response:
    return client.call(backends.auth(), lambda channel: method(AccountServiceStub(channel)), request)


def _delete_responses(inference: Service, account_id: str) -> None:
    """Delete the stored responses of an account, if responses are stored.

    Raises:
        Failure: Inference or the storage cannot be used.
    """
    call = partial(client.call, inference, timeout_seconds=_DELETE_SECONDS_MAX)
    request = responses_pb2.DeleteResponsesRequest(account_id=account_id)
    try:
        status = call(lambda channel: StoredResponseServiceStub(channel).GetStatus, responses_pb2.GetStatusRequest())
        if status.enabled:
            call(lambda channel: StoredResponseServiceStub(channel).DeleteResponses, request)
    except Failure as exc:
        is_redis = isinstance(exc.__cause__, Unavailable) and exc.__cause__.reason == _STORAGE_UNAVAILABLE
        why = "Restore inference's Redis of stored responses." if is_redis else exc.message
        raise type(exc)(
            f"The account is deleted, but its stored responses are not. {why} Then run `stackctl accounts delete "
            f"{account_id}` again."
        ) from exc


def _delete_webhook(inference: Service, account_id: str) -> None:
    """Delete the usage webhook of an account, if there is one.

    Raises:
        Failure: Inference or its database cannot be used.
    """
    request = webhooks_pb2.DeleteWebhookRequest(account_id=account_id)
    try:
        client.call(inference, lambda channel: UsageWebhookServiceStub(channel).DeleteWebhook, request)
    except Failure as exc:
        raise type(exc)(
            f"The account is deleted, but its usage webhook is not. {exc.message} Then run `stackctl accounts delete "
            f"{account_id}` again."
        ) from exc


def _show(account: accounts_pb2.Account, *, as_json: bool) -> None:
    fields = _fields(account)
    output.show_json(fields) if as_json else output.show_fields(fields)


def _show_link(
    link: accounts_pb2.CreatePasswordResetResponse | accounts_pb2.CreateInviteResponse, *, as_json: bool
) -> None:
    fields = {"url": link.url, "token": link.token, "expires_at": output.moment(link, "expires_at")}
    output.show_json(fields) if as_json else output.show_fields(fields)


def _state(fields: dict[str, Any]) -> str:
    ends = [f"{name} {fields[f'{name}_at']}" for name in ("deleted", "suspended") if fields.get(f"{name}_at")]
    return ends[0] if ends else "active"


def _fields(account: accounts_pb2.Account) -> dict[str, Any]:
    fields = {
        "id": account.id,
        "email": account.email,
        "plan": account.plan,
        "created_at": output.moment(account, "created_at"),
    }
    later = {name: output.moment(account, name) for name in _LATER}
    return fields | {name: moment for name, moment in later.items() if moment}
