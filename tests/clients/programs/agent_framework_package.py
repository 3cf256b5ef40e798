"""Microsoft's Agent Framework with the default API of its client for OpenAI, `/v1/responses`.

With the argument `stored` it runs with its defaults, which refer to stored responses.
"""
# mypy: disable-error-code="import-not-found,untyped-decorator"

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from agent_framework import Agent, Content, Message
from agent_framework.openai import OpenAIChatClient
from pydantic import BaseModel

from tests.clients.programs import cases
from tests.clients.programs.report import MODEL, Scenario, Seen, failure, run


class Weather(BaseModel):
    """The structured answer."""

    city: str
    days: int


_OPTIONS: Any = {} if "stored" in sys.argv else {"store": False}
Ask = Callable[[OpenAIChatClient, str], Awaitable[Seen]]


def _scenario(ask: Ask, model: str = MODEL) -> Scenario:
    def asked(base_url: str, secret: str) -> Seen:
        async def ask_once() -> Seen:
            client = OpenAIChatClient(model, base_url=f"{base_url}/v1", api_key=secret)
            async with client.client:
                return await ask(client, secret)

        return asyncio.run(ask_once())

    return asked


def _agent(client: OpenAIChatClient, **members: Any) -> Any:
    return Agent(client, default_options=_OPTIONS, **members)


async def text(client: OpenAIChatClient, secret: str) -> Seen:
    """Run one turn."""
    return {"text": (await _agent(client, instructions="Be brief.").run(cases.hello(secret))).text}


async def _streamed(client: OpenAIChatClient, prompt: str, pieces: list[str]) -> Any:
    updates = _agent(client).run(prompt, stream=True)
    async for update in updates:
        # At the end of a text, the framework yields the whole of it to replace the pieces.
        pieces += [part.text for part in update.contents if part.text and part.merge_mode == "append"]
    return await updates.get_final_response()


async def stream(client: OpenAIChatClient, secret: str) -> Seen:
    """Run one turn as a stream."""
    pieces: list[str] = []
    answer = await _streamed(client, cases.hello(secret), pieces)
    return {"pieces": pieces, "text": answer.text, "output_tokens": answer.usage_details["output_token_count"]}


async def tools(client: OpenAIChatClient, secret: str) -> Seen:
    """Run a loop of two tools called at once."""
    calls: list[Any] = []

    def get_weather(city: str, days: int) -> str:
        """Return the weather."""
        calls.append({"city": city, "days": days})
        return cases.weather(city, days)

    answer = await _agent(client, tools=[get_weather]).run(cases.look_twice(secret))
    return {"calls": sorted(calls, key=lambda call: call["days"]), "text_after": answer.text}


async def history(client: OpenAIChatClient, secret: str) -> Seen:
    """Run two turns in one session."""
    agent = _agent(client)
    session = agent.create_session()
    first = await agent.run(cases.first_of_two(secret), session=session)
    second = await agent.run("It is me again.", session=session)
    return {"text": first.text, "text_after": second.text}


async def structured(client: OpenAIChatClient, secret: str) -> Seen:
    """Run an agent whose answer is a Pydantic model."""
    answer = await _agent(client).run(cases.weather_question(secret), options={"response_format": Weather})
    return {"parsed": answer.value.model_dump()}


async def image(client: OpenAIChatClient, secret: str) -> Seen:
    """Ask about an image."""
    parts = [Content.from_text(cases.hello(secret)), Content.from_data(cases.png(), "image/png")]
    return {"text": (await _agent(client).run(Message("user", parts))).text}


def cut(base_url: str, secret: str) -> Seen:
    """Read a stream that breaks."""
    pieces: list[str] = []
    reasons: list[Any] = []

    async def read(client: OpenAIChatClient, secret: str) -> Seen:
        reasons.append((await _streamed(client, cases.cut(secret), pieces)).finish_reason)
        return {}

    error = failure(lambda: _scenario(read)(base_url, secret), Exception)
    return {"error": error, "pieces": pieces, "finish_reason": reasons[0] if reasons else None}


def exhausted(base_url: str, secret: str) -> Seen:
    """Use a key's only slot, and call once more."""
    ask = _scenario(text)
    return {"first": ask(base_url, secret), "second": failure(lambda: ask(base_url, secret), Exception)}


if __name__ == "__main__":
    asked = {ask.__name__: _scenario(ask) for ask in (text, stream, tools, history, structured)}
    asked["image"] = _scenario(image, cases.SEEING_MODEL)
    run("agent-framework-openai", {**asked, "cut": cut, "exhausted": exhausted})
