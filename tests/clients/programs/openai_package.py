"""OpenAI's package, second and third major version, with our base URL."""

import json
from typing import Any

import openai
from pydantic import BaseModel

from tests.clients.programs import chat_cases
from tests.clients.programs.report import (
    CUT,
    MODEL,
    SEVEN_TOKENS,
    TOOL_CALL,
    WEATHER_TOOL,
    Seen,
    failure,
    flaky,
    run,
    user,
)


class Weather(BaseModel):
    """The structured answer."""

    city: str
    days: int


def _client(base_url: str, secret: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{base_url}/v1", api_key=secret)


def _say(client: openai.OpenAI, text: str) -> Seen:
    messages: Any = [user(text)]
    answer = client.chat.completions.create(model=MODEL, messages=messages)
    assert answer.usage is not None
    return {
        "text": answer.choices[0].message.content,
        "finish_reason": answer.choices[0].finish_reason,
        "completion_tokens": answer.usage.completion_tokens,
    }


def create(base_url: str, secret: str) -> Seen:
    """Request a whole answer."""
    with _client(base_url, secret) as client:
        return _say(client, SEVEN_TOKENS)


def stream(base_url: str, secret: str) -> Seen:
    """Request a stream with its usage."""
    messages: Any = [user(SEVEN_TOKENS)]
    with _client(base_url, secret) as client:
        chunks = list(
            client.chat.completions.create(
                model=MODEL, messages=messages, stream=True, stream_options={"include_usage": True}
            )
        )
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    return {
        "pieces": [choice.delta.content for choice in choices if choice.delta.content],
        "finish_reason": choices[-1].finish_reason,
        "completion_tokens": [chunk.usage.completion_tokens for chunk in chunks if chunk.usage],
    }


def tool(base_url: str, secret: str) -> Seen:
    """Have a tool called, and send the call back with its result."""
    messages: list[Any] = [user(TOOL_CALL)]
    offered: Any = [WEATHER_TOOL]
    with _client(base_url, secret) as client:
        answer = client.chat.completions.create(model=MODEL, messages=messages, tools=offered)
        (call,) = answer.choices[0].message.tool_calls or []
        assert call.type == "function"
        messages += [answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
        messages.append(user(SEVEN_TOKENS))
        after = client.chat.completions.create(model=MODEL, messages=messages, tools=offered)
    return {
        "name": call.function.name,
        "arguments": json.loads(call.function.arguments),
        "finish_reason": answer.choices[0].finish_reason,
        "text_after": after.choices[0].message.content,
    }


def tool_streamed(base_url: str, secret: str) -> Seen:
    """Have a tool called in a stream, assembled by the package's own helper."""
    messages: Any = [user(TOOL_CALL)]
    offered: Any = [WEATHER_TOOL]
    with (
        _client(base_url, secret) as client,
        client.chat.completions.stream(model=MODEL, messages=messages, tools=offered) as events,
    ):
        choice = events.get_final_completion().choices[0]
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    return {
        "name": call.function.name,
        "arguments": json.loads(call.function.arguments),
        "finish_reason": choice.finish_reason,
    }


def structured(base_url: str, secret: str) -> Seen:
    """Request an answer in the form of a Pydantic model, which becomes a strict schema."""
    messages: Any = [user("How is the weather?")]
    with _client(base_url, secret) as client:
        answer = client.chat.completions.parse(model=MODEL, messages=messages, response_format=Weather)
    assert answer.choices[0].message.parsed is not None
    return {"parsed": answer.choices[0].message.parsed.model_dump()}


def models(base_url: str, secret: str) -> Seen:
    """List the models, and read one whose name has a slash and one that does not exist."""
    with _client(base_url, secret) as client:
        return {
            "names": [model.id for model in client.models.list()],
            "retrieved": client.models.retrieve(MODEL).id,
            "missing": failure(lambda: client.models.retrieve("no/such-model"), openai.OpenAIError),
        }


def refused(base_url: str, secret: str) -> Seen:
    """Call with a key that is not accepted."""
    with _client(base_url, secret) as client:
        return failure(lambda: _say(client, SEVEN_TOKENS), openai.OpenAIError)


def exhausted(base_url: str, secret: str) -> Seen:
    """Use a key's only slot, and call once more."""
    with _client(base_url, secret) as client:
        return {"first": _say(client, SEVEN_TOKENS), "second": refused(base_url, secret)}


def upstream_503(base_url: str, secret: str) -> Seen:
    """Call while Groq refuses once."""
    with _client(base_url, secret) as client:
        return _say(client, flaky(secret))


def cut(base_url: str, secret: str) -> Seen:
    """Read a stream that breaks."""
    messages: Any = [user(CUT)]
    pieces: list[str] = []

    def read() -> None:
        for chunk in client.chat.completions.create(model=MODEL, messages=messages, stream=True):
            pieces.extend(choice.delta.content for choice in chunk.choices if choice.delta.content)

    with _client(base_url, secret) as client:
        error = failure(read, openai.OpenAIError)
    return {"pieces": pieces, "error": error}


if __name__ == "__main__":
    run(
        "openai",
        {
            **chat_cases.by_name(_client),
            "create": create,
            "stream": stream,
            "tool": tool,
            "tool_streamed": tool_streamed,
            "structured": structured,
            "models": models,
            "wrong_key": refused,
            "exhausted": exhausted,
            "upstream_503": upstream_503,
            "cut": cut,
        },
    )
