"""Conversion of reports from protobuf."""

from services.gateway.console.usage.ranges import DAY, FIVE_MINUTES, HOUR
from services.gateway.console.usage.reports import Breakdown, Latency, Point, Report, Sums
from stack.inference.v1 import usage_pb2

BREAKDOWNS = {
    Breakdown.MODEL: usage_pb2.BREAKDOWN_MODEL,
    Breakdown.KEY: usage_pb2.BREAKDOWN_KEY,
    Breakdown.SURFACE: usage_pb2.BREAKDOWN_SURFACE,
    Breakdown.OUTCOME: usage_pb2.BREAKDOWN_OUTCOME,
}
STEPS = {FIVE_MINUTES: usage_pb2.STEP_FIVE_MINUTES, HOUR: usage_pb2.STEP_HOUR, DAY: usage_pb2.STEP_DAY}


def report_of(answer: usage_pb2.ReportUsageResponse) -> Report:
    """Convert a report."""
    of_all = [one for one in answer.latencies if not one.HasField("value")]
    return Report(
        points=[_point(one) for one in answer.sums],
        latency=_latency(of_all[0]) if of_all else None,
        latencies={one.value: _latency(one) for one in answer.latencies if one.HasField("value")},
        latency_rows_max=answer.latency_rows_max,
        is_latency_partial=answer.is_latency_partial,
        is_partial=answer.is_partial,
    )


def _point(one: usage_pb2.UsageSums) -> Point:
    sums = Sums(
        one.charged_requests,
        one.released_requests,
        one.failed_requests,
        one.prompt_tokens,
        one.completion_tokens,
        one.total_tokens,
        one.cached_tokens,
        one.reasoning_tokens,
        one.cost if one.HasField("cost") else None,
    )
    return Point(one.start.seconds, one.value if one.HasField("value") else None, sums)


def _latency(one: usage_pb2.Latency) -> Latency:
    return Latency(
        one.requests,
        one.duration_p50_ms,
        one.duration_p95_ms,
        one.first_token_p50_ms if one.HasField("first_token_p50_ms") else None,
        one.first_token_p95_ms if one.HasField("first_token_p95_ms") else None,
    )
