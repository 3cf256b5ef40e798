"""`stackctl keys`: make, show, limit and end API keys."""

from typing import Any

import click

from services.cli import client, output
from services.cli.client import Backends
from stack.auth.v1 import keys_pb2
from stack.auth.v1.keys_pb2_grpc import KeyServiceStub

_DAILY_LIMIT = click.IntRange(0, 10**9)


@click.group()
def keys() -> None:
    """Manage API keys."""


@keys.command()
@click.option("--email", required=True, help="E-mail address of the owning account.")
@click.option("--name", required=True, help="The owner's name for the key, 1 to 100 characters.")
@click.option("--daily-limit", type=_DAILY_LIMIT, help="Requests a UTC day; without it the plan's limit holds.")
@output.as_json_option
@click.pass_obj
def create(backends: Backends, email: str, *, name: str, daily_limit: int | None, as_json: bool) -> None:
    """Mint a key. The secret is shown now and never again."""
    request = keys_pb2.CreateKeyRequest(email=email, name=name, daily_limit=daily_limit)
    created = client.call(backends.auth(), lambda channel: KeyServiceStub(channel).CreateKey, request)
    facts = {
        "id": created.key.id,
        "key": created.secret,
        "name": created.key.name,
        "daily_limit": created.key.daily_limit,
    }
    if as_json:
        output.show_json(facts)
        return
    output.show_facts(facts)
    click.echo("\nKeep the key now: it cannot be shown again.")


@keys.command("list")
@click.option("--email", required=True, help="E-mail address of the account.")
@output.as_json_option
@click.pass_obj
def list_keys(backends: Backends, email: str, *, as_json: bool) -> None:
    """List an account's keys, oldest first, revoked ones included."""
    request = keys_pb2.ListKeysRequest(email=email)
    answer = client.call(backends.auth(), lambda channel: KeyServiceStub(channel).ListKeys, request)
    found = [_facts(key) for key in answer.keys]
    if as_json:
        output.show_json({"keys": found})
        return
    columns = ("id", "name", "prefix", "daily_limit", "created_at", "state")
    rows = [[fact[name] for name in columns[:-1]] + [_state(fact)] for fact in found]
    output.show_table(columns, rows)


@keys.command()
@click.argument("key_id")
@output.as_json_option
@click.pass_obj
def revoke(backends: Backends, key_id: str, *, as_json: bool) -> None:
    """End a key for good; revoking it again is no error."""
    request = keys_pb2.RevokeKeyRequest(key_id=key_id)
    answer = client.call(backends.auth(), lambda channel: KeyServiceStub(channel).RevokeKey, request)
    _show(answer.key, as_json=as_json)


@keys.command("set-limit")
@click.argument("key_id")
@click.argument("daily_limit", type=_DAILY_LIMIT, required=False)
@click.option("--plan", "to_plan", is_flag=True, help="Return the key to its plan's limit.")
@output.as_json_option
@click.pass_obj
def set_limit(backends: Backends, key_id: str, *, daily_limit: int | None, to_plan: bool, as_json: bool) -> None:
    """Give a key DAILY_LIMIT requests a UTC day of its own, or with --plan its plan's limit; 0 admits nothing."""
    if to_plan == (daily_limit is not None):
        raise click.UsageError("give either DAILY_LIMIT or --plan")
    request = keys_pb2.SetKeyLimitRequest(key_id=key_id, daily_limit=daily_limit)
    answer = client.call(backends.auth(), lambda channel: KeyServiceStub(channel).SetKeyLimit, request)
    _show(answer.key, as_json=as_json)


def get(backends: Backends, key_id: str) -> keys_pb2.Key:
    """Read one key."""
    request = keys_pb2.GetKeyRequest(key_id=key_id)
    return client.call(backends.auth(), lambda channel: KeyServiceStub(channel).GetKey, request).key


def _show(key: keys_pb2.Key, *, as_json: bool) -> None:
    facts = _facts(key)
    if as_json:
        output.show_json(facts)
        return
    output.show_facts({name: value for name, value in facts.items() if value is not None})


def _facts(key: keys_pb2.Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "account_id": key.account_id,
        "name": key.name,
        "prefix": key.prefix,
        "daily_limit": key.daily_limit,
        "created_at": output.moment(key, "created_at"),
        "revoked_at": output.moment(key, "revoked_at"),
        "expires_at": output.moment(key, "expires_at"),
    }


def _state(facts: dict[str, Any]) -> str:
    if facts["revoked_at"]:
        return f"revoked {facts['revoked_at']}"
    return f"expires {facts['expires_at']}" if facts["expires_at"] else "active"
