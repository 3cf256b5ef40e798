"""UsageService over real gRPC: pages of requests, last uses, and what is refused without a query."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import InvalidRequest, NotFound, PermissionDenied
from services.common.rpc.status import rpc_errors
from services.common.timestamps import timestamp
from services.inference.chat import Outcome
from stack.common.v1 import surface_pb2
from stack.inference.v1 import inference_pb2, usage_pb2
from tests.contracts.ledger_reports import row_at
from tests.contracts.ledger_store import ROW, rows
from tests.integration.inference_world import DAY, Inference, chat, context, running
from tests.integration.upstream import Upstream, upstream

__all__ = ["upstream"]

_LONG = "x" * 65
_KEY_DAY = usage_pb2.KeyDay(key_id="k", day=DAY)
_INJECTION = "' OR 1=1; DROP TABLE usage_ledger; --"


_DAYS = (1_785_628_800, 1_785_628_800 + 7 * 86_400)
"""Unix seconds of the beginning and the end of a week."""


@pytest.fixture
async def inference(upstream: Upstream, tmp_path: Path) -> AsyncIterator[Inference]:
    """A service with an empty ledger."""
    async with running(upstream.url, tmp_path) as one:
        yield one


def _report(**wanted: Any) -> usage_pb2.ReportUsageRequest:
    """Return a valid request for a report of seven days by day, changed."""
    times = {"from_time": timestamp(_DAYS[0]), "to_time": timestamp(_DAYS[1])}
    return usage_pb2.ReportUsageRequest(**{"account_id": "a", **times, "step": usage_pb2.STEP_DAY, **wanted})


async def _listed(inference: Inference, **wanted: Any) -> list[str]:
    request = usage_pb2.ListRequestsRequest(**{"account_id": "acc_1", **wanted})
    with rpc_errors(unavailable_reason="inference_unavailable"):
        return [record.request_id for record in (await inference.usage.ListRequests(request)).records]


async def test_requests_are_listed_newest_first_a_hundred_by_default(inference: Inference) -> None:
    await inference.store.insert(rows(120, start=100))
    newest_first = [f"req_{number}" for number in reversed(range(100, 220))]

    assert await _listed(inference) == newest_first[:100]
    assert await _listed(inference, page_size=1000) == newest_first
    assert await _listed(inference, page_size=2, before="req_150") == ["req_149", "req_148"]


async def test_a_listed_record_equals_that_of_get_request(inference: Inference) -> None:
    await inference.store.insert([replace(ROW, outcome=Outcome.CUT)])

    (listed,) = (await inference.usage.ListRequests(usage_pb2.ListRequestsRequest(account_id="acc_1"))).records

    asked = usage_pb2.GetRequestRequest(request_id=ROW.request_id)
    assert listed == (await inference.usage.GetRequest(asked)).record
    assert await _listed(inference, outcome="cut", key_id="key_1", from_day=DAY, to_day=DAY) == [ROW.request_id]
    assert await _listed(inference, outcome="answered") == []
    assert await _listed(inference, surface=surface_pb2.SURFACE_RESPONSES) == [ROW.request_id]
    assert await _listed(inference, surface=surface_pb2.SURFACE_CHAT) == []


async def test_last_uses_come_in_order_and_are_absent_for_unused_keys(inference: Inference) -> None:
    await inference.store.insert([ROW])

    asked = usage_pb2.ListLastUsesRequest(key_ids=["key_2", "key_1"])
    never, used = (await inference.usage.ListLastUses(asked)).last_uses

    assert (never.key_id, never.HasField("used_at")) == ("key_2", False)
    assert (used.key_id, used.used_at.ToMilliseconds()) == ("key_1", round(ROW.reserved_at * 1000))
    assert not (await inference.usage.ListLastUses(usage_pb2.ListLastUsesRequest())).last_uses


async def test_usage_is_summed_by_user_without_its_name(inference: Inference) -> None:
    for number, user in enumerate(["ada@example.com", "bob@example.com", "ada@example.com", ""]):
        message = chat("hi")
        message.user = user
        await inference.create(
            inference_pb2.CreateChatCompletionRequest(context=context(f"req_{number}"), chat=message)
        )

    asked = usage_pb2.SummarizeUsageRequest(account_id=context().account_id, by_user=True)
    sums = (await inference.usage.SummarizeUsage(asked)).summaries

    assert sorted(one.charged_requests for one in sums) == [1, 2]
    assert {len(one.user_digest) for one in sums} == {32}
    assert "example.com" not in str(await inference.rows())


async def test_usage_is_summed_by_hour(inference: Inference) -> None:
    hour = ROW.reserved_at // 3600 * 3600
    await inference.store.insert([*rows(2, reserved_at=hour + 1), *rows(1, start=5, reserved_at=hour + 3601)])

    asked = usage_pb2.SummarizeUsageRequest(key_id=ROW.key_id, by_hour=True)
    later, earlier = (await inference.usage.SummarizeUsage(asked)).summaries

    assert (later.hour.seconds, later.charged_requests) == (hour + 3600, 1)
    assert (earlier.hour.seconds, earlier.charged_requests, earlier.total_tokens) == (hour, 2, 60)


async def test_a_report_has_sums_and_latencies_by_value(inference: Inference) -> None:
    await inference.store.insert(
        [row_at(1, _DAYS[0] + 1), row_at(2, _DAYS[0] + 86_401, outcome=Outcome.CUT, cost=None)]
    )
    await inference.store.insert([row_at(3, _DAYS[0] + 86_402, surface=None, time_to_first_token_ms=0, duration_ms=90)])

    asked = _report(account_id="acc_1", breakdown=usage_pb2.BREAKDOWN_SURFACE, with_latency=True)
    report = await inference.usage.ReportUsage(asked)

    sums = [(one.start.seconds, one.value, one.charged_requests, one.failed_requests, one.cost) for one in report.sums]
    day = _DAYS[0]
    assert sums == [
        (day, "responses", 1, 0, 1_234),
        (day + 86_400, "", 1, 0, 1_234),
        (day + 86_400, "responses", 1, 1, 0),
    ]
    assert [one.HasField("cost") for one in report.sums] == [True, True, False]
    of_all, by_surface, unknown = report.latencies
    assert (of_all.HasField("value"), of_all.requests, of_all.duration_p50_ms, of_all.duration_p95_ms) == (
        False,
        3,
        7,
        90,
    )
    assert (of_all.first_token_p50_ms, by_surface.value, by_surface.requests) == (3, "responses", 2)
    assert (unknown.value, unknown.HasField("value"), unknown.HasField("first_token_p50_ms")) == ("", True, False)
    assert (report.latency_rows_max, report.is_latency_partial, report.is_partial) == (10_000, False, False)

    whole = await inference.usage.ReportUsage(_report(account_id="acc_1", step=usage_pb2.STEP_UNSPECIFIED))
    assert [(one.HasField("value"), one.charged_requests) for one in whole.sums] == [(False, 3)]
    assert not whole.latencies
    assert not (await inference.usage.ReportUsage(_report(account_id="acc_2"))).sums


async def test_a_page_of_requests_is_filtered_by_model_and_time(inference: Inference) -> None:
    stored = [row_at(number, _DAYS[0] + number, model=f"m{number % 2}") for number in range(6)]
    await inference.store.insert(stored)
    ids = [row.request_id for row in stored]

    assert await _listed(inference, model="m1") == [ids[5], ids[3], ids[1]]
    between = {"from_time": timestamp(_DAYS[0] + 2), "to_time": timestamp(_DAYS[0] + 4)}
    assert await _listed(inference, **between) == [ids[3], ids[2]]
    assert await _listed(inference, **between, scan_max=10) == [ids[3], ids[2]]
    assert await _listed(inference, ended_from=timestamp(_DAYS[0] + 4)) == [ids[5], ids[4]]


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("ListRequests", usage_pb2.ListRequestsRequest(), "account_id"),
        ("ListRequests", usage_pb2.ListRequestsRequest(account_id="a\0"), "account_id"),
        ("ListRequests", usage_pb2.ListRequestsRequest(account_id=_LONG), "account_id"),
        ("ListRequests", usage_pb2.ListRequestsRequest(account_id="a", key_id="\0"), "key_id"),
        ("ListRequests", usage_pb2.ListRequestsRequest(account_id="a", key_id=_LONG), "key_id"),
        ("ListRequests", usage_pb2.ListRequestsRequest(account_id="a", before="\0"), "before"),
        ("ListRequests", usage_pb2.ListRequestsRequest(account_id="a", before="x" * 3_000_000), "before"),
        ("ListRequests", usage_pb2.ListRequestsRequest(account_id="a", outcome="ANSWERED"), "outcome"),
        ("ListRequests", usage_pb2.ListRequestsRequest(account_id="a", outcome=_INJECTION), "outcome"),
        ("ListRequests", usage_pb2.ListRequestsRequest(account_id="a", surface=99), "surface"),  # type: ignore[arg-type]
        ("ListRequests", usage_pb2.ListRequestsRequest(account_id="a", page_size=-1), "page_size"),
        ("ListRequests", usage_pb2.ListRequestsRequest(account_id="a", page_size=1001), "page_size"),
        ("ListRequests", usage_pb2.ListRequestsRequest(account_id="a", page_size=2**31 - 1), "page_size"),
        ("ListRequests", usage_pb2.ListRequestsRequest(account_id="a", from_day="2026-02-30"), "from_day"),
        ("ListRequests", usage_pb2.ListRequestsRequest(account_id="a", to_day="yesterday"), "to_day"),
        ("ListRequests", usage_pb2.ListRequestsRequest(account_id="a", to_day="2026-08-0\u0662"), "to_day"),
        ("ListRequests", usage_pb2.ListRequestsRequest(account_id="a", model="\0"), "model"),
        ("ListRequests", usage_pb2.ListRequestsRequest(account_id="a", model="m" * 257), "model"),
        ("ReportUsage", _report(account_id=""), "account_id"),
        ("ReportUsage", _report(key_id="\0"), "key_id"),
        ("ReportUsage", _report(model="\0"), "model"),
        ("ReportUsage", _report(outcome="eaten"), "outcome"),
        ("ReportUsage", _report(surface=99), "surface"),
        ("ReportUsage", _report(breakdown=99), "breakdown"),
        ("ReportUsage", _report(step=99), "step"),
        ("ReportUsage", _report(from_time=None), "from_time"),
        ("ReportUsage", _report(from_time=timestamp(-1)), "from_time"),
        ("ReportUsage", _report(to_time=timestamp(1e12)), "to_time"),
        ("ReportUsage", _report(to_time=timestamp(_DAYS[0])), "to_time"),
        ("ReportUsage", _report(from_time=timestamp(_DAYS[0] + 1)), "multiples of the step, 86400 s"),
        ("ReportUsage", _report(step=usage_pb2.STEP_FIVE_MINUTES), "at most 400 steps"),
        ("ListLastUses", usage_pb2.ListLastUsesRequest(key_ids=["k"] * 1001), "key_ids"),
        ("ListLastUses", usage_pb2.ListLastUsesRequest(key_ids=["k", ""]), "key_ids"),
        ("ListLastUses", usage_pb2.ListLastUsesRequest(key_ids=["k\0"]), "key_ids"),
        ("ListLastUses", usage_pb2.ListLastUsesRequest(key_ids=[_LONG]), "key_ids"),
        ("GetRequest", usage_pb2.GetRequestRequest(request_id="req\0"), "request_id"),
        ("SummarizeUsage", usage_pb2.SummarizeUsageRequest(account_id="a\0"), "account_id"),
        ("SummarizeUsage", usage_pb2.SummarizeUsageRequest(key_id="k", from_day="\0"), "from_day"),
        ("SummarizeUsage", usage_pb2.SummarizeUsageRequest(key_id="k", outcome="eaten"), "outcome"),
        ("SummarizeUsage", usage_pb2.SummarizeUsageRequest(key_id="k", by_user=True), "key_id"),
        ("SummarizeUsage", usage_pb2.SummarizeUsageRequest(key_id="k", by_hour=True, by_surface=True), "by_surface"),
        (
            "CountCharged",
            usage_pb2.CountChargedRequest(key_days=[_KEY_DAY], excluded_request_ids=["r"] * 1_001),
            "excluded_request_ids",
        ),
        (
            "CountCharged",
            usage_pb2.CountChargedRequest(key_days=[_KEY_DAY], excluded_request_ids=["r\0"]),
            "excluded_request_ids",
        ),
        ("CountCharged", usage_pb2.CountChargedRequest(key_days=[usage_pb2.KeyDay(key_id=_LONG, day=DAY)]), "key_id"),
        ("CountCharged", usage_pb2.CountChargedRequest(key_days=[usage_pb2.KeyDay(key_id="k")]), "day"),
        ("CloseUnknown", usage_pb2.CloseUnknownRequest(contexts=[context("req\0")]), "request_id"),
        (
            "ResolveAbandoned",
            usage_pb2.ResolveAbandonedRequest(requests=[usage_pb2.AbandonedRequest(request_id="req\0")]),
            "requests",
        ),
        (
            "ResolveAbandoned",
            usage_pb2.ResolveAbandonedRequest(requests=[usage_pb2.AbandonedRequest(request_id="r", outcome="cut")]),
            "outcome",
        ),
    ],
)
async def test_values_that_no_database_accepts_are_refused_by_name_and_not_reported_as_an_outage(
    inference: Inference, method: str, request_: Any, field: str
) -> None:
    with pytest.raises(InvalidRequest) as refused, rpc_errors(unavailable_reason="inference_unavailable"):
        await getattr(inference.usage, method)(request_)
    assert field in refused.value.message
    assert len(refused.value.message) < 300


async def test_sql_in_an_id_is_an_unknown_id(inference: Inference) -> None:
    await inference.store.insert([ROW])

    assert await _listed(inference, account_id=_INJECTION) == []
    assert await _listed(inference, key_id=_INJECTION) == []
    assert await _listed(inference, before=_INJECTION) == []
    with pytest.raises(NotFound), rpc_errors(unavailable_reason="inference_unavailable"):
        await inference.usage.GetRequest(usage_pb2.GetRequestRequest(request_id=_INJECTION))
    assert await _listed(inference) == [ROW.request_id]


async def test_a_key_that_may_not_use_a_model_is_refused_with_a_row_that_is_not_charged(
    inference: Inference,
) -> None:
    where = context()
    where.models.extend(["openai/gpt-oss-120b"])
    request = inference_pb2.CreateChatCompletionRequest(context=where, chat=chat("hi", model=""))
    with pytest.raises(PermissionDenied) as refused:
        await inference.create(request)
    assert (refused.value.reason, refused.value.details.verdict) == ("model_not_allowed", "released")
    assert "llama-3.1-8b-instant" in refused.value.message
    row = await inference.row("req_1")
    assert (row.outcome, row.charged, row.refund_reason) == (Outcome.REFUSED, False, "model_not_allowed")
