"""Real client packages, unmodified except for base URL and key, against the running stack."""

from typing import Any

import pytest

from tests.clients.matrix import Run, clients_that

_CALL = {"name": "get_weather", "arguments": {"city": "stand-in", "days": 1}, "finish_reason": "tool_calls"}
_SEVEN = "one two three four five six seven"


def _assert_failed(seen: dict[str, Any], name: str, status: int) -> None:
    assert name in seen["classes"], seen
    assert seen["status"] == status
    assert seen["message"]


def test_the_client_has_the_version_that_its_set_pins(run: Run) -> None:
    assert run.version.startswith(run.client.version)


@pytest.mark.cell("text")
async def test_create(run: Run) -> None:
    assert run.seen("create") == {"text": _SEVEN, "finish_reason": "stop", "completion_tokens": 7}
    assert await run.ledger("create") == [("answered", 1)]


@pytest.mark.cell("stream")
async def test_a_stream_arrives_in_chunks_and_reports_its_usage_once(run: Run) -> None:
    seen = run.seen("stream")
    assert "".join(seen["pieces"]) == _SEVEN
    assert len(seen["pieces"]) == 7
    assert (seen["finish_reason"], seen["completion_tokens"]) == ("stop", [7])
    assert await run.ledger("stream") == [("answered", 1)]


async def test_a_tool_is_called_and_its_result_is_sent_back(run: Run) -> None:
    seen = run.seen("tool")
    assert {name: seen[name] for name in _CALL} == _CALL
    assert seen["text_after"] == _SEVEN
    assert await run.ledger("tool") == [("answered", 1)] * 2


async def test_a_tool_is_called_in_a_stream(run: Run) -> None:
    seen = run.seen("tool_streamed")
    assert {name: seen[name] for name in _CALL} == _CALL
    assert await run.ledger("tool_streamed") == [("answered", 1)]


@pytest.mark.cell("structured")
async def test_an_answer_follows_a_response_schema(run: Run) -> None:
    assert run.seen("structured") == {"parsed": _CALL["arguments"]}
    assert await run.ledger("structured") == [("answered", 1)]


@pytest.mark.parametrize("run", clients_that("structured_by_tool"), ids=str, indirect=True)
async def test_an_answer_follows_the_schema_of_a_tool(run: Run) -> None:
    assert run.seen("structured_by_tool") == {"parsed": _CALL["arguments"]}
    assert await run.ledger("structured_by_tool") == [("answered", 1)]


@pytest.mark.parametrize("run", clients_that("models"), ids=str, indirect=True)
async def test_models_are_listed_and_read_by_names_with_a_slash(run: Run) -> None:
    seen = run.seen("models")
    assert "openai/gpt-oss-20b" in seen["names"]
    assert seen["retrieved"] == "openai/gpt-oss-20b"
    _assert_failed(seen["missing"], "NotFoundError", 404)
    assert await run.ledger("models") == []


def test_a_wrong_key_is_the_clients_authentication_error_and_not_retried(run: Run) -> None:
    _assert_failed(run.seen("wrong_key"), "AuthenticationError", 401)
    assert run.chats.count(401) == 1


@pytest.mark.cell("exhausted")
async def test_an_exhausted_quota_is_the_clients_rate_limit_error_and_not_retried(run: Run) -> None:
    seen = run.seen("exhausted")
    assert seen["first"]["text"] == _SEVEN
    _assert_failed(seen["second"], "RateLimitError", 429)
    assert run.chats.count(429) == 1, "the client retried uselessly"
    assert await run.ledger("exhausted") == [("answered", 1)]


async def test_a_503_of_groq_is_retried_by_the_client_and_charged_once(run: Run) -> None:
    assert run.seen("upstream_503")["text"] == _SEVEN
    assert run.chats.count(503) == 1
    assert sorted(await run.ledger("upstream_503")) == [("answered", 1), ("upstream_failed", 0)]


@pytest.mark.cell("cut")
async def test_a_stream_that_breaks_off_raises_an_exception(run: Run) -> None:
    seen = run.seen("cut")
    assert "".join(seen["pieces"]) == "one two three"
    assert "APIError" in seen["error"]["classes"], "the client took an interrupted stream for a complete one"
    assert seen["error"]["message"]
    assert await run.ledger("cut") == [("cut", 1)]
