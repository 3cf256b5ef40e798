"""The timeline of a request covers its whole time, and the bug report has its facts."""

from dataclasses import replace

import pytest

from services.common.receipts import Receipt, ReceiptUsage
from services.common.surface import Surface
from services.gateway.console.failures import failure_of
from services.gateway.console.receipt_texts import bug_report, timeline_of

_RECEIPT = Receipt(
    id="req_1",
    key_id="key_1",
    day="2026-11-01",
    created_at="2026-11-01T00:00:00Z",
    model="llama-3.1-8b-instant",
    upstream_model="openai/gpt-oss-20b",
    surface=Surface.CHAT,
    stream=True,
    outcome="answered",
    charged=True,
    refund_reason=None,
    usage=ReceiptUsage(12, 34, 46, 0, 0, "reported"),
    cost_microdollars=None,
    cost_usd=None,
    attempts=1,
    time_to_first_token_ms=300,
    duration_ms=1_000,
    queue_ms=100,
)


@pytest.mark.parametrize(
    ("queue", "first", "total", "texts"),
    [
        (100, 300, 1_000, ["in the queue: 100 ms", "until the first output: 200 ms", "output: 700 ms"]),
        (0, 300, 300, ["until the first output: 300 ms"]),
        (None, None, 1_500, ["waiting for the model: 1,500 ms"]),
        (50, 20, 40, ["in the queue: 40 ms"]),
        (None, None, 0, ["waiting for the model: 1 ms"]),
    ],
)
def test_the_phases_add_up_to_the_whole_time(
    queue: int | None, first: int | None, total: int, texts: list[str]
) -> None:
    phases = timeline_of(replace(_RECEIPT, queue_ms=queue, time_to_first_token_ms=first, duration_ms=total))

    assert [phase.text for phase in phases] == texts
    assert sum(phase.width for phase in phases) == pytest.approx(100, abs=0.1)
    assert [phase.start for phase in phases] == sorted(phase.start for phase in phases)


def test_a_bug_report_names_the_models_and_the_status() -> None:
    assert bug_report(_RECEIPT, None).splitlines() == [
        "Request: req_1",
        "Time: 2026-11-01T00:00:00Z",
        "Outcome: Answered",
        "Status: 200",
        "Model: llama-3.1-8b-instant, answered by openai/gpt-oss-20b",
        "API: Chat Completions, streamed",
        "Tokens: 12 sent, 34 received",
        "Duration: 1000 ms, first output after 300 ms",
        "Calls to the model: 1",
        "Charged: yes",
    ]
    failed = replace(
        _RECEIPT,
        outcome="upstream_failed",
        charged=False,
        refund_reason="upstream_busy",
        upstream_model=None,
        surface=None,
        stream=False,
        time_to_first_token_ms=None,
    )
    report = bug_report(failed, failure_of(failed, None))
    assert "Status: 503 upstream_busy" in report
    assert "Model: llama-3.1-8b-instant, answered by no model" in report
    assert "Charged: no (upstream_busy)" in report
