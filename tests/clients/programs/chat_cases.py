"""Cases of chat completions for OpenAI's and Groq's packages, whose clients are generated alike."""

import json
from collections.abc import Callable
from typing import Any

from tests.clients.programs import cases
from tests.clients.programs.report import MODEL, WEATHER_TOOL, Scenario, Seen, user


def by_name(build: Callable[[str, str], Any]) -> dict[str, Scenario]:
    """Return the cases, for clients built from the address of the gateway and the secret of a key."""

    def _scenario(case: Callable[[Any, str], Seen]) -> Scenario:
        def run(base_url: str, secret: str) -> Seen:
            with build(base_url, secret) as client:
                return case(client.chat.completions, secret)

        return run

    return {case.__name__: _scenario(case) for case in (tools, history, image)}


def tools(completions: Any, secret: str) -> Seen:
    """Have two tools called at once, and send the calls back with their results."""
    messages: list[Any] = [user(cases.look_twice(secret))]
    answer = completions.create(model=MODEL, messages=messages, tools=[WEATHER_TOOL]).choices[0].message
    calls = [(call.id, json.loads(call.function.arguments)) for call in answer.tool_calls]
    results = [{"role": "tool", "tool_call_id": call, "content": cases.weather(**given)} for call, given in calls]
    after = completions.create(model=MODEL, messages=[*messages, answer, *results], tools=[WEATHER_TOOL])
    return {"calls": [given for _, given in calls], "text_after": after.choices[0].message.content}


def history(completions: Any, secret: str) -> Seen:
    """Ask twice, with the first answer in the second request."""
    messages: list[Any] = [user(cases.first_of_two(secret))]
    first = completions.create(model=MODEL, messages=messages).choices[0].message
    second = completions.create(model=MODEL, messages=[*messages, first, user("It is me again.")])
    return {"text": first.content, "text_after": second.choices[0].message.content}


def image(completions: Any, secret: str) -> Seen:
    """Ask about an image."""
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{cases.png_base64()}"}}
    message: Any = {"role": "user", "content": [{"type": "text", "text": cases.hello(secret)}, picture]}
    answer = completions.create(model=cases.SEEING_MODEL, messages=[message])
    return {"text": answer.choices[0].message.content}
