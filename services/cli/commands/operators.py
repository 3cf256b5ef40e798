"""`stackctl operators`: the role with which an account may use the operators' console."""

from collections.abc import Callable
from typing import Any, TypeVar

import click
from google.protobuf.message import Message
from grpc import aio

from services.cli import client, output
from services.cli.client import Backends
from stack.auth.v1 import accounts_pb2
from stack.auth.v1.accounts_pb2_grpc import AccountServiceStub

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@click.group()
def operators() -> None:
    """Manage who may use the operators' console. ACCOUNT is an e-mail address or an id."""


@operators.command()
@click.argument("account")
@output.as_json_option
@click.pass_obj
def add(backends: Backends, account: str, *, as_json: bool) -> None:
    """Give an account the role of operators. To log in, its owner also needs a second factor."""
    request = accounts_pb2.AddOperatorRequest(account=account)
    _show(_call(backends, lambda stub: stub.AddOperator, request).account, as_json=as_json)


@operators.command()
@click.argument("account")
@output.as_json_option
@click.pass_obj
def remove(backends: Backends, account: str, *, as_json: bool) -> None:
    """Take the role away, and end the account's sessions in the operators' console."""
    request = accounts_pb2.RemoveOperatorRequest(account=account)
    _show(_call(backends, lambda stub: stub.RemoveOperator, request).account, as_json=as_json)


@operators.command("list")
@output.as_json_option
@click.pass_obj
def list_operators(backends: Backends, *, as_json: bool) -> None:
    """List the operators, and whether each has the second factor that log-ins need."""
    response = _call(backends, lambda stub: stub.ListOperators, accounts_pb2.ListOperatorsRequest())
    found = [_fields(one.account) | {"second_factor": one.has_totp} for one in response.operators]
    if as_json:
        output.show_json({"operators": found})
        return
    columns = ("id", "email", "operator_since", "second_factor")
    output.show_table(columns, [[_cell(item[name]) for name in columns] for item in found])


def _call(
    backends: Backends,
    method: "Callable[[AccountServiceStub], aio.UnaryUnaryMultiCallable[Request, Response]]",
    request: Request,
) -> Response:
    return client.call(backends.auth(), lambda channel: method(AccountServiceStub(channel)), request)


def _cell(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value or "")


def _show(account: accounts_pb2.Account, *, as_json: bool) -> None:
    fields = _fields(account)
    output.show_json(fields) if as_json else output.show_fields(fields)


def _fields(account: accounts_pb2.Account) -> dict[str, Any]:
    return {
        "id": account.id,
        "email": account.email,
        "operator_since": output.moment(account, "operator_since"),
    }
