"""OpenAI's package at `/v1/responses`."""

import json
from typing import Any

import openai
from pydantic import BaseModel

from tests.clients.programs import cases
from tests.clients.programs.report import MODEL, WEATHER_TOOL, Seen, failure, run

_TOOL: Any = {"type": "function", "strict": True, **WEATHER_TOOL["function"]}


class Weather(BaseModel):
    """The structured answer."""

    city: str
    days: int


def _client(base_url: str, secret: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{base_url}/v1", api_key=secret)


def text(base_url: str, secret: str) -> Seen:
    """Request a whole answer."""
    with _client(base_url, secret) as client:
        return {"text": client.responses.create(model=MODEL, input=cases.hello(secret)).output_text}


def stream(base_url: str, secret: str) -> Seen:
    """Request a stream, which the package's helper assembles."""
    with _client(base_url, secret) as client, client.responses.stream(model=MODEL, input=cases.hello(secret)) as events:
        pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
        final = events.get_final_response()
    assert final.usage is not None
    return {"pieces": pieces, "text": final.output_text, "output_tokens": final.usage.output_tokens}


def tools(base_url: str, secret: str) -> Seen:
    """Have two tools called at once, in a stream, and send the items back with the results."""
    items: list[Any] = [{"role": "user", "content": cases.look_twice(secret)}]
    members: Any = {"model": MODEL, "tools": [_TOOL], "include": ["reasoning.encrypted_content"]}
    with _client(base_url, secret) as client:
        with client.responses.stream(input=items, **members) as events:
            first = events.get_final_response()
        items += first.output
        calls = [item for item in first.output if item.type == "function_call"]
        arguments = [json.loads(call.arguments) for call in calls]
        for call, given in zip(calls, arguments, strict=True):
            items.append({"type": "function_call_output", "call_id": call.call_id, "output": cases.weather(**given)})
        after = client.responses.create(input=items, **members)
    return {"calls": arguments, "text_after": after.output_text}


def history(base_url: str, secret: str) -> Seen:
    """Ask twice, with the first answer's items in the second request."""
    items: list[Any] = [{"role": "user", "content": cases.first_of_two(secret)}]
    with _client(base_url, secret) as client:
        first = client.responses.create(model=MODEL, input=items)
        items += [*first.output, {"role": "user", "content": "It is me again."}]
        second = client.responses.create(model=MODEL, input=items)
    return {"text": first.output_text, "text_after": second.output_text}


def structured(base_url: str, secret: str) -> Seen:
    """Request an answer in the form of a Pydantic model."""
    with _client(base_url, secret) as client:
        answer = client.responses.parse(model=MODEL, input=cases.weather_question(secret), text_format=Weather)
    assert answer.output_parsed is not None
    return {"parsed": answer.output_parsed.model_dump()}


def image(base_url: str, secret: str) -> Seen:
    """Ask about an image."""
    parts: Any = [
        {"type": "input_text", "text": cases.hello(secret)},
        {"type": "input_image", "image_url": f"data:image/png;base64,{cases.png_base64()}", "detail": "auto"},
    ]
    with _client(base_url, secret) as client:
        answer = client.responses.create(model=cases.SEEING_MODEL, input=[{"role": "user", "content": parts}])
    return {"text": answer.output_text}


def cut(base_url: str, secret: str) -> Seen:
    """Read a stream that breaks."""
    pieces: list[str] = []

    def read() -> None:
        with client.responses.stream(model=MODEL, input=cases.cut(secret)) as events:
            pieces.extend(event.delta for event in events if event.type == "response.output_text.delta")
            events.get_final_response()

    with _client(base_url, secret) as client:
        return {"error": failure(read, Exception), "pieces": pieces}


def exhausted(base_url: str, secret: str) -> Seen:
    """Use a key's only slot, and call once more."""
    return {"first": text(base_url, secret), "second": failure(lambda: text(base_url, secret), Exception)}


if __name__ == "__main__":
    scenarios = (text, stream, tools, history, structured, image, cut, exhausted)
    run("openai", {scenario.__name__: scenario for scenario in scenarios})
