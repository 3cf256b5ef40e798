"""The ledger as quota sees it: counts from inference's UsageService."""

from collections.abc import Sequence
from datetime import date, timedelta

from grpc import aio

from services.common.errors import rpc_errors
from services.quota.holds import KeyDay
from stack.inference.v1 import usage_pb2, usage_pb2_grpc

_EPOCH = date(1970, 1, 1)


class GrpcLedger:
    """The `Ledger` over gRPC."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Ask over `channel`, at most `timeout_seconds` for each call."""
        self._stub = usage_pb2_grpc.UsageServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def count_charged(self, key_days: Sequence[KeyDay]) -> list[int]:
        """Return the charged rows of each key and day, in order."""
        request = usage_pb2.CountChargedRequest(
            key_days=[usage_pb2.KeyDay(key_id=one.key_id, day=iso_date(one.day)) for one in key_days]
        )
        with rpc_errors(unavailable_reason="ledger_unavailable"):
            response = await self._stub.CountCharged(request, timeout=self._timeout_seconds)
        return list(response.counts)


def iso_date(day: int) -> str:
    """Return days since 1970-01-01 as `YYYY-MM-DD`."""
    return (_EPOCH + timedelta(days=day)).isoformat()


def day_number(text: str) -> int:
    """Return `YYYY-MM-DD` as days since 1970-01-01.

    Raises:
        ValueError: It is no such date.
    """
    return (date.fromisoformat(text) - _EPOCH).days
