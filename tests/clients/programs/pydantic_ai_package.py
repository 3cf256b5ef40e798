"""pydantic-ai at `/v1/responses` or `/v1/messages`, named by the program's argument."""
# mypy: disable-error-code="import-not-found,untyped-decorator"

import sys
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.programs import cases
from tests.clients.programs.report import MODEL, Seen, failure, run


class Weather(BaseModel):
    """The structured answer."""

    city: str
    days: int


def _responses(base_url: str, secret: str, name: str) -> Any:
    return OpenAIResponsesModel(name, provider=OpenAIProvider(base_url=f"{base_url}/v1", api_key=secret))


def _messages(base_url: str, secret: str, name: str) -> Any:
    return AnthropicModel(name, provider=AnthropicProvider(base_url=base_url, api_key=secret))


_MODELS: dict[str, Callable[[str, str, str], Any]] = {"responses": _responses, "messages": _messages}


def _agent(base_url: str, secret: str, name: str = MODEL, **members: Any) -> Any:
    return Agent(_MODELS[sys.argv[1]](base_url, secret, name), **members)


def text(base_url: str, secret: str) -> Seen:
    """Run one turn."""
    agent = _agent(base_url, secret, instructions="Be brief.")
    return {"text": agent.run_sync(cases.hello(secret)).output}


def stream(base_url: str, secret: str) -> Seen:
    """Run one turn as a stream."""
    result = _agent(base_url, secret).run_stream_sync(cases.hello(secret))
    pieces = list(result.stream_text(delta=True, debounce_by=None))
    return {"pieces": pieces, "text": "".join(pieces), "output_tokens": result.usage.output_tokens}


def tools(base_url: str, secret: str) -> Seen:
    """Run a loop of two tools called at once."""
    calls: list[Any] = []

    def get_weather(city: str, days: int) -> str:
        """Return the weather."""
        calls.append({"city": city, "days": days})
        return cases.weather(city, days)

    result = _agent(base_url, secret, tools=[get_weather]).run_sync(cases.look_twice(secret))
    return {"calls": sorted(calls, key=lambda call: call["days"]), "text_after": result.output}


def history(base_url: str, secret: str) -> Seen:
    """Run two turns, the second with the messages of the first."""
    agent = _agent(base_url, secret)
    first = agent.run_sync(cases.first_of_two(secret))
    second = agent.run_sync("It is me again.", message_history=first.all_messages())
    return {"text": first.output, "text_after": second.output}


def structured(base_url: str, secret: str) -> Seen:
    """Run an agent whose output is a Pydantic model, which is a required tool."""
    result = _agent(base_url, secret, output_type=Weather).run_sync(cases.weather_question(secret))
    return {"parsed": result.output.model_dump()}


def image(base_url: str, secret: str) -> Seen:
    """Ask about an image."""
    parts = [cases.hello(secret), BinaryContent(data=cases.png(), media_type="image/png")]
    return {"text": _agent(base_url, secret, cases.SEEING_MODEL).run_sync(parts).output}


def cut(base_url: str, secret: str) -> Seen:
    """Read a stream that breaks."""
    pieces: list[str] = []

    def read() -> None:
        result = _agent(base_url, secret).run_stream_sync(cases.cut(secret))
        pieces.extend(result.stream_text(delta=True, debounce_by=None))

    return {"error": failure(read, Exception), "pieces": pieces}


def exhausted(base_url: str, secret: str) -> Seen:
    """Use a key's only slot, and call once more."""
    return {"first": text(base_url, secret), "second": failure(lambda: text(base_url, secret), Exception)}


if __name__ == "__main__":
    scenarios = (text, stream, tools, history, structured, image, cut, exhausted)
    run("pydantic-ai-slim", {scenario.__name__: scenario for scenario in scenarios})
