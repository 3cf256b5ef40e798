"""The Agents SDK with OpenAI's default API, `/v1/responses`."""
# mypy: disable-error-code="import-not-found,untyped-decorator"

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import openai
from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from openai.types.responses import ResponseTextDeltaEvent
from pydantic import BaseModel

from tests.clients.programs import cases
from tests.clients.programs.report import MODEL, Scenario, Seen, failure, run


class Weather(BaseModel):
    """The structured answer."""

    city: str
    days: int


Ask = Callable[[openai.AsyncOpenAI, str], Awaitable[Seen]]


def _scenario(ask: Ask) -> Scenario:
    async def asked(base_url: str, secret: str) -> Seen:
        async with openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key=secret) as client:
            return await ask(client, secret)

    return lambda base_url, secret: asyncio.run(asked(base_url, secret))


def _agent(client: openai.AsyncOpenAI, model: str = MODEL, **members: Any) -> Any:
    return Agent(name="A", model=OpenAIResponsesModel(model=model, openai_client=client), **members)


async def text(client: openai.AsyncOpenAI, secret: str) -> Seen:
    """Run one turn."""
    return {"text": (await Runner.run(_agent(client, instructions="Be brief."), cases.hello(secret))).final_output}


async def _streamed(client: openai.AsyncOpenAI, prompt: str, pieces: list[str]) -> Any:
    result = Runner.run_streamed(_agent(client), prompt)
    async for event in result.stream_events():
        if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
            pieces += [event.data.delta]
    return result


async def stream(client: openai.AsyncOpenAI, secret: str) -> Seen:
    """Run one turn as a stream."""
    pieces: list[str] = []
    result = await _streamed(client, cases.hello(secret), pieces)
    usage = result.context_wrapper.usage
    return {"pieces": pieces, "text": result.final_output, "output_tokens": usage.output_tokens}


async def tools(client: openai.AsyncOpenAI, secret: str) -> Seen:
    """Run a loop of two tools called at once."""
    calls: list[Any] = []

    @function_tool
    def get_weather(city: str, days: int) -> str:
        """Return the weather."""
        calls.append({"city": city, "days": days})
        return cases.weather(city, days)

    settings = ModelSettings(parallel_tool_calls=True)
    result = await Runner.run(_agent(client, tools=[get_weather], model_settings=settings), cases.look_twice(secret))
    return {"calls": sorted(calls, key=lambda call: call["days"]), "text_after": result.final_output}


async def history(client: openai.AsyncOpenAI, secret: str) -> Seen:
    """Run two turns, the second with the items of the first."""
    agent = _agent(client)
    first = await Runner.run(agent, cases.first_of_two(secret))
    items = [*first.to_input_list(), {"role": "user", "content": "It is me again."}]
    second = await Runner.run(agent, items)
    return {"text": first.final_output, "text_after": second.final_output}


async def structured(client: openai.AsyncOpenAI, secret: str) -> Seen:
    """Run an agent whose output is a Pydantic model."""
    result = await Runner.run(_agent(client, output_type=Weather), cases.weather_question(secret))
    return {"parsed": result.final_output.model_dump()}


async def image(client: openai.AsyncOpenAI, secret: str) -> Seen:
    """Ask about an image."""
    parts = [
        {"type": "input_image", "image_url": f"data:image/png;base64,{cases.png_base64()}", "detail": "auto"},
        {"type": "input_text", "text": cases.hello(secret)},
    ]
    result = await Runner.run(_agent(client, cases.SEEING_MODEL), [{"role": "user", "content": parts}])
    return {"text": result.final_output}


def cut(base_url: str, secret: str) -> Seen:
    """Read a stream that breaks."""
    pieces: list[str] = []
    read = _scenario(lambda client, secret: _streamed(client, cases.cut(secret), pieces))
    return {"error": failure(lambda: read(base_url, secret), Exception), "pieces": pieces}


def exhausted(base_url: str, secret: str) -> Seen:
    """Use a key's only slot, and call once more."""
    ask = _scenario(text)
    return {"first": ask(base_url, secret), "second": failure(lambda: ask(base_url, secret), Exception)}


if __name__ == "__main__":
    set_tracing_disabled(True)
    asked = {ask.__name__: _scenario(ask) for ask in (text, stream, tools, history, structured, image)}
    run("openai-agents", {**asked, "cut": cut, "exhausted": exhausted})
