"""LangChain's chat models, which both of its packages use alike."""
# mypy: disable-error-code="import-not-found,untyped-decorator"

from collections.abc import Callable
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from tests.clients.programs import cases
from tests.clients.programs.report import CUT, SEVEN_TOKENS, TOOL_CALL, Scenario, Seen, failure, flaky

Build = Callable[..., BaseChatModel]
"""Takes the address of the gateway, the secret of a key and, if it is not the usual one, the name of the model."""


class Weather(BaseModel):
    """The weather of the next days."""

    city: str
    days: int


@tool
def get_weather(city: str, days: int) -> str:
    """Return the weather."""
    return cases.weather(city, days)


class Scenarios:
    """The scenarios of LangChain's packages."""

    def __init__(self, build: Build, error: type[Exception]) -> None:
        """Take a factory of chat models, and the base of the exceptions it raises."""
        self._build = build
        self._error = error

    def by_name(self) -> dict[str, Scenario]:
        """Return every scenario; chat models list no models."""
        return {
            "create": self.create,
            "stream": self.stream,
            "tool": self.call_tool,
            "tool_streamed": self.tool_streamed,
            "tools": self.tools,
            "history": self.history,
            "structured": self.structured,
            "structured_by_tool": self.structured_by_tool,
            "image": self.image,
            "wrong_key": self.refused,
            "exhausted": self.exhausted,
            "upstream_503": self.upstream_503,
            "cut": self.cut,
        }

    def create(self, base_url: str, secret: str) -> Seen:
        """Request a whole answer."""
        return _seen(self._build(base_url, secret).invoke(SEVEN_TOKENS))

    def stream(self, base_url: str, secret: str) -> Seen:
        """Request a stream; its usage is the sum over all chunks, so that usage sent twice is detected."""
        chunks = list(self._build(base_url, secret).stream(SEVEN_TOKENS))
        whole = _sum(chunks)
        assert whole.usage_metadata is not None
        return {
            "pieces": [chunk.text for chunk in chunks if chunk.text],
            "finish_reason": whole.response_metadata["finish_reason"],
            "completion_tokens": [whole.usage_metadata["output_tokens"]],
        }

    def call_tool(self, base_url: str, secret: str) -> Seen:
        """Have a tool called, and send the call back with its result."""
        model = self._build(base_url, secret).bind_tools([get_weather])
        messages: list[BaseMessage] = [HumanMessage(TOOL_CALL)]
        answer = model.invoke(messages)
        seen = _call(answer)
        messages += [answer, ToolMessage("sunny", tool_call_id=answer.tool_calls[0]["id"]), HumanMessage(SEVEN_TOKENS)]
        return {**seen, "text_after": model.invoke(messages).text}

    def tool_streamed(self, base_url: str, secret: str) -> Seen:
        """Have a tool called in a stream."""
        model = self._build(base_url, secret).bind_tools([get_weather])
        return _call(_sum(list(model.stream(TOOL_CALL))))

    def tools(self, base_url: str, secret: str) -> Seen:
        """Have two tools called at once, and send the calls back with their results."""
        model = self._build(base_url, secret).bind_tools([get_weather])
        question = HumanMessage(cases.look_twice(secret))
        answer = model.invoke([question])
        results = [ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"]) for call in answer.tool_calls]
        after = model.invoke([question, answer, *results])
        return {"calls": [call["args"] for call in answer.tool_calls], "text_after": after.text}

    def history(self, base_url: str, secret: str) -> Seen:
        """Ask twice, with the first answer in the second request."""
        model = self._build(base_url, secret)
        question = HumanMessage(cases.first_of_two(secret))
        first = model.invoke([question])
        second = model.invoke([question, first, HumanMessage("It is me again.")])
        return {"text": first.text, "text_after": second.text}

    def image(self, base_url: str, secret: str) -> Seen:
        """Ask about an image."""
        url = {"url": f"data:image/png;base64,{cases.png_base64()}"}
        content: Any = [{"type": "text", "text": cases.hello(secret)}, {"type": "image_url", "image_url": url}]
        return {"text": self._build(base_url, secret, cases.SEEING_MODEL).invoke([HumanMessage(content)]).text}

    def structured(self, base_url: str, secret: str) -> Seen:
        """Request an answer in the form of a Pydantic model, by a strict schema."""
        return self._structured(base_url, secret, "json_schema")

    def structured_by_tool(self, base_url: str, secret: str) -> Seen:
        """Request an answer in the form of a Pydantic model, by a tool that must be called."""
        return self._structured(base_url, secret, "function_calling")

    def refused(self, base_url: str, secret: str) -> Seen:
        """Call with a key that is not accepted."""
        return failure(lambda: self.create(base_url, secret), self._error)

    def exhausted(self, base_url: str, secret: str) -> Seen:
        """Use a key's only slot, and call once more."""
        return {"first": self.create(base_url, secret), "second": self.refused(base_url, secret)}

    def upstream_503(self, base_url: str, secret: str) -> Seen:
        """Call while Groq refuses once."""
        return _seen(self._build(base_url, secret).invoke(flaky(secret)))

    def cut(self, base_url: str, secret: str) -> Seen:
        """Read a stream that breaks."""
        pieces: list[str] = []

        def read() -> None:
            pieces.extend(chunk.text for chunk in self._build(base_url, secret).stream(CUT) if chunk.text)

        error = failure(read, self._error)
        return {"pieces": pieces, "error": error}

    def _structured(self, base_url: str, secret: str, method: str) -> Seen:
        model: Any = self._build(base_url, secret).with_structured_output(Weather, method=method)
        return {"parsed": model.invoke("How is the weather?").model_dump()}


def _seen(answer: AIMessage) -> Seen:
    assert answer.usage_metadata is not None
    return {
        "text": answer.text,
        "finish_reason": answer.response_metadata["finish_reason"],
        "completion_tokens": answer.usage_metadata["output_tokens"],
    }


def _call(answer: AIMessage) -> Seen:
    (call,) = answer.tool_calls
    return {
        "name": call["name"],
        "arguments": call["args"],
        "finish_reason": answer.response_metadata["finish_reason"],
    }


def _sum(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole
