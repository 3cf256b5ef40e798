"""The official SDKs work with the stand-in as with Groq."""

from collections.abc import AsyncIterator, Iterator

import groq
import openai
import pytest

from tests.integration.groq_standin.standin_process import OSS, QWEN, StandIn


@pytest.fixture
def groq_client(standin: StandIn) -> Iterator[groq.Groq]:
    """Groq's own client, without retries."""
    with groq.Groq(api_key="gsk_tests", base_url=standin.url, max_retries=0) as client:
        yield client


@pytest.fixture
async def openai_client(standin: StandIn) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client pointed at Groq's compatible path, with its usual two retries."""
    async with openai.AsyncOpenAI(api_key="gsk_tests", base_url=f"{standin.url}/openai/v1") as client:
        yield client


def test_groq_reads_an_answer(groq_client: groq.Groq) -> None:
    answer = groq_client.chat.completions.create(model=OSS, messages=[{"role": "user", "content": "hi"}])
    assert "You said: hi" in (answer.choices[0].message.content or "")
    assert answer.choices[0].message.reasoning
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None


def test_groq_reads_a_stream_with_its_usage(groq_client: groq.Groq) -> None:
    with groq_client.chat.completions.create(
        model=QWEN, messages=[{"role": "user", "content": "hi"}], stream=True
    ) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).endswith("You said: hi")
    assert chunks[0].x_groq is not None
    assert chunks[-1].x_groq is not None
    assert chunks[-1].x_groq.usage is not None


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("400", groq.BadRequestError),
        ("401", groq.AuthenticationError),
        ("429", groq.RateLimitError),
        ("502-html", groq.InternalServerError),
        ("498", groq.APIStatusError),
        ("error_event", groq.APIError),
    ],
)
def test_groq_raises_its_own_errors(groq_client: groq.Groq, mode: str, error: type[Exception]) -> None:
    with (
        pytest.raises(error),
        groq_client.chat.completions.create(
            model=OSS, messages=[{"role": "user", "content": f"[[standin:{mode}]]"}], stream=True
        ) as stream,
    ):
        list(stream)


async def test_openai_reads_a_stream_with_usage(openai_client: openai.AsyncOpenAI) -> None:
    stream = await openai_client.chat.completions.create(
        model=OSS,
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    async with stream:
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-2].choices[0].finish_reason == "stop"


async def test_openai_retries_a_flaky_request(standin: StandIn, openai_client: openai.AsyncOpenAI) -> None:
    text = "[[standin:flaky times=1 status=503 id=sdk]]"
    client = openai_client.with_options(max_retries=1)
    answer = await client.chat.completions.create(model=OSS, messages=[{"role": "user", "content": text}])
    assert answer.choices[0].finish_reason == "stop"
    seen = [entry["status"] for entry in standin.client.get("/journal").json() if entry["mode"] == "flaky"]
    assert seen[-2:] == [503, 200]


async def test_openai_lists_the_models(openai_client: openai.AsyncOpenAI) -> None:
    assert OSS in [model.id async for model in openai_client.models.list()]
    assert (await openai_client.models.retrieve(OSS)).owned_by == "OpenAI"
