"""Conversion of reports between protobuf and domain objects."""

from collections.abc import Mapping

from services.common.errors import InvalidRequest
from services.common.runtime.clock import UNIX_SECONDS_MAX
from services.common.timestamps import timestamp
from services.inference.ledger.checks import (
    check_id,
    check_model,
    check_required_id,
    checked_outcome,
    checked_surface,
)
from services.inference.ledger.reports import (
    LATENCY_ROWS_MAX,
    STEPS_MAX,
    Breakdown,
    Latency,
    Report,
    ReportQuery,
    Step,
    UsageSums,
)
from stack.inference.v1 import usage_pb2

_BREAKDOWNS: Mapping[int, Breakdown | None] = {
    usage_pb2.BREAKDOWN_UNSPECIFIED: None,
    usage_pb2.BREAKDOWN_MODEL: Breakdown.MODEL,
    usage_pb2.BREAKDOWN_KEY: Breakdown.KEY,
    usage_pb2.BREAKDOWN_SURFACE: Breakdown.SURFACE,
    usage_pb2.BREAKDOWN_OUTCOME: Breakdown.OUTCOME,
}
_STEPS: Mapping[int, Step] = {
    usage_pb2.STEP_UNSPECIFIED: Step.WHOLE,
    usage_pb2.STEP_FIVE_MINUTES: Step.FIVE_MINUTES,
    usage_pb2.STEP_HOUR: Step.HOUR,
    usage_pb2.STEP_DAY: Step.DAY,
}


def report_query(request: usage_pb2.ReportUsageRequest) -> ReportQuery:
    """Convert and validate a request for a report.

    Raises:
        InvalidRequest: A field is invalid.
    """
    check_required_id("account_id", request.account_id)
    check_id("key_id", request.key_id)
    check_model(request.model)
    if request.breakdown not in _BREAKDOWNS:
        raise InvalidRequest(f"breakdown: expected one of {', '.join(Breakdown)}")
    if request.step not in _STEPS:
        raise InvalidRequest(f"step: expected one of {', '.join(step.name.lower() for step in Step)}")
    start, end = _range(request)
    return ReportQuery(
        account_id=request.account_id,
        key_id=request.key_id,
        model=request.model,
        outcome=checked_outcome(request.outcome),
        surface=checked_surface(request.surface),
        start=start,
        end=end,
        breakdown=_BREAKDOWNS[request.breakdown],
        step=_STEPS[request.step],
        with_latency=request.with_latency,
    )


def _range(request: usage_pb2.ReportUsageRequest) -> tuple[int, int]:
    start, end, step = request.from_time.seconds, request.to_time.seconds, _STEPS[request.step].value or 1
    if not 0 <= start < end <= UNIX_SECONDS_MAX:
        raise InvalidRequest("from_time, to_time: expected a time after 1970 and a later one")
    if start % step or end % step:
        raise InvalidRequest(f"from_time, to_time: expected multiples of the step, {step} s")
    if step > 1 and (end - start) // step > STEPS_MAX:
        raise InvalidRequest(f"from_time, to_time: expected at most {STEPS_MAX} steps")
    return start, end


def report_to_proto(report: Report) -> usage_pb2.ReportUsageResponse:
    """Convert a report."""
    return usage_pb2.ReportUsageResponse(
        sums=[_sums(one) for one in report.sums],
        latencies=[_latency(one) for one in report.latencies],
        latency_rows_max=LATENCY_ROWS_MAX,
        is_latency_partial=report.is_latency_partial,
        is_partial=report.is_partial,
    )


def _sums(sums: UsageSums) -> usage_pb2.UsageSums:
    return usage_pb2.UsageSums(
        start=timestamp(sums.start),
        value=sums.value,
        charged_requests=sums.charged_requests,
        released_requests=sums.released_requests,
        failed_requests=sums.failed_requests,
        prompt_tokens=sums.prompt_tokens,
        completion_tokens=sums.completion_tokens,
        total_tokens=sums.total_tokens,
        cached_tokens=sums.cached_tokens,
        reasoning_tokens=sums.reasoning_tokens,
        cost=sums.cost,
    )


def _latency(latency: Latency) -> usage_pb2.Latency:
    return usage_pb2.Latency(
        value=latency.value,
        requests=latency.requests,
        duration_p50_ms=latency.duration_p50_ms,
        duration_p95_ms=latency.duration_p95_ms,
        first_token_p50_ms=latency.first_token_p50_ms,
        first_token_p95_ms=latency.first_token_p95_ms,
    )
