"""Groq's failures as the clients of a whole stack see them: mostly not at all."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.stack import Key, Stack, running_stack, say

_DEFAULT, _FALLBACK, _HIDDEN = "llama-3.1-8b-instant", "openai/gpt-oss-120b", "whisper-large-v3"


@pytest.fixture(scope="module")
def supplied() -> Iterator[Stack]:
    """Yield a stack with two Groq keys, a fallback and an allow-list."""
    with running_stack(
        GROQ_API_KEYS="gsk_first,gsk_other",
        INFERENCE_MODEL_FALLBACKS=f'{{"{_DEFAULT}": ["{_FALLBACK}"]}}',
        INFERENCE_MODELS_ALLOWED='["openai/*"]',
        INFERENCE_QUEUE_SECONDS="0",
    ) as stack:
        yield stack


@pytest.fixture
async def client(supplied: Stack) -> AsyncIterator[httpx.AsyncClient]:
    """Yield an HTTP client of its gateway."""
    async with httpx.AsyncClient(base_url=supplied.base_url, trust_env=False, timeout=20) as client:
        yield client


async def _ask(client: httpx.AsyncClient, key: Key, text: str, **members: Any) -> httpx.Response:
    return await client.post("/api/v1/chat", headers=key.headers, json=say(text, **members))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_transient_failure_is_invisible_and_charged_once(
    supplied: Stack, client: httpx.AsyncClient, stream: bool
) -> None:
    key = await supplied.create_key()

    response = await _ask(client, key, f"[[standin:flaky times=2 status=503 id={key.id}]]", stream=stream)

    assert response.status_code == 200
    assert await supplied.until_settled(key) == (1, 0)
    (row,) = supplied.ledger(key)
    assert (row["outcome"], row["charged"], row["attempts"]) == ("answered", 1, 3)


async def test_exhausting_one_groq_key_and_then_both_costs_no_client_anything(
    supplied: Stack, client: httpx.AsyncClient
) -> None:
    key = await supplied.create_key()
    one, other = (f"[[standin:flaky times={times} status=429-day id={key.id}]]" for times in (1, 2))

    for text in (one, other):
        assert (await _ask(client, key, text)).status_code == 200
    response = await _ask(client, key, "no supply left", model="openai/gpt-oss-20b", stream=True)

    assert response.status_code == 503
    assert 570 <= int(response.headers["retry-after"]) <= 600, "as long as Groq said"
    assert response.json()["error"]["code"] == "upstream_busy"
    assert "org_" not in response.text
    assert await supplied.until_settled(key) == (2, 0)
    rows = sorted((row["attempts"], row["upstream_model"], row["charged"]) for row in supplied.ledger(key))
    assert rows == [(0, "openai/gpt-oss-20b", 0), (2, _FALLBACK, 1), (2, "openai/gpt-oss-20b", 1)]
    assert "no supply left" not in {entry["last_user_message"] for entry in await supplied.journal()}


async def test_only_allowed_models_are_listed_found_and_answered(supplied: Stack, client: httpx.AsyncClient) -> None:
    key = await supplied.create_key()

    listed = (await client.get("/api/v1/models", headers=key.headers)).json()["data"]
    refused = await _ask(client, key, "hi", model=_HIDDEN)

    names = {model["id"] for model in listed}
    assert {_DEFAULT, _FALLBACK} <= names
    assert all(name.startswith(("openai/", "llama-3")) for name in names)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
    assert (await client.get(f"/api/v1/models/{_DEFAULT}", headers=key.headers)).json()["id"] == _DEFAULT
    assert (await client.get(f"/api/v1/models/{_HIDDEN}", headers=key.headers)).status_code == 404
    assert await supplied.until_settled(key) == (0, 0)
