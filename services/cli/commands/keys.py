"""`stackctl keys`: create, list, limit, rotate and revoke API keys."""

from datetime import UTC, datetime, timedelta
from typing import Any

import click

from services.cli import client, output
from services.cli.client import Backends
from services.cli.confirmation import confirm, confirmed
from services.cli.durations import Duration, Expiry
from services.cli.key_texts import read_secret, visible_text
from services.cli.key_uses import key_uses
from services.cli.limits import LimitName, LimitText
from services.cli.usage_errors import Id
from services.common.ids import Kind
from services.common.limits import Limit
from services.common.rpc.limits import limit_to_proto, limits_from_proto
from stack.auth.v1 import keys_pb2
from stack.auth.v1.keys_pb2_grpc import KeyServiceStub

_SAVE_NOTICE = "\nSave the key now. It cannot be shown again."
_USES = ("used_today", "last_used_at")
_ABSENT = {"used_today": "unknown", "last_used_at": "never"}
"""What a table shows for a value that is missing."""
_PAGE_SIZE = 1_000
_DAILY_LIMIT = click.IntRange(0, 10**9)
_LIMITS_OPTION = click.option(
    "--limit",
    "limits",
    type=LimitText(),
    multiple=True,
    help="Other limit that overrides the plan's, such as key:tokens:minute=6000 or key:cost:month=$5. Can be repeated.",
)


@click.group()
def keys() -> None:
    """Manage API keys."""


@keys.command()
@click.option("--email", required=True, help="E-mail address of the owning account.")
@click.option("--name", required=True, help="Name of the key, 1 to 100 characters.")
@click.option("--daily-limit", type=_DAILY_LIMIT, help="Requests per UTC day. Defaults to the plan's limit.")
@click.option("--expires", type=Expiry(), help="Expiry: a date such as 2027-01-31, or a duration such as 30d.")
@click.option(
    "--model",
    "models",
    multiple=True,
    help="Model that the key may use, or a pattern with `*`. Can be repeated. Defaults to all models.",
)
@_LIMITS_OPTION
@click.option(
    "--deduplicate-retries",
    is_flag=True,
    help="Give automatic retries of SDKs the answer of the request that they retry, and do not charge them.",
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
    limits: tuple[Limit, ...],
    deduplicate_retries: bool,
    as_json: bool,
) -> None:
    """Create a key. Its secret is shown only once."""
    request = keys_pb2.CreateKeyRequest(
        email=email,
        name=name,
        daily_limit=daily_limit,
        expires_at=output.timestamp(expires),
        models=models,
        limits=map(limit_to_proto, limits),
        deduplicate_retries=deduplicate_retries,
    )
    created = client.call(backends.auth(), lambda channel: KeyServiceStub(channel).CreateKey, request)
    fields = {
        "id": created.key.id,
        "key": created.secret,
        "name": created.key.name,
        "daily_limit": created.key.daily_limit,
    }
    with output.secret_of(created.key.id):
        if as_json:
            output.show_json(fields)
            return
        output.show_fields(fields)
        output.write(_SAVE_NOTICE)


@keys.command()
@click.argument("key_id", type=Id(Kind.KEY))
@click.option("--grace", type=Duration(), default="24h", show_default=True, help="How long the old key keeps working.")
@click.option("--yes", "-y", "is_confirmed", is_flag=True, help="Do not ask for confirmation of --grace 0s.")
@output.as_json_option
@click.pass_obj
def rotate(backends: Backends, key_id: str, *, grace: timedelta, is_confirmed: bool, as_json: bool) -> None:
    """Replace a key with a new one that has the same attributes. The new secret is shown only once."""
    if not grace and not is_confirmed:
        confirm("Without --grace, the old key stops working at once.")
    request = keys_pb2.RotateKeyRequest(key_id=key_id, grace_seconds=int(grace.total_seconds()))
    rotated = client.call(backends.auth(), lambda channel: KeyServiceStub(channel).RotateKey, request)
    fields = {
        "id": rotated.key.id,
        "key": rotated.secret,
        "name": rotated.key.name,
        "replaces": rotated.replaced.id,
        "replaced_until": output.moment(rotated.replaced, "expires_at"),
    }
    with output.secret_of(rotated.key.id):
        if as_json:
            output.show_json(fields)
            return
        output.show_fields(fields)
        output.write(_SAVE_NOTICE)


@keys.command("list")
@click.option("--email", required=True, help="E-mail address or id of the account.")
@click.option(
    "--usage", "with_usage", is_flag=True, help="Show today's requests and the last use, from quota and inference."
)
@output.as_json_option
@click.pass_obj
def list_keys(backends: Backends, email: str, *, with_usage: bool, as_json: bool) -> None:
    """List an account's keys, oldest first, including revoked ones."""
    listed = _list_all(backends, email)
    found = [_fields(key) for key in listed]
    if with_usage and found:
        found = [item | used for item, used in zip(found, key_uses(backends, listed), strict=True)]
    if as_json:
        output.show_json({"keys": found})
        return
    _show_table(found, ("id", "name", "prefix", "daily_limit", "created_at", *(_USES if with_usage else ())))


@keys.command()
@click.argument("key_id", type=Id(Kind.KEY))
@output.as_json_option
@click.pass_obj
def show(backends: Backends, key_id: str, *, as_json: bool) -> None:
    """Show one key."""
    _show(get(backends, key_id), as_json=as_json)


@keys.command()
@click.argument("text", required=False, default="")
@click.option(
    "--secret", "by_secret", is_flag=True, help="Find the key of a secret that is read from standard input, hidden."
)
@output.as_json_option
@click.pass_obj
def find(backends: Backends, text: str, *, by_secret: bool, as_json: bool) -> None:
    """Find keys of all accounts by TEXT: an id, a part of the name, or the visible part of the secret.

    Finds at most 100, newest first. With --secret, finds the key of a whole secret, whatever its state.
    """
    if bool(text) == by_secret:
        raise click.UsageError("Give either TEXT or --secret.")
    request = keys_pb2.FindKeysRequest(text=visible_text(text), secret=read_secret() if by_secret else "")
    listed = client.call(backends.auth(), lambda channel: KeyServiceStub(channel).FindKeys, request).keys
    found = [_fields(key) for key in listed]
    if as_json:
        output.show_json({"keys": found})
        return
    _show_table(found, ("id", "account_id", "name", "prefix", "created_at"))


@keys.command()
@click.argument("key_id", type=Id(Kind.KEY))
@click.argument("name")
@output.as_json_option
@click.pass_obj
def rename(backends: Backends, key_id: str, name: str, *, as_json: bool) -> None:
    """Rename a key."""
    request = keys_pb2.RenameKeyRequest(key_id=key_id, name=name)
    answer = client.call(backends.auth(), lambda channel: KeyServiceStub(channel).RenameKey, request)
    _show(answer.key, as_json=as_json)


@keys.command()
@click.argument("key_id", type=Id(Kind.KEY))
@confirmed("This revokes the key everywhere and ends its streams.")
@output.as_json_option
@click.pass_obj
def revoke(backends: Backends, key_id: str, *, as_json: bool) -> None:
    """Revoke a key permanently. Revoking a revoked key has no effect."""
    request = keys_pb2.RevokeKeyRequest(key_id=key_id)
    answer = client.call(backends.auth(), lambda channel: KeyServiceStub(channel).RevokeKey, request)
    _show(answer.key, as_json=as_json)


@keys.command("set-limit")
@click.argument("key_id", type=Id(Kind.KEY))
@click.argument("daily_limit", type=_DAILY_LIMIT, required=False)
@click.option("--plan", "to_plan", is_flag=True, help="Use the plan's limit of requests per day.")
@_LIMITS_OPTION
@click.option(
    "--no-limit",
    "removed_limits",
    type=LimitName(),
    multiple=True,
    help="Own limit to remove, such as key:tokens:minute; the plan's then applies. Can be repeated.",
)
@output.as_json_option
@click.pass_obj
def set_limit(
    backends: Backends,
    key_id: str,
    *,
    daily_limit: int | None,
    to_plan: bool,
    limits: tuple[Limit, ...],
    removed_limits: tuple[Limit, ...],
    as_json: bool,
) -> None:
    """Set a key's own limit to DAILY_LIMIT requests per UTC day; 0 allows none. With --plan, use its plan's limit.

    With --limit and --no-limit, change its other limits instead.
    """
    if (daily_limit is not None) + to_plan + bool(limits or removed_limits) != 1:
        raise click.UsageError("Give either DAILY_LIMIT, or --plan, or --limit and --no-limit.")
    if limits or removed_limits:
        key = _change_limits(backends, key_id, limits, removed_limits)
    else:
        request = keys_pb2.SetKeyLimitRequest(key_id=key_id, daily_limit=daily_limit)
        key = client.call(backends.auth(), lambda channel: KeyServiceStub(channel).SetKeyLimit, request).key
    _show(key, as_json=as_json)


@keys.command("set-deduplication")
@click.argument("key_id", type=Id(Kind.KEY))
@click.argument("state", type=click.Choice(["on", "off"]))
@output.as_json_option
@click.pass_obj
def set_deduplication(backends: Backends, key_id: str, state: str, *, as_json: bool) -> None:
    """Set whether automatic retries of SDKs get the answer of the request that they retry, and are not charged."""
    request = keys_pb2.SetKeyDeduplicationRequest(key_id=key_id, deduplicate_retries=state == "on")
    answer = client.call(backends.auth(), lambda channel: KeyServiceStub(channel).SetKeyDeduplication, request)
    _show(answer.key, as_json=as_json)


def get(backends: Backends, key_id: str) -> keys_pb2.Key:
    """Return a key."""
    request = keys_pb2.GetKeyRequest(key_id=key_id)
    return client.call(backends.auth(), lambda channel: KeyServiceStub(channel).GetKey, request).key


def _change_limits(
    backends: Backends, key_id: str, limits: tuple[Limit, ...], removed: tuple[Limit, ...]
) -> keys_pb2.Key:
    request = keys_pb2.ChangeKeyLimitsRequest(
        key_id=key_id, limits=map(limit_to_proto, limits), removed_limits=map(limit_to_proto, removed)
    )
    return client.call(backends.auth(), lambda channel: KeyServiceStub(channel).ChangeKeyLimits, request).key


def _list_all(backends: Backends, email: str) -> list[keys_pb2.Key]:
    """Return all keys of an account, read in pages."""
    listed: list[keys_pb2.Key] = []
    while True:
        after = listed[-1].id if listed else ""
        request = keys_pb2.ListKeysRequest(email=email, page_size=_PAGE_SIZE, after=after)
        page = client.call(backends.auth(), lambda channel: KeyServiceStub(channel).ListKeys, request).keys
        listed += page
        if len(page) < _PAGE_SIZE:
            return listed


def _show(key: keys_pb2.Key, *, as_json: bool) -> None:
    fields = _fields(key)
    if as_json:
        output.show_json(fields)
        return
    shown = fields | {"limits": ", ".join(fields["limits"]) or None}
    output.show_fields({name: value for name, value in shown.items() if value not in (None, [])})


def _fields(key: keys_pb2.Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "account_id": key.account_id,
        "name": key.name,
        "prefix": key.prefix,
        "daily_limit": key.daily_limit,
        "created_at": output.moment(key, "created_at"),
        "revoked_at": output.moment(key, "revoked_at"),
        "expires_at": output.moment(key, "expires_at"),
        "paused_at": output.moment(key, "paused_at"),
        "models": list(key.models),
        "replaced_by": key.replaced_by or None,
        "limits": [str(limit) for limit in limits_from_proto(key.limits)],
        "deduplicate_retries": key.deduplicate_retries,
    }


def _show_table(found: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    rows = [[*(_cell(item, name) for name in columns), _state(item)] for item in found]
    output.show_table((*columns, "state"), rows, colors={"state": output.state_color})


def _cell(fields: dict[str, Any], name: str) -> Any:
    return fields[name] if fields.get(name) is not None else _ABSENT[name]


def _state(fields: dict[str, Any]) -> str:
    if fields["revoked_at"]:
        return f"revoked {fields['revoked_at']}"
    if fields["expires_at"] and datetime.fromisoformat(fields["expires_at"]) <= datetime.now(UTC):
        return f"expired {fields['expires_at']}"
    if fields["paused_at"]:
        return f"paused {fields['paused_at']}"
    return f"expires {fields['expires_at']}" if fields["expires_at"] else "active"
