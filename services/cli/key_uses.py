"""Usage of keys: today's count from quota, and the last use from inference's ledger."""

from collections.abc import Sequence
from typing import Any

from services.cli import client, output
from services.cli.client import Backends
from services.common.batched import batched
from stack.auth.v1 import keys_pb2
from stack.inference.v1 import usage_pb2, usage_pb2_grpc
from stack.quota.v1 import quota_pb2, quota_pb2_grpc

_KEYS_MAX = 1_000
"""Maximum number of keys that quota and inference accept in one call."""


def key_uses(backends: Backends, keys: Sequence[keys_pb2.Key]) -> list[dict[str, Any]]:
    """Return `used_today` and `last_used_at` of each key, in order.

    `used_today` is None if quota cannot read the counter; `last_used_at` is None if the key was never used.
    """
    return [use for some in batched(keys, _KEYS_MAX) for use in _uses(backends, some)]


def quota_account(key: keys_pb2.Key) -> str:
    """Return the id under which quota counts the key's account."""
    return key.quota_account_id or key.account_id


def _uses(backends: Backends, keys: Sequence[keys_pb2.Key]) -> list[dict[str, Any]]:
    key_ids = [key.id for key in keys]
    statuses = client.call(
        backends.quota(),
        lambda channel: quota_pb2_grpc.QuotaServiceStub(channel).GetStatus,
        quota_pb2.GetStatusRequest(key_ids=key_ids, account_ids=[quota_account(key) for key in keys]),
    ).statuses
    last_uses = client.call(
        backends.inference(),
        lambda channel: usage_pb2_grpc.UsageServiceStub(channel).ListLastUses,
        usage_pb2.ListLastUsesRequest(key_ids=key_ids),
    ).last_uses
    return [
        {"used_today": status.charged if status.day else None, "last_used_at": output.moment(last, "used_at")}
        for status, last in zip(statuses, last_uses, strict=True)
    ]
