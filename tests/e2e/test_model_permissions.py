"""A key restricted to some models sees and gets no others, and its refused requests cost nothing."""

import httpx
import pytest

from tests.e2e.stack import Stack, say

_MODEL, _OTHER = "openai/gpt-oss-20b", "openai/gpt-oss-120b"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_key_is_refused_the_models_outside_its_restriction(
    stack: Stack, http: httpx.AsyncClient, stream: bool
) -> None:
    key = await stack.create_key(models=["openai/gpt-oss-20*", "unheard-of"])
    refused = await http.post("/api/v1/chat", headers=key.headers, json=say("hi", model=_OTHER, stream=stream))
    error = refused.json()["error"]
    assert (refused.status_code, error["type"], error["code"]) == (403, "permission_error", "model_not_allowed")
    assert _OTHER in error["message"]
    assert await stack.until_settled(key) == (0, 0)
    (row,) = stack.ledger(key)
    assert (row["outcome"], row["charged"], row["refund_reason"]) == ("refused", 0, "model_not_allowed")
    answered = await http.post("/api/v1/chat", headers=key.headers, json=say("hi", model=_MODEL, stream=stream))
    assert answered.status_code == 200, answered.text


async def test_the_default_model_does_not_bypass_the_restriction(stack: Stack, http: httpx.AsyncClient) -> None:
    key = await stack.create_key(models=[_OTHER])
    response = await http.post("/api/v1/chat", headers=key.headers, json=say("hi"))
    assert (response.status_code, response.json()["error"]["code"]) == (403, "model_not_allowed")


async def test_an_alias_is_allowed_by_its_own_name_or_its_models(stack: Stack, http: httpx.AsyncClient) -> None:
    alias = "llama-3.1-8b-instant"
    for pattern in (alias, _MODEL):
        key = await stack.create_key(models=[pattern])
        response = await http.post("/api/v1/chat", headers=key.headers, json=say("hi", model=alias))
        assert response.status_code == 200, response.text


async def test_only_models_that_a_key_may_use_are_listed(stack: Stack, http: httpx.AsyncClient) -> None:
    key, free = await stack.create_key(models=[_MODEL]), await stack.create_key()
    listed = (await http.get("/api/v1/models", headers=key.headers)).json()["data"]
    assert [model["id"] for model in listed] == [_MODEL, "llama-3.1-8b-instant"], "and the alias of that model"
    assert [model.get("root") for model in listed] == [None, _MODEL]
    assert (await http.get(f"/api/v1/models/{_MODEL}", headers=key.headers)).status_code == 200
    hidden = await http.get(f"/api/v1/models/{_OTHER}", headers=key.headers)
    assert (hidden.status_code, hidden.json()["error"]["code"]) == (404, "model_not_found")
    assert (await http.get(f"/api/v1/models/{_OTHER}", headers=free.headers)).status_code == 200
