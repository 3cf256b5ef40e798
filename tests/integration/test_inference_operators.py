"""OperatorUsageService over real gRPC: top accounts, the usage of one, and the state of Groq's keys."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import InvalidRequest
from services.common.rpc.status import rpc_errors
from stack.inference.v1 import inference_pb2, operators_pb2
from tests.contracts.ledger_store import DAY, ROW, rows
from tests.integration.inference_world import Inference, chat, running
from tests.integration.upstream import Upstream, upstream

__all__ = ["upstream"]


@pytest.fixture
async def inference(upstream: Upstream, tmp_path: Path) -> AsyncIterator[Inference]:
    """A service with an empty ledger."""
    async with running(upstream.url, tmp_path) as one:
        yield one


async def test_the_accounts_with_the_most_usage_are_listed_up_to_a_number(inference: Inference) -> None:
    for number in range(1, 31):
        await inference.store.insert(rows(number, start=1_000 * number, account_id=f"acc_{number:02}"))
    request = operators_pb2.ListTopAccountsRequest(from_day=DAY, to_day=DAY)
    found = (await inference.operators.ListTopAccounts(request)).accounts
    assert [(one.account_id, one.charged_requests) for one in found] == [
        (f"acc_{number:02}", number) for number in range(30, 10, -1)
    ]
    assert found[0].cost == 30 * 1_234


async def test_an_account_is_summed_by_day_and_model(inference: Inference) -> None:
    await inference.store.insert([ROW, replace(ROW, request_id="req_2", account_id="acc_2")])
    request = operators_pb2.SummarizeAccountUsageRequest(account_id="acc_1", from_day=DAY, to_day=DAY)
    (summary,) = (await inference.operators.SummarizeAccountUsage(request)).summaries
    assert (summary.day, summary.charged_requests, summary.total_tokens) == (DAY, 1, 30)


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"from_day": DAY},
        {"from_day": "2026-08-02", "to_day": "2026-08-01"},
        {"from_day": "2026-01-01", "to_day": "2026-02-01"},
        {"from_day": DAY, "to_day": DAY, "page_size": 101},
        {"from_day": DAY, "to_day": DAY, "page_size": -1},
        {"from_day": DAY, "to_day": DAY, "order": 99},
        {"from_day": "\0", "to_day": DAY},
    ],
)
async def test_a_range_that_is_no_month_or_a_number_out_of_range_is_refused(
    inference: Inference, wanted: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest), rpc_errors(unavailable_reason="inference_unavailable"):
        await inference.operators.ListTopAccounts(operators_pb2.ListTopAccountsRequest(**wanted))


async def test_the_state_of_groq_keys_has_no_key_and_no_more_left_than_the_limit(inference: Inference) -> None:
    before = await inference.operators.ListGroqKeys(operators_pb2.ListGroqKeysRequest())
    assert [(key.number, key.is_usable, len(key.allowances)) for key in before.keys][:1] == [(1, True, 0)]
    assert before.is_shared is False

    await inference.create(inference_pb2.CreateChatCompletionRequest(chat=chat("hello")))

    after = await inference.operators.ListGroqKeys(operators_pb2.ListGroqKeysRequest())
    left = {one.window: (one.left, one.limit) for key in after.keys for one in key.allowances}
    assert all(0 <= rest <= limit for rest, limit in left.values()), left
    assert "gsk_" not in str(after)
