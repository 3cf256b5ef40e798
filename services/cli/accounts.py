"""`stackctl accounts`: who owns keys."""

import click

from services.cli import client, output
from services.cli.client import Backends
from stack.auth.v1 import accounts_pb2, accounts_pb2_grpc


@click.group()
def accounts() -> None:
    """Manage accounts."""


@accounts.command()
@click.option("--email", required=True, help="E-mail address of the new account.")
@output.as_json_option
@click.pass_obj
def create(backends: Backends, email: str, *, as_json: bool) -> None:
    """Open an account on the free plan."""
    account = client.call(
        backends.auth(),
        lambda channel: accounts_pb2_grpc.AccountServiceStub(channel).CreateAccount,
        accounts_pb2.CreateAccountRequest(email=email),
    ).account
    facts = {
        "id": account.id,
        "email": account.email,
        "plan": account.plan,
        "created_at": output.moment(account, "created_at"),
    }
    output.show_json(facts) if as_json else output.show_facts(facts)
