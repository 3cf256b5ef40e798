"""Conversion of refused requests between protobuf and domain objects."""

from collections.abc import Sequence

from services.common.errors import InvalidRequest
from services.common.timestamps import timestamp
from services.quota.checks import check_id, check_size
from services.quota.holds import KeyRef
from services.quota.refusals import SECONDS_MAX, Refusal, RefusedRequests
from stack.quota.v1 import quota_pb2

_KEYS_MAX = 100
_COUNT_MAX = 10**12


def refused_requests(item: quota_pb2.RefusedRequests) -> RefusedRequests:
    """Return a number of refused requests from its message.

    Raises:
        InvalidRequest: A field is not valid.
    """
    check_id(item.key_id, "key_id")
    check_id(item.account_id, "account_id")
    if not 400 <= item.status <= 599:
        raise InvalidRequest(f"status: expected 400 to 599, got {item.status}")
    if not 1 <= item.count <= _COUNT_MAX:
        raise InvalidRequest(f"count: expected 1 to {_COUNT_MAX:,}, got {item.count:,}")
    if not 0 <= item.age_seconds <= SECONDS_MAX:
        raise InvalidRequest(f"age_seconds: expected 0 to {SECONDS_MAX:,}, got {item.age_seconds:,}")
    return RefusedRequests(KeyRef(item.account_id, item.key_id), item.status, item.code, item.count, item.age_seconds)


def keys_of(request: quota_pb2.ListRefusalsRequest) -> list[KeyRef]:
    """Return the keys of a request.

    Raises:
        InvalidRequest: A field is not valid.
    """
    check_size(len(request.key_ids), "key_ids", items_max=_KEYS_MAX)
    if len(request.account_ids) != len(request.key_ids):
        raise InvalidRequest("account_ids: expected one for each key")
    for key_id in request.key_ids:
        check_id(key_id, "key_ids")
    for account_id in request.account_ids:
        check_id(account_id, "account_ids")
    return [KeyRef(account_id, key_id) for account_id, key_id in zip(request.account_ids, request.key_ids, strict=True)]


def key_refusals(refusals: Sequence[Refusal]) -> quota_pb2.KeyRefusals:
    """Return what was refused of one key as a message."""
    return quota_pb2.KeyRefusals(refusals=map(_refusal, refusals))


def _refusal(refusal: Refusal) -> quota_pb2.Refusal:
    hours = [quota_pb2.RefusalHour(hour=timestamp(hour), count=count) for hour, count in refusal.hours.items()]
    return quota_pb2.Refusal(status=refusal.status, code=refusal.code, last_at=timestamp(refusal.last_at), hours=hours)
