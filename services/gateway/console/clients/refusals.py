"""gRPC client for the refused requests of one account, which quota counts."""

from collections.abc import Iterator, Sequence

from grpc import aio

from services.common.batched import batched
from services.common.rpc.status import rpc_errors
from services.common.timestamps import unix_seconds
from services.gateway.console.refusals import Refusal
from stack.quota.v1 import quota_pb2, quota_pb2_grpc

_KEYS_MAX = 100
"""Maximum keys per call."""


class GrpcRefusalClient:
    """A `RefusalClient` over gRPC, restricted to one account."""

    def __init__(self, quota: aio.Channel, quota_account_id: str, *, timeout_seconds: float) -> None:
        """Read what quota has counted under an account's id. One call takes at most `timeout_seconds`."""
        self._quota = quota_pb2_grpc.QuotaServiceStub(quota)
        self._quota_account_id = quota_account_id
        self._timeout_seconds = timeout_seconds

    async def refusals(self, key_ids: Sequence[str]) -> Sequence[Refusal]:
        """Return what was refused of keys of the account."""
        found: list[Refusal] = []
        for batch in batched(key_ids, _KEYS_MAX):
            request = quota_pb2.ListRefusalsRequest(key_ids=batch, account_ids=[self._quota_account_id] * len(batch))
            with rpc_errors(unavailable_reason="quota_unavailable"):
                answer = await self._quota.ListRefusals(request, timeout=self._timeout_seconds)
            for key_id, one in zip(batch, answer.keys, strict=True):
                found += _refusals(key_id, one)
        return found


def _refusals(key_id: str, key: quota_pb2.KeyRefusals) -> Iterator[Refusal]:
    for one in key.refusals:
        hours = {each.hour.seconds: each.count for each in one.hours}
        yield Refusal(key_id, one.status, one.code, unix_seconds(one.last_at), hours)
