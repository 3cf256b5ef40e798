"""Refused input: in the error envelope, with the parameter's name, not counted, and never a 500."""

from typing import Any

import httpx
import pytest

from services.common import checksummed_token
from tests.e2e.stack import Key, Stack, say

_USER = {"role": "user", "content": "hi"}


def _assert_envelope(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == kind
    assert error["message"]
    return error


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        pytest.param(None, "invalid_api_key", id="no key"),
        pytest.param("Bearer", "invalid_api_key", id="no key after the scheme"),
        pytest.param("Basic dXNlcjpwYXNz", "invalid_api_key", id="another scheme"),
        pytest.param("Bearer sk_stk_short", "invalid_api_key", id="malformed"),
        pytest.param("Bearer sk-proj-0123456789abcdef0123456789abcdef", "invalid_api_key", id="someone else's key"),
        pytest.param(f"Bearer {checksummed_token.mint('sk_stk_')}", "invalid_api_key", id="well-formed but unknown"),
        pytest.param("Bearer k\u00e9y", "invalid_api_key", id="not ASCII"),
    ],
)
async def test_an_invalid_key_gets_401(http: httpx.AsyncClient, authorization: str | None, code: str) -> None:
    headers = {"Authorization": authorization.encode()} if authorization else {}
    response = await http.post("/api/v1/chat", headers=headers, json=say("hi"))  # type: ignore[arg-type]
    assert _assert_envelope(response, 401, "authentication_error")["code"] == code


async def test_a_revoked_key_gets_401(stack: Stack, http: httpx.AsyncClient, key: Key) -> None:
    await stack.revoke_key(key)
    response = await http.post("/api/v1/chat", headers=key.headers, json=say("hi"))
    error = _assert_envelope(response, 401, "authentication_error")
    assert "revoked" in error["message"]
    assert key.secret not in error["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        pytest.param(b"", None, id="empty"),
        pytest.param(b"not json", None, id="not JSON"),
        pytest.param(b'{"messages": [', None, id="broken off"),
        pytest.param(b"\xff\xfe", None, id="not UTF-8"),
        pytest.param(b'"text"', None, id="no object"),
        pytest.param(b"[" * 100_000, None, id="nested too deep"),
        pytest.param(b'{"messages":[{"role":"user","content":"\\ud800"}]}', None, id="a lone surrogate"),
        pytest.param({}, "messages", id="no messages"),
        pytest.param({"messages": None}, "messages", id="messages null"),
        pytest.param({"messages": []}, "messages", id="messages empty"),
        pytest.param({"messages": "hi"}, "messages", id="messages a string"),
        pytest.param({"messages": ["hi"]}, "messages[0]", id="message a string"),
        pytest.param({"messages": [{"content": "hi"}]}, "messages[0].role", id="no role"),
        pytest.param({"messages": [{"role": "king", "content": "hi"}]}, "messages[0].role", id="unknown role"),
        pytest.param({"messages": [{"role": 1, "content": "hi"}]}, "messages[0].role", id="role a number"),
        pytest.param({"messages": [{"role": ["user"], "content": "hi"}]}, "messages[0].role", id="role a list"),
        pytest.param({"messages": [_USER, {"role": "user"}]}, "messages[1].content", id="no content"),
        pytest.param({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", id="content a number"),
        pytest.param({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]", id="part a number"),
        pytest.param(say("hi", model=5), "model", id="model a number"),
        pytest.param(say("hi", temperature="hot"), "temperature", id="temperature a string"),
        pytest.param(say("hi", temperature=3), "temperature", id="temperature too high"),
        pytest.param(say("hi", max_tokens=0), "max_tokens", id="max_tokens too low"),
        pytest.param(say("hi", max_tokens=1.5), "max_tokens", id="max_tokens not whole"),
        pytest.param(say("hi", n=2), "n", id="several choices"),
        pytest.param(say("hi", stream="yes"), "stream", id="stream a string"),
        pytest.param(say("hi", stop=["a", "b", "c", "d", "e"]), "stop", id="five stops"),
        pytest.param(say("hi", tools=["hammer"]), "tools[0]", id="tool a string"),
        pytest.param(say("hi", stream_options=True), "stream_options", id="stream_options a boolean"),
        pytest.param(say("hi", zzz=1), "zzz", id="unknown parameter"),
        pytest.param(say("hi", logprobs=True), "logprobs", id="what Groq's models lack"),
        pytest.param(say("hi", tools=[{"type": "function"}]), "tools[0].function", id="tool without function"),
        pytest.param(say("hi", tool_choice="maybe"), "tool_choice", id="unknown tool choice"),
        pytest.param(say("hi", response_format={"type": "xml"}), "response_format.type", id="unknown format"),
        pytest.param(
            {"messages": [{"role": "tool", "content": "4"}]}, "messages[0].tool_call_id", id="tool without its call"
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages[0].content[0].type", id="video"
        ),
    ],
)
async def test_an_invalid_body_gets_400_with_the_parameter_and_is_not_counted(
    stack: Stack, http: httpx.AsyncClient, key: Key, body: bytes | dict[str, Any], param: str | None
) -> None:
    sent: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
    response = await http.post("/api/v1/chat", headers=key.headers, **sent)
    assert _assert_envelope(response, 400, "invalid_request_error")["param"] == param
    assert stack.counters(key) == (0, 0)
    assert stack.ledger(key) == []


async def test_nulls_and_unknown_message_members_are_accepted(http: httpx.AsyncClient, key: Key) -> None:
    message = {"role": "user", "content": "hi", "id": "m1", "refusal": None, "cache_control": {"type": "ephemeral"}}
    body = {"messages": [message], "stop": None, "temperature": None, "n": 1, "model": None, "store": False}
    response = await http.post("/api/v1/chat", headers=key.headers, json=body)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
async def test_a_body_over_the_limit_gets_413(stack: Stack, http: httpx.AsyncClient, key: Key, announced: bool) -> None:
    body = b"[" + b" " * (4 * 1024 * 1024) + b"]"

    async def pieces() -> Any:
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    sent = body if announced else pieces()
    response = await http.post("/api/v1/chat", headers=key.headers, content=sent)
    _assert_envelope(response, 413, "invalid_request_error")
    assert stack.counters(key) == (0, 0)


@pytest.mark.parametrize(
    "path", ["/nowhere", "/api/v1", "/api/v1/chats", "/v1/response", "/v1/audio/speech", "/api/v2/chat"]
)
async def test_an_unknown_path_gets_404(http: httpx.AsyncClient, key: Key, path: str) -> None:
    error = _assert_envelope(await http.post(path, headers=key.headers, json={}), 404, "invalid_request_error")
    assert error["code"] == "unknown_url"
    assert path in error["message"]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/api/v1/chat"), ("DELETE", "/v1/chat/completions"), ("POST", "/v1/models")]
)
async def test_a_wrong_method_gets_405(http: httpx.AsyncClient, key: Key, method: str, path: str) -> None:
    response = await http.request(method, path, headers=key.headers)
    assert _assert_envelope(response, 405, "invalid_request_error")["code"] == "method_not_allowed"
    assert response.headers["allow"]


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/chat",
        "/api/v1/chat/",
        "/api/v1/chat/completions",
        "/v1/chat/completions",
        "/openai/v1/chat/completions",
        "/openai/v1/openai/v1/chat/completions",
        "/chat/completions",
    ],
)
async def test_every_variant_of_the_path_is_answered(http: httpx.AsyncClient, key: Key, path: str) -> None:
    response = await http.post(path, headers=key.headers, json=say("hi"))
    assert response.status_code == 200, response.text


async def test_json_is_parsed_whatever_the_content_type(http: httpx.AsyncClient, key: Key) -> None:
    headers = {**key.headers, "Content-Type": "application/x-www-form-urlencoded"}
    response = await http.post(
        "/api/v1/chat", headers=headers, content=b'{"messages":[{"role":"user","content":"hi"}]}'
    )
    assert response.status_code == 200, response.text


async def test_a_request_that_groq_refuses_is_a_400_and_costs_nothing(
    stack: Stack, http: httpx.AsyncClient, key: Key
) -> None:
    response = await http.post("/api/v1/chat", headers=key.headers, json=say("[[standin:context_length]]"))
    error = _assert_envelope(response, 400, "invalid_request_error")
    assert error["code"] == "context_length_exceeded"
    assert await stack.until_settled(key) == (0, 0)
    assert [(row["outcome"], row["charged"]) for row in stack.ledger(key)] == [("refused", 0)]


async def test_a_web_page_may_call_the_api_and_read_the_headers_it_needs(http: httpx.AsyncClient, key: Key) -> None:
    origin = {"Origin": "https://app.example"}
    asked = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    preflight = await http.options("/v1/chat/completions", headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    answer = await http.post("/v1/chat/completions", headers={**key.headers, **origin}, json=say("hi"))
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "x-request-id" in answer.headers["access-control-expose-headers"]
