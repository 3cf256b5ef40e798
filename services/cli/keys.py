"""`stackctl keys`: make, show, limit and end API keys."""

from datetime import datetime, timedelta
from typing import Any

import click

from services.cli import client, output
from services.cli.client import Backends
from services.cli.durations import Duration, Expiry
from services.cli.key_uses import key_uses
from services.cli.mistakes import Id
from services.common.ids import Kind
from stack.auth.v1 import keys_pb2
from stack.auth.v1.keys_pb2_grpc import KeyServiceStub

_KEEP_IT = "\nKeep the key now: it cannot be shown again."
_USES = ("used_today", "last_used_at")
_PAGE_SIZE = 1_000
_DAILY_LIMIT = click.IntRange(0, 10**9)


@click.group()
def keys() -> None:
    """Manage API keys."""


@keys.command()
@click.option("--email", required=True, help="E-mail address of the owning account.")
@click.option("--name", required=True, help="The owner's name for the key, 1 to 100 characters.")
@click.option("--daily-limit", type=_DAILY_LIMIT, help="Requests a UTC day; without it the plan's limit holds.")
@click.option("--expires", type=Expiry(), help="When it stops working: a day, or a span such as 30d.")
@click.option(
    "--model", "models", multiple=True, help="A model that it may ask for, `*` allowed; several times; else all."
)
@output.as_json_option
@click.pass_obj
def create(
    backends: Backends,
    email: str,
    *,
    name: str,
    daily_limit: int | None,
    expires: datetime | None,
    models: tuple[str, ...],
    as_json: bool,
) -> None:
    """Mint a key. The secret is shown now and never again."""
    request = keys_pb2.CreateKeyRequest(
        email=email, name=name, daily_limit=daily_limit, expires_at=output.timestamp(expires), models=models
    )
    created = client.call(backends.auth(), lambda channel: KeyServiceStub(channel).CreateKey, request)
    facts = {
        "id": created.key.id,
        "key": created.secret,
        "name": created.key.name,
        "daily_limit": created.key.daily_limit,
    }
    with output.secret_of(created.key.id):
        if as_json:
            output.show_json(facts)
            return
        output.show_facts(facts)
        output.say(_KEEP_IT)


@keys.command()
@click.argument("key_id", type=Id(Kind.KEY))
@click.option(
    "--grace", type=Duration(), default="24h", show_default=True, help="How long the old key goes on working."
)
@output.as_json_option
@click.pass_obj
def rotate(backends: Backends, key_id: str, *, grace: timedelta, as_json: bool) -> None:
    """Replace a key by a new one like it. The new secret is shown now and never again."""
    request = keys_pb2.RotateKeyRequest(key_id=key_id, grace_seconds=int(grace.total_seconds()))
    rotated = client.call(backends.auth(), lambda channel: KeyServiceStub(channel).RotateKey, request)
    facts = {
        "id": rotated.key.id,
        "key": rotated.secret,
        "name": rotated.key.name,
        "replaces": rotated.replaced.id,
        "replaced_until": output.moment(rotated.replaced, "expires_at"),
    }
    with output.secret_of(rotated.key.id):
        if as_json:
            output.show_json(facts)
            return
        output.show_facts(facts)
        output.say(_KEEP_IT)


@keys.command("list")
@click.option("--email", required=True, help="E-mail address or id of the account.")
@click.option(
    "--usage", "with_usage", is_flag=True, help="With today's use and the last one: asks quota and inference."
)
@output.as_json_option
@click.pass_obj
def list_keys(backends: Backends, email: str, *, with_usage: bool, as_json: bool) -> None:
    """List an account's keys, oldest first, revoked ones included."""
    listed = _list_all(backends, email)
    found = [_facts(key) for key in listed]
    if with_usage and found:
        found = [fact | used for fact, used in zip(found, key_uses(backends, listed), strict=True)]
    if as_json:
        output.show_json({"keys": found})
        return
    columns = ("id", "name", "prefix", "daily_limit", "created_at", *(_USES if with_usage else ()), "state")
    rows = [[_cell(fact, name) for name in columns[:-1]] + [_state(fact)] for fact in found]
    output.show_table(columns, rows)


@keys.command()
@click.argument("key_id", type=Id(Kind.KEY))
@output.as_json_option
@click.pass_obj
def revoke(backends: Backends, key_id: str, *, as_json: bool) -> None:
    """End a key for good; revoking it again is no error."""
    request = keys_pb2.RevokeKeyRequest(key_id=key_id)
    answer = client.call(backends.auth(), lambda channel: KeyServiceStub(channel).RevokeKey, request)
    _show(answer.key, as_json=as_json)


@keys.command("set-limit")
@click.argument("key_id", type=Id(Kind.KEY))
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


def _list_all(backends: Backends, email: str) -> list[keys_pb2.Key]:
    """Read an account's keys page by page."""
    listed: list[keys_pb2.Key] = []
    while True:
        after = listed[-1].id if listed else ""
        request = keys_pb2.ListKeysRequest(email=email, page_size=_PAGE_SIZE, after=after)
        page = client.call(backends.auth(), lambda channel: KeyServiceStub(channel).ListKeys, request).keys
        listed += page
        if len(page) < _PAGE_SIZE:
            return listed


def _show(key: keys_pb2.Key, *, as_json: bool) -> None:
    facts = _facts(key)
    if as_json:
        output.show_json(facts)
        return
    output.show_facts({name: value for name, value in facts.items() if value not in (None, [])})


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
        "models": list(key.models),
        "replaced_by": key.replaced_by or None,
    }


def _cell(facts: dict[str, Any], name: str) -> Any:
    return facts[name] if facts.get(name) is not None else "never"


def _state(facts: dict[str, Any]) -> str:
    if facts["revoked_at"]:
        return f"revoked {facts['revoked_at']}"
    return f"expires {facts['expires_at']}" if facts["expires_at"] else "active"
