"""Receipts: owners see their own requests only, and reading is free."""

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.e2e.stack import Key, Stack, say

_PATHS = ["/api/v1/key", "/api/v1/usage", "/api/v1/usage/req_01KAKAKAKAKAKAKAKAKAKAKAKA"]
_MEMBERS = {
    "object",
    "id",
    "key_id",
    "day",
    "created_at",
    "model",
    "upstream_model",
    "surface",
    "stream",
    "outcome",
    "charged",
    "refund_reason",
    "slot",
    "usage",
    "cost_microdollars",
    "cost_usd",
    "attempts",
    "time_to_first_token_ms",
    "duration_ms",
    "queue_ms",
}


async def _ask(http: httpx.AsyncClient, key: Key, text: str, **members: Any) -> httpx.Response:
    return await http.post("/api/v1/chat", headers=key.headers, json=say(text, **members))


async def _get(http: httpx.AsyncClient, key: Key, path: str, **params: str) -> Any:
    response = await http.get(path, headers=key.headers, params=params)
    assert response.status_code == 200, response.text
    return response.json()


async def _receipt(http: httpx.AsyncClient, key: Key, answer: httpx.Response) -> dict[str, Any]:
    """Return the receipt of an answer, by its id."""
    receipt: dict[str, Any] = await _get(http, key, f"/api/v1/usage/{answer.headers['x-request-id']}")
    assert set(receipt) == _MEMBERS
    return receipt


def _tokens(usage: dict[str, Any]) -> dict[str, Any]:
    """Return an answer's usage with the names of a receipt."""
    return {
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "total_tokens": usage["total_tokens"],
        "cached_tokens": (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        "reasoning_tokens": (usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0),
        "source": "reported",
    }


async def test_the_receipt_of_an_answer_has_the_answers_usage(http: httpx.AsyncClient, key: Key) -> None:
    answer = await _ask(http, key, "[[standin:tokens count=7]] [[standin:cached tokens=3]]")
    receipt = await _receipt(http, key, answer)

    assert receipt["usage"] == _tokens(answer.json()["usage"])
    assert (receipt["object"], receipt["key_id"], receipt["stream"]) == ("usage.record", key.id, False)
    assert (receipt["outcome"], receipt["charged"], receipt["refund_reason"]) == ("answered", True, None)
    assert (receipt["model"], receipt["upstream_model"]) == (answer.json()["model"], "openai/gpt-oss-20b")
    assert receipt["slot"] == {"number": 1, "limit": 1000, "scope": "key"}
    usage = answer.json()["usage"]
    # The default model is an alias of openai/gpt-oss-20b: $0.075, $0.0375 and $0.30 per million tokens.
    microdollars = (usage["prompt_tokens"] - 3) * 0.075 + 3 * 0.0375 + usage["completion_tokens"] * 0.3
    assert receipt["cost_microdollars"] == math.ceil(round(microdollars, 9)) > 0
    assert receipt["cost_usd"] == f"{receipt['cost_microdollars'] / 1e6:.6f}".rstrip("0")
    days = (await _get(http, key, "/api/v1/usage"))["data"]  # Of all tests with this key.
    day = next(one for one in days if one["model"] == receipt["model"])
    assert day["cost_microdollars"] >= receipt["cost_microdollars"]
    assert day["cost_usd"] == f"{day['cost_microdollars'] / 1e6:.6f}".rstrip("0")
    age = datetime.now(UTC) - datetime.fromisoformat(receipt["created_at"])
    assert timedelta(0) <= age < timedelta(seconds=20)
    assert receipt["created_at"].startswith(receipt["day"])


async def test_the_receipt_of_a_stream_has_the_usage_of_its_last_chunk(http: httpx.AsyncClient, key: Key) -> None:
    options = {"stream_options": {"include_usage": True}}
    answer = await _ask(http, key, "[[standin:tokens count=7]]", stream=True, **options)
    chunks = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]
    receipt = await _receipt(http, key, answer)

    assert receipt["usage"] == _tokens(chunks[-1]["usage"])
    assert (receipt["stream"], receipt["charged"]) == (True, True)
    assert 0 < receipt["time_to_first_token_ms"] <= receipt["duration_ms"]


async def test_the_receipt_of_a_failed_request_says_that_it_was_not_charged_and_why(
    http: httpx.AsyncClient, key: Key
) -> None:
    answer = await _ask(http, key, "[[standin:400]]")
    assert answer.status_code == 400
    receipt = await _receipt(http, key, answer)

    assert (receipt["outcome"], receipt["charged"]) == ("refused", False)
    assert receipt["refund_reason"]
    assert receipt["time_to_first_token_ms"] is None
    assert (receipt["usage"]["total_tokens"], receipt["usage"]["source"]) == (0, "none")
    assert (receipt["cost_microdollars"], receipt["cost_usd"]) == (0, "0.00")


async def test_a_receipt_exposes_nothing_of_the_operators_account(
    stack: Stack, http: httpx.AsyncClient, key: Key
) -> None:
    answer = await _ask(http, key, "hi")
    receipt = await _receipt(http, key, answer)
    (row,) = stack.ledger(key)

    assert row["upstream_id"]
    reported = json.dumps(receipt)
    assert row["upstream_id"] not in reported
    assert row["account_id"] not in reported


async def test_receipts_are_limited_to_the_account_and_others_look_like_unknown_ones(
    stack: Stack, http: httpx.AsyncClient, key: Key
) -> None:
    other = await stack.create_account_key("other@example.com")
    request_id = (await _ask(http, key, "hi")).headers["x-request-id"]
    sibling = await stack.create_key()
    never = request_id[:-4] + "ZZZZ"

    assert (await _get(http, sibling, f"/api/v1/usage/{request_id}"))["id"] == request_id
    foreign, unknown = [await http.get(f"/api/v1/usage/{one}", headers=other.headers) for one in (request_id, never)]
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.json()["error"]["code"] == "request_not_found"
    assert foreign.text.replace(request_id, never) == unknown.text
    assert (await _get(http, other, "/api/v1/usage"))["data"] == []
    assert (await _get(http, other, "/api/v1/usage", key_id=key.id))["data"] == []


async def test_usage_sums_the_account_and_can_be_limited_to_a_key_and_other_days(
    stack: Stack, http: httpx.AsyncClient
) -> None:
    first = await stack.create_account_key("sums@example.com")
    used = [(await _ask(http, first, "[[standin:tokens count=5]]")).json()["usage"] for _ in range(2)]
    await _ask(http, first, "[[standin:400]]")

    (today,) = (await _get(http, first, "/api/v1/usage", key_id=first.id))["data"]
    assert (today["requests"], today["released_requests"]) == (2, 1)
    assert today["total_tokens"] == sum(one["total_tokens"] for one in used)
    assert await _get(http, first, "/api/v1/usage") == {"object": "list", "data": [today]}
    assert (await _get(http, first, "/api/v1/usage", **{"from": today["day"], "to": today["day"]}))["data"] == [today]
    yesterday = (datetime.fromisoformat(today["day"]) - timedelta(days=1)).date().isoformat()
    assert (await _get(http, first, "/api/v1/usage", to=yesterday))["data"] == []


async def test_a_key_can_read_its_use_once_its_requests_are_settled(
    stack: Stack, http: httpx.AsyncClient, key: Key
) -> None:
    for _ in range(3):
        await _ask(http, key, "hi")
    await _ask(http, key, "[[standin:400]]")
    await stack.until_settled(key)

    today = await _get(http, key, "/api/v1/key")
    assert {name: today[name] for name in ("object", "id", "limit", "used", "held", "remaining")} == {
        "object": "key",
        "id": key.id,
        "limit": 1000,
        "used": 3,
        "held": 0,
        "remaining": 997,
    }
    resets_in = datetime.fromisoformat(today["resets_at"]) - datetime.now(UTC)
    assert 0 <= today["reset_in_seconds"] - resets_in.total_seconds() < 5
    assert today["resets_at"].endswith("T00:00:00Z")


async def test_a_request_in_flight_is_held_and_not_used(stack: Stack, http: httpx.AsyncClient, key: Key) -> None:
    slow = say("[[standin:slow token_ms=50]]", stream=True)
    async with http.stream("POST", "/api/v1/chat", headers=key.headers, json=slow) as response:
        lines = response.aiter_lines()
        await anext(lines)
        today = await _get(http, key, "/api/v1/key")
        assert [line async for line in lines if line][-1] == "data: [DONE]"

    assert (today["used"], today["held"], today["remaining"]) == (0, 1, 999)


async def test_reading_is_never_counted_and_works_with_no_slots_left(stack: Stack, http: httpx.AsyncClient) -> None:
    key = await stack.create_key(daily_limit=1)
    answer = await _ask(http, key, "hi")
    await stack.until_settled(key)
    for path in ("/api/v1/key", "/api/v1/usage", f"/api/v1/usage/{answer.headers['x-request-id']}"):
        for _ in range(3):
            await _get(http, key, path)

    assert await stack.until_settled(key) == (1, 0)
    assert len(stack.ledger(key)) == 1
    assert (await _get(http, key, "/api/v1/key"))["remaining"] == 0


@pytest.mark.parametrize("prefix", ["/api/v1", "/v1", "/openai/v1", "/openai/v1/v1"])
async def test_every_prefix_is_served(http: httpx.AsyncClient, key: Key, prefix: str) -> None:
    request_id = (await _ask(http, key, "hi")).headers["x-request-id"]

    for path in ("/key", "/usage", "/usage/", f"/usage/{request_id}"):
        await _get(http, key, prefix + path)


@pytest.mark.parametrize("path", ["/key", "/usage", "/usage/req_1"])
async def test_without_a_prefix_the_path_is_not_the_apis(http: httpx.AsyncClient, key: Key, path: str) -> None:
    response = await http.get(path, headers=key.headers)
    assert '"object"' not in response.text
    assert "request_not_found" not in response.text


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"from": "yesterday"}, "from"),
        ({"to": "2026-02-30"}, "to"),
        ({"from": "2026-02-02", "to": "2026-02-01"}, "from"),
        ({"key_id": "laptop"}, "key_id"),
    ],
)
async def test_an_invalid_parameter_gets_400_with_its_name(
    http: httpx.AsyncClient, key: Key, params: dict[str, str], named: str
) -> None:
    response = await http.get("/api/v1/usage", headers=key.headers, params=params)
    error = _error(response, 400)
    assert (error["type"], error["param"]) == ("invalid_request_error", named)


@pytest.mark.parametrize("request_id", ["req_01KAKAKAKAKAKAKAKAKAKAKAKA", "req_1", "%00", "chatcmpl-1"])
async def test_an_unknown_request_gets_404(http: httpx.AsyncClient, key: Key, request_id: str) -> None:
    response = await http.get(f"/api/v1/usage/{request_id}", headers=key.headers)
    assert _error(response, 404)["code"] == "request_not_found"


@pytest.mark.parametrize("path", _PATHS)
async def test_a_wrong_method_gets_405(http: httpx.AsyncClient, key: Key, path: str) -> None:
    response = await http.post(path, headers=key.headers)
    assert _error(response, 405)["code"] == "method_not_allowed"
    assert "GET" in response.headers["allow"]


@pytest.mark.parametrize("path", _PATHS)
async def test_a_missing_key_gets_401(http: httpx.AsyncClient, path: str) -> None:
    assert _error(await http.get(path), 401)["code"] == "invalid_api_key"


def _error(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["x-request-id"].startswith("req_")
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error
