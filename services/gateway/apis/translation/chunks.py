"""Chat completions and their chunks as Groq sends them, read leniently: a member of a wrong type counts as absent."""

from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from services.common.errors import Unavailable


class Function(Struct, gc=False):
    """The function of a tool call, or a piece of it."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(Struct, gc=False):
    """A tool call, or a piece of it."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None


class Message(Struct, gc=False):
    """A message, or a piece of it."""

    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None


class Choice(Struct, gc=False):
    """A choice. Completions have a `message`, chunks a `delta`."""

    index: int | None = None
    delta: Message | None = None
    message: Message | None = None
    finish_reason: str | None = None


class PromptDetails(Struct, gc=False):
    """Details of the prompt's tokens."""

    cached_tokens: int | None = None


class CompletionDetails(Struct, gc=False):
    """Details of the answer's tokens."""

    reasoning_tokens: int | None = None


class ChunkUsage(Struct, gc=False):
    """Token counts."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None

    @property
    def input(self) -> int:
        """Tokens of the prompt; 0 if not known."""
        return self.prompt_tokens or 0

    @property
    def output(self) -> int:
        """Tokens of the answer; 0 if not known."""
        return self.completion_tokens or 0

    @property
    def cached(self) -> int:
        """Tokens of the prompt that came from Groq's cache; 0 if not known."""
        return (self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details else 0) or 0

    @property
    def reasoning(self) -> int:
        """Tokens of the answer that are reasoning; 0 if not known."""
        return (self.completion_tokens_details.reasoning_tokens if self.completion_tokens_details else 0) or 0


class GroqExtension(Struct, gc=False):
    """Groq's own member. Its last chunk has the usage here, too."""

    usage: ChunkUsage | None = None


class Chunk(Struct, gc=False):
    """A chat completion, or a chunk of one."""

    model: str | None = None
    choices: list[Choice] | None = None
    usage: ChunkUsage | None = None
    x_groq: GroqExtension | None = None

    @property
    def choice(self) -> Choice | None:
        """The first choice; requests ask for one only."""
        return self.choices[0] if self.choices else None

    @property
    def reported_usage(self) -> ChunkUsage | None:
        """The usage, wherever it is."""
        return self.usage or (self.x_groq.usage if self.x_groq else None)


_decode_chunk = msgspec.json.Decoder(Chunk).decode
_decode = msgspec.json.Decoder().decode
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_chunk(text: bytes) -> Chunk:
    """Return a completion or chunk.

    Raises:
        Unavailable: The text is not a JSON object.
    """
    try:
        return _decode_chunk(text)
    except msgspec.ValidationError:
        return _lenient(text)
    except _NOT_JSON as exc:
        raise _invalid() from exc


def _lenient(text: bytes) -> Chunk:
    try:
        value = _decode(text)
    except _NOT_JSON as exc:
        raise _invalid() from exc
    if not isinstance(value, dict):
        raise _invalid()
    return _convert(value, Chunk)


_Lenient = TypeVar("_Lenient", bound=Struct)
_NESTED: dict[tuple[type[Struct], str], type[Struct]] = {
    (Chunk, "usage"): ChunkUsage,
    (Chunk, "x_groq"): GroqExtension,
    (GroqExtension, "usage"): ChunkUsage,
    (ChunkUsage, "prompt_tokens_details"): PromptDetails,
    (ChunkUsage, "completion_tokens_details"): CompletionDetails,
    (Choice, "delta"): Message,
    (Choice, "message"): Message,
    (ToolCall, "function"): Function,
}
_LISTED: dict[tuple[type[Struct], str], type[Struct]] = {
    (Chunk, "choices"): Choice,
    (Message, "tool_calls"): ToolCall,
}
_COUNTS = frozenset(
    {"index", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens"}
)


def _convert(value: dict[str, Any], kind: type[_Lenient]) -> _Lenient:
    return kind(**{name: _member(kind, name, value.get(name)) for name in kind.__struct_fields__})


def _member(kind: type[Struct], name: str, value: Any) -> Any:
    nested, listed = _NESTED.get((kind, name)), _LISTED.get((kind, name))
    if nested is not None:
        return _convert(value, nested) if isinstance(value, dict) else None
    if listed is not None:
        return [_convert(one, listed) for one in value if isinstance(one, dict)] if isinstance(value, list) else None
    if name in _COUNTS:
        return value if isinstance(value, int) and not isinstance(value, bool) else None
    return value if isinstance(value, str) else None


def _invalid() -> Unavailable:
    return Unavailable("The model provider sent an invalid answer. Send the request again.", reason="upstream_invalid")
