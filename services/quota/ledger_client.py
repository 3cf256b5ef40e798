"""gRPC client of the usage ledger, inference's UsageService."""

from collections.abc import Sequence

from grpc import aio

from services.common.errors import Unavailable
from services.common.limits import Unit, Window
from services.common.rpc.limits import unit_to_proto
from services.common.rpc.status import rpc_errors
from services.common.rpc.verdict import row_verdicts_from_proto
from services.common.timestamps import timestamp
from services.common.verdict import RowVerdict
from services.quota.days import iso_date
from services.quota.holds import Counter
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

    async def count_charged(self, counters: Sequence[Counter], *, reserved_before: float | None = None) -> list[int]:
        """Return the number of charged rows of each counter, in order.

        Args:
            counters: Counters whose rows to count.
            reserved_before: Count only rows reserved before this time, in Unix seconds; None counts all.
        """
        return await self._count(counters, (), reserved_before)

    async def count_charged_without(
        self, counter: Counter, request_ids: Sequence[str], *, reserved_before: float
    ) -> int:
        """Return the number of a counter's charged rows reserved before a time, excluding those of `request_ids`."""
        (count,) = await self._count([counter], request_ids, reserved_before)
        return count

    async def _count(
        self, counters: Sequence[Counter], excluded: Sequence[str], reserved_before: float | None
    ) -> list[int]:
        # Requests per day are asked for as in the previous version, which knows no other counters.
        daily = [one for one in counters if _is_daily_requests(one)]
        keys = [one for one in daily if one.key_id]
        accounts = [one for one in daily if not one.key_id]
        others = [one for one in counters if not _is_daily_requests(one)]
        request = usage_pb2.CountChargedRequest(
            key_days=[_key_day(counter) for counter in keys],
            account_days=[_account_day(counter) for counter in accounts],
            counters=[_counter(counter) for counter in others],
            reserved_before=None if reserved_before is None else timestamp(reserved_before),
            excluded_request_ids=excluded,
        )
        with rpc_errors(unavailable_reason=_UNAVAILABLE_REASON):
            response = await self._stub.CountCharged(request, timeout=self._timeout_seconds)
        account_counts: Sequence[int] = response.account_counts
        if accounts and not account_counts and reserved_before is None:
            account_counts = [await self._count_by_summary(counter) for counter in accounts]
        if len(account_counts) != len(accounts) or len(response.amounts) != len(others):
            raise Unavailable("The ledger lacks sums that quota needs. Upgrade inference.", reason=_UNAVAILABLE_REASON)
        found = dict(
            zip((*keys, *accounts, *others), (*response.counts, *account_counts, *response.amounts), strict=True)
        )
        return [found[counter] for counter in counters]

    async def _count_by_summary(self, counter: Counter) -> int:
        """Count an account's charged rows in the previous version of inference, for rolling updates."""
        day = iso_date(counter.day)
        request = usage_pb2.SummarizeUsageRequest(account_id=counter.account_id, from_day=day, to_day=day)
        with rpc_errors(unavailable_reason=_UNAVAILABLE_REASON):
            response = await self._stub.SummarizeUsage(request, timeout=self._timeout_seconds)
        return sum(summary.charged_requests for summary in response.summaries)

    async def close_unknown(self, holds: Sequence[OverdueHold]) -> list[RowVerdict | None]:
        """Return each request's verdict; see `SweepLedger.close_unknown`."""
        request = usage_pb2.CloseUnknownRequest(contexts=[_context(hold) for hold in holds])
        with rpc_errors(unavailable_reason=_UNAVAILABLE_REASON):
            response = await self._stub.CloseUnknown(request, timeout=self._timeout_seconds)
        return row_verdicts_from_proto(response.verdicts, response.amounts)


def _is_daily_requests(counter: Counter) -> bool:
    return counter.unit is Unit.REQUESTS and counter.window is Window.DAY


def _key_day(counter: Counter) -> usage_pb2.KeyDay:
    return usage_pb2.KeyDay(key_id=counter.key_id, day=iso_date(counter.day))


def _account_day(counter: Counter) -> usage_pb2.AccountDay:
    return usage_pb2.AccountDay(account_id=counter.account_id, day=iso_date(counter.day))


def _counter(counter: Counter) -> usage_pb2.Counter:
    return usage_pb2.Counter(
        key_id=counter.key_id,
        account_id=counter.account_id,
        unit=unit_to_proto(counter.unit),
        from_day=iso_date(counter.day),
        to_day=iso_date(counter.last_day),
    )


def _context(hold: OverdueHold) -> inference_pb2.RequestContext:
    return inference_pb2.RequestContext(
        request_id=hold.request_id,
        account_id=hold.account_id,
        key_id=hold.key_id,
        day=iso_date(hold.day),
        reserved_at=timestamp(hold.reserved_at),
    )
