"""Types of a validated chat request, with the members that affect the answer."""

from typing import Any

import msgspec

from tools.groq_standin import errors
from tools.groq_standin.prose import count_tokens

_MESSAGE_OVERHEAD_TOKENS = 4
_TEMPLATE_OVERHEAD_TOKENS = 3
_IMAGE_TOKENS = 256


class Part(msgspec.Struct):
    """A content part of a message."""

    type: str = ""
    text: str = ""


class Message(msgspec.Struct):
    """A message of the conversation."""

    role: str
    content: str | list[Part] | None = None
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] | None = None

    @property
    def text(self) -> str:
        """The text of the message. Parts are joined by newlines."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content if part.type == "text")
        return self.content or ""

    @property
    def tokens(self) -> int:
        """The prompt tokens of the message."""
        parts = self.content if isinstance(self.content, list) else []
        pictures = _IMAGE_TOKENS * sum(part.type != "text" for part in parts)
        called = len(msgspec.json.encode(self.tool_calls)) // 4 if self.tool_calls else 0
        return (
            _MESSAGE_OVERHEAD_TOKENS + count_tokens(self.text) + count_tokens(self.reasoning or "") + pictures + called
        )


class Function(msgspec.Struct):
    """A function that the model may call, or the name of the one that it must call."""

    name: str
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct):
    """A tool that the model may call."""

    type: str
    function: Function | None = None


class JSONSchema(msgspec.Struct):
    """The schema of a structured answer."""

    name: str
    schema: dict[str, Any] | None = None


class ResponseFormat(msgspec.Struct):
    """The form of the answer: `text`, `json_object` or `json_schema`."""

    type: str
    json_schema: JSONSchema | None = None


class StreamOptions(msgspec.Struct):
    """Options of a stream."""

    include_usage: bool | None = None


class Ask(msgspec.Struct):
    """A chat request, with the member names of the API."""

    model: str
    messages: list[Message]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    tools: list[Tool] | None = None
    tool_choice: str | Tool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    reasoning_format: str | None = None
    include_reasoning: bool | None = None
    service_tier: str | None = None

    @classmethod
    def of(cls, body: object) -> "Ask":
        """Return the typed view of a body that the validator accepted.

        Raises:
            Refused: The validator accepted an invalid type. The client gets the type error as a 400.
        """
        try:
            return msgspec.convert(body, cls)
        except msgspec.ValidationError as exc:
            raise errors.Refused(errors.refusal(400, str(exc))) from exc

    @property
    def last_user_text(self) -> str:
        """The text of the last message with role `user`, or an empty string."""
        return next((message.text for message in reversed(self.messages) if message.role == "user"), "")

    @property
    def texts(self) -> list[tuple[str, str]]:
        """The role and text of each message."""
        return [(message.role, message.text) for message in self.messages]

    @property
    def prompt_tokens(self) -> int:
        """The prompt tokens of conversation, tools and schema."""
        extras = len(msgspec.json.encode(self.tools)) // 4 if self.tools else 0
        if self.response_format and self.response_format.json_schema:
            extras += len(msgspec.json.encode(self.response_format.json_schema)) // 4
        return _TEMPLATE_OVERHEAD_TOKENS + sum(message.tokens for message in self.messages) + extras

    @property
    def wants_usage_chunk(self) -> bool:
        """Whether the stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def stops(self) -> list[str]:
        """The stop sequences that are not empty."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in given if stop]
