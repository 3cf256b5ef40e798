"""Anthropic's package at `/v1/messages`."""

from typing import Any

import anthropic
from pydantic import BaseModel

from tests.clients.programs import cases
from tests.clients.programs.report import MODEL, WEATHER_SCHEMA, Seen, failure, run

_TOOL: Any = {"name": "get_weather", "description": "Return the weather.", "input_schema": WEATHER_SCHEMA}
_TOKENS = 1_000


class Weather(BaseModel):
    """The structured answer."""

    city: str
    days: int


def _client(base_url: str, secret: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=base_url, api_key=secret)


def _user(content: Any) -> Any:
    return {"role": "user", "content": content}


def _text(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def _say(client: anthropic.Anthropic, *messages: Any, model: str = MODEL, **members: Any) -> Any:
    return client.messages.create(model=model, max_tokens=_TOKENS, messages=messages, **members)


def text(base_url: str, secret: str) -> Seen:
    """Request a whole answer."""
    with _client(base_url, secret) as client:
        return {"text": _text(_say(client, _user(cases.hello(secret))))}


def stream(base_url: str, secret: str) -> Seen:
    """Request a stream, which the package's helper assembles."""
    members: Any = {"model": MODEL, "max_tokens": _TOKENS, "messages": [_user(cases.hello(secret))]}
    with _client(base_url, secret) as client, client.messages.stream(**members) as events:
        pieces = list(events.text_stream)
        final = events.get_final_message()
    return {"pieces": pieces, "text": _text(final), "output_tokens": final.usage.output_tokens}


def tools(base_url: str, secret: str) -> Seen:
    """Have two tools called at once, in a stream, and send the blocks back with the results, the last one first."""
    messages: list[Any] = [_user(cases.look_twice(secret))]
    members: Any = {"model": MODEL, "max_tokens": _TOKENS, "tools": [_TOOL]}
    with _client(base_url, secret) as client:
        with client.messages.stream(messages=messages, **members) as events:
            first = events.get_final_message()
        calls: list[Any] = [block for block in first.content if block.type == "tool_use"]
        results = [
            {"type": "tool_result", "tool_use_id": call.id, "content": cases.weather(**call.input)} for call in calls
        ]
        messages += [{"role": "assistant", "content": first.content}, _user(results[::-1])]
        after = client.messages.create(messages=messages, **members)
    return {"calls": [call.input for call in calls], "text_after": _text(after)}


def history(base_url: str, secret: str) -> Seen:
    """Ask twice, with the first answer's blocks in the second request."""
    question = _user(cases.first_of_two(secret))
    with _client(base_url, secret) as client:
        first = _say(client, question)
        answer = {"role": "assistant", "content": first.content}
        second = _say(client, question, answer, _user("It is me again."))
    return {"text": _text(first), "text_after": _text(second)}


def structured(base_url: str, secret: str) -> Seen:
    """Request an answer in the form of a Pydantic model."""
    messages = [_user(cases.weather_question(secret))]
    with _client(base_url, secret) as client:
        answer: Any = client.messages.parse(model=MODEL, max_tokens=_TOKENS, messages=messages, output_format=Weather)
    return {"parsed": answer.parsed_output.model_dump()}


def image(base_url: str, secret: str) -> Seen:
    """Ask about an image."""
    source = {"type": "base64", "media_type": "image/png", "data": cases.png_base64()}
    content = [{"type": "image", "source": source}, {"type": "text", "text": cases.hello(secret)}]
    with _client(base_url, secret) as client:
        return {"text": _text(_say(client, _user(content), model=cases.SEEING_MODEL))}


def cut(base_url: str, secret: str) -> Seen:
    """Read a stream that breaks."""
    pieces: list[str] = []
    members: Any = {"model": MODEL, "max_tokens": _TOKENS, "messages": [_user(cases.cut(secret))]}

    def read() -> None:
        with client.messages.stream(**members) as events:
            pieces.extend(events.text_stream)
            events.get_final_message()

    with _client(base_url, secret) as client:
        return {"error": failure(read, Exception), "pieces": pieces}


def exhausted(base_url: str, secret: str) -> Seen:
    """Use a key's only slot, and call once more."""
    return {"first": text(base_url, secret), "second": failure(lambda: text(base_url, secret), Exception)}


if __name__ == "__main__":
    scenarios = (text, stream, tools, history, structured, image, cut, exhausted)
    run("anthropic", {scenario.__name__: scenario for scenario in scenarios})
