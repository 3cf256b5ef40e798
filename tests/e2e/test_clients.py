"""The current `openai` and `groq` packages, with only the base URL and the key changed."""

from typing import Any

import groq
import openai
import pytest

from tests.e2e.stack import Key, Stack

_MESSAGES: Any = [{"role": "user", "content": "Say hello [[standin:tokens count=7]]"}]


@pytest.fixture(params=["/v1", "/api/v1"])
def openai_client(request: pytest.FixtureRequest, stack: Stack, key: Key) -> openai.OpenAI:
    """Yield OpenAI's client, pointed here."""
    return openai.OpenAI(base_url=stack.base_url + request.param, api_key=key.secret)


@pytest.fixture
def groq_client(stack: Stack, key: Key) -> groq.Groq:
    """Yield Groq's client, pointed here."""
    return groq.Groq(base_url=stack.base_url, api_key=key.secret)


def test_openai_creates_a_completion(openai_client: openai.OpenAI) -> None:
    with openai_client as client:
        answer = client.chat.completions.create(model="llama-3.1-8b-instant", messages=_MESSAGES)
    assert answer.model == "llama-3.1-8b-instant"
    assert answer.id.startswith("chatcmpl-")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 7


def test_openai_streams_report_usage_on_request(openai_client: openai.OpenAI) -> None:
    with openai_client as client:
        chunks = list(
            client.chat.completions.create(
                model="openai/gpt-oss-20b",
                messages=_MESSAGES,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert len(text.split()) == 7
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [7]
    assert chunks[-1].choices == []


def test_openai_lists_models_and_reads_one_whose_name_has_a_slash(openai_client: openai.OpenAI) -> None:
    with openai_client as client:
        names = [model.id for model in client.models.list()]
        assert "openai/gpt-oss-20b" in names
        assert client.models.retrieve("openai/gpt-oss-20b").id == "openai/gpt-oss-20b"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("no/such-model")


def test_errors_are_openais_exception_classes(stack: Stack, key: Key) -> None:
    with openai.OpenAI(base_url=f"{stack.base_url}/v1", api_key="sk_stk_wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            client.chat.completions.create(model="m", messages=_MESSAGES)
        assert refused.value.code == "invalid_api_key"
        assert refused.value.request_id is not None
    with openai.OpenAI(base_url=f"{stack.base_url}/v1", api_key=key.secret, max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as invalid:
            client.chat.completions.create(model="m", messages=[])
        assert invalid.value.param == "messages"
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="no-such-model", messages=_MESSAGES)
        assert missing.value.code == "model_not_found"


def test_groq_creates_a_completion(groq_client: groq.Groq) -> None:
    with groq_client as client:
        answer = client.chat.completions.create(model="openai/gpt-oss-20b", messages=_MESSAGES)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 7


def test_a_groq_stream_has_its_usage_under_x_groq(groq_client: groq.Groq) -> None:
    with groq_client as client:
        stream: Any = client.chat.completions.create(model="openai/gpt-oss-20b", messages=_MESSAGES, stream=True)
        chunks = list(stream)
    assert len("".join(chunk.choices[0].delta.content or "" for chunk in chunks).split()) == 7
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].x_groq.usage.completion_tokens == 7
    assert all(chunk.x_groq is None or chunk.x_groq.id is None for chunk in chunks), "the operator's Groq ids leak"


async def test_the_async_clients_stream_too(stack: Stack, key: Key) -> None:
    clients: tuple[Any, ...] = (
        openai.AsyncOpenAI(base_url=f"{stack.base_url}/v1", api_key=key.secret),
        groq.AsyncGroq(base_url=stack.base_url, api_key=key.secret),
    )
    for client in clients:
        async with client:
            stream = await client.chat.completions.create(model="openai/gpt-oss-20b", messages=_MESSAGES, stream=True)
            chunks = [chunk async for chunk in stream]
        assert chunks[-1].choices[0].finish_reason == "stop"
