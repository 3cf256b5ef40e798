"""Groq's package, before and after its first major version, with our base URL."""

import json
from typing import Any

import groq

from tests.clients.programs import chat_cases
from tests.clients.programs.report import (
    CUT,
    MODEL,
    SEVEN_TOKENS,
    TOOL_CALL,
    WEATHER_FORMAT,
    WEATHER_TOOL,
    Seen,
    failure,
    flaky,
    run,
    user,
)


def _client(base_url: str, secret: str) -> groq.Groq:
    return groq.Groq(base_url=base_url, api_key=secret)


def _say(client: groq.Groq, text: str) -> Seen:
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
    """Request a stream; Groq's package finds its usage under `x_groq`."""
    messages: Any = [user(SEVEN_TOKENS)]
    with _client(base_url, secret) as client:
        chunks = list(client.chat.completions.create(model=MODEL, messages=messages, stream=True))
    groqs = [chunk.x_groq for chunk in chunks if chunk.x_groq]
    return {
        "pieces": [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content],
        "finish_reason": chunks[-1].choices[0].finish_reason,
        "completion_tokens": [each.usage.completion_tokens for each in groqs if each.usage],
    }


def tool(base_url: str, secret: str) -> Seen:
    """Have a tool called, and send the call back with its result."""
    messages: list[Any] = [user(TOOL_CALL)]
    offered: Any = [WEATHER_TOOL]
    with _client(base_url, secret) as client:
        answer = client.chat.completions.create(model=MODEL, messages=messages, tools=offered)
        (call,) = answer.choices[0].message.tool_calls or []
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
    """Have a tool called in a stream."""
    messages: Any = [user(TOOL_CALL)]
    offered: Any = [WEATHER_TOOL]
    with _client(base_url, secret) as client:
        chunks = list(client.chat.completions.create(model=MODEL, messages=messages, tools=offered, stream=True))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    functions = [call.function for call in calls if call.function]
    return {
        "name": "".join(function.name or "" for function in functions),
        "arguments": json.loads("".join(function.arguments or "" for function in functions)),
        "finish_reason": chunks[-1].choices[0].finish_reason,
    }


def structured(base_url: str, secret: str) -> Seen:
    """Request an answer by a strict schema."""
    messages: Any = [user("How is the weather?")]
    wanted: Any = WEATHER_FORMAT
    with _client(base_url, secret) as client:
        answer = client.chat.completions.create(model=MODEL, messages=messages, response_format=wanted)
    return {"parsed": json.loads(answer.choices[0].message.content or "")}


def models(base_url: str, secret: str) -> Seen:
    """List the models, and read one whose name has a slash and one that does not exist."""
    with _client(base_url, secret) as client:
        return {
            "names": [model.id for model in client.models.list().data],
            "retrieved": client.models.retrieve(MODEL).id,
            "missing": failure(lambda: client.models.retrieve("no/such-model"), groq.GroqError),
        }


def refused(base_url: str, secret: str) -> Seen:
    """Call with a key that is not accepted."""
    with _client(base_url, secret) as client:
        return failure(lambda: _say(client, SEVEN_TOKENS), groq.GroqError)


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
        error = failure(read, groq.GroqError)
    return {"pieces": pieces, "error": error}


if __name__ == "__main__":
    run(
        "groq",
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
