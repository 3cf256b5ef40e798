"""gRPC client of the usage ledger, inference's UsageService."""

from collections.abc import Sequence

from grpc import aio

from services.common.rpc.status import rpc_errors
from services.common.rpc.verdict import verdict_from_proto
from services.common.timestamps import timestamp
from services.common.verdict import Verdict
from services.quota.days import iso_date
from services.quota.holds import KeyDay
from services.quota.overdue_holds import OverdueHold
from stack.inference.v1 import inference_pb2, usage_pb2, usage_pb2_grpc

_UNAVAILABLE_REASON = "ledger_unavailable"


class GrpcLedger:
    """Implements `Ledger` and `SweepLedger` over gRPC."""

    def __init__(self, channel: aio.Channel, *, timeout_seconds: float) -> None:
        """Create a client.

        Args:
            channel: Channel to inference.
            timeout_seconds: Time-out of each call.
        """
        self._stub = usage_pb2_grpc.UsageServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def count_charged(self, key_days: Sequence[KeyDay], *, reserved_before: float | None = None) -> list[int]:
        """Return the number of charged rows of each key and day, in order.

        Args:
            key_days: Keys and days to count.
            reserved_before: Count only rows reserved before this time, in Unix seconds; None counts all.
        """
        request = usage_pb2.CountChargedRequest(
            key_days=[_key_day(key_day) for key_day in key_days],
            reserved_before=None if reserved_before is None else timestamp(reserved_before),
        )
        with rpc_errors(unavailable_reason=_UNAVAILABLE_REASON):
            response = await self._stub.CountCharged(request, timeout=self._timeout_seconds)
        return list(response.counts)

    async def count_charged_without(
        self, key_day: KeyDay, request_ids: Sequence[str], *, reserved_before: float
    ) -> int:
        """Return the number of a key's charged rows reserved before a time, excluding those of `request_ids`."""
        request = usage_pb2.CountChargedRequest(
            key_days=[_key_day(key_day)],
            reserved_before=timestamp(reserved_before),
            excluded_request_ids=request_ids,
        )
        with rpc_errors(unavailable_reason=_UNAVAILABLE_REASON):
            response = await self._stub.CountCharged(request, timeout=self._timeout_seconds)
        return response.counts[0]

    async def close_unknown(self, holds: Sequence[OverdueHold]) -> list[Verdict | None]:
        """Return each request's verdict; see `SweepLedger.close_unknown`."""
        request = usage_pb2.CloseUnknownRequest(contexts=[_context(hold) for hold in holds])
        with rpc_errors(unavailable_reason=_UNAVAILABLE_REASON):
            response = await self._stub.CloseUnknown(request, timeout=self._timeout_seconds)
        return [verdict_from_proto(verdict) for verdict in response.verdicts]


def _key_day(key_day: KeyDay) -> usage_pb2.KeyDay:
    return usage_pb2.KeyDay(key_id=key_day.key_id, day=iso_date(key_day.day))


def _context(hold: OverdueHold) -> inference_pb2.RequestContext:
    return inference_pb2.RequestContext(
        request_id=hold.request_id,
        account_id=hold.account_id,
        key_id=hold.key_id,
        day=iso_date(hold.day),
        reserved_at=timestamp(hold.reserved_at),
    )
