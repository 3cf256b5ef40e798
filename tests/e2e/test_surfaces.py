"""The API's surfaces over HTTP: answers, errors in each surface's envelope, and what they cost."""

import json
from typing import Any

import httpx
import pytest

from tests.e2e.stack import Key, Stack

_MODEL = "openai/gpt-oss-20b"
_CHAT = {"model": _MODEL, "messages": [{"role": "user", "content": "hi"}]}
_BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": _CHAT,
    "/v1/completions": {"model": _MODEL, "prompt": "hi"},
    "/v1/messages": {**_CHAT, "max_tokens": 100},
    "/v1/responses": {"model": _MODEL, "input": "hi"},
}
_LAST = {
    "/v1/chat/completions": "data: [DONE]",
    "/v1/completions": "data: [DONE]",
    "/v1/messages": 'event: message_stop\ndata: {"type":"message_stop"}',
    "/v1/responses": "data: [DONE]",
}


def _is_anthropics(path: str) -> bool:
    return path.startswith("/v1/messages")


def _assert_error(path: str, response: httpx.Response, kind: str, *, has_code: str | None = None) -> None:
    body = response.json()
    if _is_anthropics(path):
        assert (body["type"], body["error"]["type"]) == ("error", kind)
        assert body["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    else:
        assert set(body["error"]) >= {"message", "type", "param", "code"}
        assert has_code is None or body["error"]["code"] == has_code


async def _used(http: httpx.AsyncClient, key: Key) -> int:
    response = await http.get("/v1/key", headers=key.headers)
    used: int = response.json()["used"] + response.json()["held"]
    return used


@pytest.mark.parametrize("path", _BODIES)
@pytest.mark.parametrize("stream", [False, True])
async def test_every_surface_answers_is_charged_once_and_has_its_name_in_the_receipt(
    http: httpx.AsyncClient, key: Key, path: str, stream: bool
) -> None:
    before = await _used(http, key)
    response = await http.post(path, json={**_BODIES[path], "stream": stream}, headers=key.headers)
    assert response.status_code == 200, response.text
    assert response.headers["x-ratelimit-remaining-requests"]
    if stream:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.text.rstrip("\n").endswith(_LAST[path])
    else:
        assert "You said: hi" in response.text
    assert await _used(http, key) == before + 1
    receipt = await http.get(f"/v1/usage/{response.headers['x-request-id']}", headers=key.headers)
    assert receipt.json()["surface"] == path.split("/")[2]


@pytest.mark.parametrize("path", _BODIES)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_released_request_is_not_missing_from_the_remaining_ones(
    http: httpx.AsyncClient, key: Key, path: str, stream: bool
) -> None:
    remaining = 1000 - await _used(http, key)
    response = await http.post(path, json={**_BODIES[path], "model": "nope", "stream": stream}, headers=key.headers)
    assert response.status_code == 404, response.text
    assert response.headers["x-ratelimit-remaining-requests"] == str(remaining)


@pytest.mark.parametrize("path", [*_BODIES, "/v1/messages/count_tokens"])
@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model": 1}', b"\xff", b'{"stream": "yes"}'])
async def test_an_invalid_body_is_a_400_in_the_surfaces_envelope_and_costs_nothing(
    http: httpx.AsyncClient, key: Key, path: str, body: bytes
) -> None:
    before = await _used(http, key)
    response = await http.post(path, content=body, headers=key.headers)
    assert response.status_code == 400
    _assert_error(path, response, "invalid_request_error")
    assert await _used(http, key) == before


@pytest.mark.parametrize("path", [*_BODIES, "/v1/messages/count_tokens"])
async def test_a_wrong_key_is_a_401_in_the_surfaces_envelope(http: httpx.AsyncClient, path: str) -> None:
    headers = {"authorization": "Bearer sk_stk_wrong"}
    response = await http.post(path, json=_BODIES.get(path, {}), headers=headers)
    assert response.status_code == 401
    _assert_error(path, response, "authentication_error", has_code="invalid_api_key")


@pytest.mark.parametrize("path", _BODIES)
async def test_a_wrong_method_is_a_405_in_the_surfaces_envelope(http: httpx.AsyncClient, path: str) -> None:
    response = await http.get(path)
    assert response.status_code == 405
    _assert_error(path, response, "invalid_request_error", has_code="method_not_allowed")


async def test_anthropics_key_header_works_everywhere(http: httpx.AsyncClient, key: Key) -> None:
    for path, body in _BODIES.items():
        response = await http.post(path, json=body, headers={"x-api-key": key.secret})
        assert response.status_code == 200, (path, response.text)


async def test_a_claude_model_is_answered_by_the_model_of_its_alias(http: httpx.AsyncClient, key: Key) -> None:
    body = {**_BODIES["/v1/messages"], "model": "claude-opus-5-5", "max_tokens": 1_000_000}
    response = await http.post("/v1/messages?beta=true", json=body, headers=key.headers)
    assert response.status_code == 200, response.text
    assert response.json()["model"] == "claude-opus-5-5"


async def test_counting_tokens_costs_no_request(http: httpx.AsyncClient, key: Key) -> None:
    before = await _used(http, key)
    response = await http.post("/v1/messages/count_tokens", json=_BODIES["/v1/messages"], headers=key.headers)
    assert response.status_code == 200
    assert response.headers["request-id"] == response.headers["x-request-id"]
    assert 0 < response.json()["input_tokens"] < 50
    assert await _used(http, key) == before


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/responses/resp_1"),
        ("DELETE", "/v1/responses/resp_1"),
        ("GET", "/v1/responses/resp_1/input_items"),
        ("GET", "/v1/responses/resp_01ARZ3NDEKTSV4RRFFQ69G5FAV"),
    ],
)
async def test_responses_are_not_stored(http: httpx.AsyncClient, key: Key, method: str, path: str) -> None:
    response = await http.request(method, path, headers=key.headers)
    assert response.status_code == 404
    message = response.json()["error"]["message"]
    assert message.startswith(
        f"Response with id '{path.split('/')[3]}' not found. This service does not store responses"
    )
    assert "`store: false`" in message


@pytest.mark.parametrize("path", ["compact", "input_tokens", "resp_1/cancel"])
async def test_an_endpoint_of_responses_that_is_not_offered_is_named(
    http: httpx.AsyncClient, key: Key, path: str
) -> None:
    response = await http.post(f"/v1/responses/{path}", json={}, headers=key.headers)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "unsupported_endpoint"
    assert response.json()["error"]["message"].startswith(f"/api/v1/responses/{path} is not available")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/moderations", "/v1/images/generations"])
async def test_an_endpoint_without_a_model_names_what_is_available(
    http: httpx.AsyncClient, key: Key, path: str
) -> None:
    response = await http.post(path, json={"model": "x", "input": "y"}, headers=key.headers)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "unsupported_endpoint"
    assert "/v1/chat/completions" in response.json()["error"]["message"]


async def test_the_model_list_has_anthropics_members_when_its_version_is_sent(
    http: httpx.AsyncClient, key: Key
) -> None:
    headers = {**key.headers, "anthropic-version": "2023-06-01"}
    response = await http.get("/v1/models?limit=1000", headers=headers)
    assert response.headers["request-id"] == response.headers["x-request-id"]
    page = response.json()
    assert page["has_more"] is False
    assert page["first_id"] == page["data"][0]["id"]
    assert {"display_name", "created_at", "object"} <= set(page["data"][0])
    response = await http.get(f"/v1/models/{_MODEL}", headers=headers)
    assert response.headers["request-id"] == response.headers["x-request-id"]
    one = response.json()
    assert (one["id"], one["type"]) == (_MODEL, "model")


async def test_an_error_of_models_has_anthropics_envelope_when_its_version_is_sent(http: httpx.AsyncClient) -> None:
    headers = {"x-api-key": "sk_stk_wrong", "anthropic-version": "2023-06-01"}
    response = await http.get("/v1/models", headers=headers)
    assert response.status_code == 401
    _assert_error("/v1/messages", response, "authentication_error")


@pytest.mark.parametrize("path", _BODIES)
@pytest.mark.parametrize("stream", [False, True])
async def test_at_the_daily_limit_the_response_asks_clients_not_to_retry(
    http: httpx.AsyncClient, stack: Stack, path: str, stream: bool
) -> None:
    spent = await stack.create_key(daily_limit=0)
    response = await http.post(path, json={**_BODIES[path], "stream": stream}, headers=spent.headers)
    assert response.status_code == 429
    assert response.headers["x-should-retry"] == "false"
    _assert_error(path, response, "rate_limit_error", has_code="rate_limit_exceeded")
    if path == "/v1/responses":
        error = json.loads(response.content)["error"]
        assert error["type"] == "usage_limit_reached"
        assert error["resets_at"] > 1_700_000_000
        assert "retry-after" not in response.headers
