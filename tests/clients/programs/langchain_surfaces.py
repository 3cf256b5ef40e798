"""LangChain's `ChatOpenAI` at `/v1/responses`, or `ChatAnthropic`, named by the program's argument."""
# mypy: disable-error-code="import-not-found,untyped-decorator"

import sys
from collections.abc import Callable
from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from tests.clients.programs import cases
from tests.clients.programs.report import MODEL, Seen, failure, run


class Weather(BaseModel):
    """The weather of the next days."""

    city: str
    days: int


@tool
def get_weather(city: str, days: int) -> str:
    """Return the weather."""
    return cases.weather(city, days)


def _responses(base_url: str, secret: str, name: str) -> BaseChatModel:
    return ChatOpenAI(model=name, base_url=f"{base_url}/v1", api_key=SecretStr(secret), use_responses_api=True)


def _messages(base_url: str, secret: str, name: str) -> BaseChatModel:
    return ChatAnthropic(model_name=name, base_url=base_url, api_key=SecretStr(secret), max_tokens_to_sample=1_000)


_BUILD: dict[str, Callable[[str, str, str], BaseChatModel]] = {"responses": _responses, "messages": _messages}


def _model(base_url: str, secret: str, name: str = MODEL) -> BaseChatModel:
    return _BUILD[sys.argv[1]](base_url, secret, name)


def text(base_url: str, secret: str) -> Seen:
    """Request a whole answer."""
    return {"text": _model(base_url, secret).invoke(cases.hello(secret)).text}


def stream(base_url: str, secret: str) -> Seen:
    """Request a stream; its usage is the sum over all chunks, so that usage sent twice is detected."""
    chunks: list[AIMessageChunk] = list(_model(base_url, secret).stream(cases.hello(secret)))
    whole = sum(chunks[1:], start=chunks[0])
    pieces = [chunk.text for chunk in chunks if chunk.text]
    return {"pieces": pieces, "text": whole.text, "output_tokens": whole.usage_metadata["output_tokens"]}


def tools(base_url: str, secret: str) -> Seen:
    """Have two tools called at once, in a stream, and send the calls back with the results."""
    model = _model(base_url, secret).bind_tools([get_weather])
    messages: list[BaseMessage] = [HumanMessage(cases.look_twice(secret))]
    chunks: Any = list(model.stream(messages))
    answer: AIMessage = sum(chunks[1:], start=chunks[0])
    results = [
        ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"] or "") for call in answer.tool_calls
    ]
    after = model.invoke([*messages, answer, *results])
    return {"calls": [call["args"] for call in answer.tool_calls], "text_after": after.text}


def history(base_url: str, secret: str) -> Seen:
    """Ask twice, with the first answer in the second request."""
    model = _model(base_url, secret)
    question = HumanMessage(cases.first_of_two(secret))
    first = model.invoke([question])
    second = model.invoke([question, first, HumanMessage("It is me again.")])
    return {"text": first.text, "text_after": second.text}


def structured(base_url: str, secret: str) -> Seen:
    """Request an answer in the form of a Pydantic model, in the way that the package prefers."""
    answer: Any = _model(base_url, secret).with_structured_output(Weather).invoke(cases.weather_question(secret))
    return {"parsed": answer.model_dump()}


def image(base_url: str, secret: str) -> Seen:
    """Ask about an image."""
    block = {"type": "image", "base64": cases.png_base64(), "mime_type": "image/png"}
    content: Any = [{"type": "text", "text": cases.hello(secret)}, block]
    return {"text": _model(base_url, secret, cases.SEEING_MODEL).invoke([HumanMessage(content)]).text}


def cut(base_url: str, secret: str) -> Seen:
    """Read a stream that breaks."""
    pieces: list[str] = []

    def read() -> None:
        pieces.extend(chunk.text for chunk in _model(base_url, secret).stream(cases.cut(secret)) if chunk.text)

    return {"error": failure(read, Exception), "pieces": pieces}


def exhausted(base_url: str, secret: str) -> Seen:
    """Use a key's only slot, and call once more."""
    return {"first": text(base_url, secret), "second": failure(lambda: text(base_url, secret), Exception)}


if __name__ == "__main__":
    scenarios = (text, stream, tools, history, structured, image, cut, exhausted)
    package = {"responses": "langchain-openai", "messages": "langchain-anthropic"}[sys.argv[1]]
    run(package, {scenario.__name__: scenario for scenario in scenarios})
