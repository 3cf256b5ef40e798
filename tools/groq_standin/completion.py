"""The content of an answer: its tokens, finish reason and usage."""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from tools.groq_standin import prose
from tools.groq_standin.ask import Ask, Function
from tools.groq_standin.catalogue import Model
from tools.groq_standin.encodings import unclean_pieces
from tools.groq_standin.mode import without_markers
from tools.groq_standin.samples import sample
from tools.groq_standin.script import Script
from tools.groq_standin.usage import Usage

_EFFORT_TOKENS = {"none": 0, "low": 4, "default": 8, "medium": 8, "high": 16}
_TOOL_CALL_OVERHEAD_TOKENS = 8
FUNCTION_NAME = "standin_function"
"""The function of the deprecated `function_call`."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a function."""

    id: str
    name: str
    arguments: str

    @property
    def tokens(self) -> int:
        """The completion tokens of the call."""
        return _TOOL_CALL_OVERHEAD_TOKENS + prose.count_tokens(self.name + self.arguments)

    def as_wire(self) -> dict[str, object]:
        """Return the element of `tool_calls`, without its index."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer. A stream that is cut sends only a part of it."""

    reasoning: tuple[str, ...]
    content: tuple[str, ...]
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int = 0
    is_reasoning_model: bool = False
    shows_reasoning: bool = True
    """False hides the reasoning; its tokens still count."""
    calls_function: bool = False
    """Whether the content is the arguments of a deprecated `function_call`."""

    @property
    def usage(self) -> Usage:
        """The usage of the complete answer."""
        return self._usage(len(self.reasoning), len(self.content) + _tokens(self.tool_calls))

    def usage_after(self, events: int) -> Usage:
        """Return the usage after `events` token events have been sent."""
        rest = max(0, events - self._shown)
        content = min(rest, len(self.content))
        return self._usage(self._thought(events), content + _tokens(self.tool_calls[: rest - content]))

    def tokens(self) -> Iterator[tuple[str, str]]:
        """Yield the key and text of each delta in order, without tool calls."""
        if self.shows_reasoning:
            for piece in self.reasoning:
                yield "reasoning", piece
        for piece in self.content:
            yield "function_call" if self.calls_function else "content", piece

    @property
    def _shown(self) -> int:
        return len(self.reasoning) if self.shows_reasoning else 0

    def _thought(self, events: int) -> int:
        # Hidden reasoning is complete before the first event.
        return min(events, len(self.reasoning)) if self.shows_reasoning else len(self.reasoning)

    def _usage(self, reasoning: int, rest: int) -> Usage:
        details = reasoning if self.is_reasoning_model or self.reasoning else None
        return Usage(self.prompt_tokens, reasoning + rest, details, self.cached_tokens)


def answer(ask: Ask, model: Model, script: Script) -> Answer:
    """Return the answer to `ask`. It is deterministic."""
    tool_calls = _tool_calls(ask, script)
    reasoning = _reasoning(ask, model, script)
    content = _content(ask, script) if script.turn or not tool_calls else ()
    if ask.reasoning_format == "raw" and reasoning and not model.names_channel:
        content, reasoning = ("<think>", *reasoning, "</think>", *content), ()
    budget = ask.max_completion_tokens or ask.max_tokens or model.max_completion_tokens
    prompt_tokens = ask.prompt_tokens
    kept = content[: max(0, budget - len(reasoning))]
    reason = "tool_calls" if tool_calls else "function_call" if script.function_call_pieces else "stop"
    if script.turn and script.turn.finish_reason:
        reason = script.turn.finish_reason
    if not tool_calls and len(reasoning) + len(content) > budget:
        reason = "length"
    if script.length_tokens is not None and not tool_calls:
        kept, reason = kept[: script.length_tokens], "length"
    return Answer(
        reasoning=reasoning[:budget],
        content=kept,
        tool_calls=tool_calls,
        finish_reason=reason,
        prompt_tokens=prompt_tokens,
        cached_tokens=min(script.cached_tokens, prompt_tokens),
        is_reasoning_model=bool(model.reasoning_efforts) and model.reasons_unasked,
        shows_reasoning=ask.include_reasoning is not False and ask.reasoning_format != "hidden",
        calls_function=script.function_call_pieces > 0,
    )


def _tokens(calls: tuple[ToolCall, ...]) -> int:
    return sum(call.tokens for call in calls)


def _reasoning(ask: Ask, model: Model, script: Script) -> tuple[str, ...]:
    if script.turn:
        return prose.pieces(script.turn.reasoning)
    if script.unclean and script.unclean.where == "reasoning":
        return unclean_pieces(script.unclean.text)
    return prose.thoughts(_reasoning_tokens(ask, model, script))


def _reasoning_tokens(ask: Ask, model: Model, script: Script) -> int:
    if script.reasoning_tokens is not None:
        return script.reasoning_tokens
    is_exact = script.content_tokens is not None or script.content_bytes is not None or script.function_call_pieces > 0
    if not model.reasoning_efforts or is_exact:
        return 0
    # In recorded answers qwen3.8 does not reason by default, and gpt-oss always does.
    is_asked = ask.reasoning_effort is not None or ask.reasoning_format is not None or ask.include_reasoning
    if not (model.reasons_unasked or is_asked):
        return 0
    return _EFFORT_TOKENS[ask.reasoning_effort or "medium"]


def _content(ask: Ask, script: Script) -> tuple[str, ...]:
    if script.turn:
        return prose.pieces(script.turn.content)
    if script.unclean and script.unclean.where == "content":
        return unclean_pieces(script.unclean.text)
    if script.function_call_pieces:
        return ('{"text":"', *prose.filler(script.function_call_pieces), '"}')
    if script.content_tokens is not None:
        return prose.filler(script.content_tokens)
    if script.content_bytes is not None:
        return prose.bulk(script.content_bytes, script.piece_bytes)
    text = _text(ask, script)
    ends = [text.find(stop) for stop in ask.stops if stop in text]
    return prose.pieces(text[: min(ends)] if ends else text)


def _text(ask: Ask, script: Script) -> str:
    wanted = ask.response_format
    if wanted and wanted.type == "json_schema":
        schema = wanted.json_schema.schema if wanted.json_schema else None
        return _compact(sample(schema))
    question = without_markers(ask.last_user_text)
    text = prose.UNICODE if script.is_unicode else prose.greeting(question)
    return _compact({"answer": text}) if wanted and wanted.type == "json_object" else text


def _tool_calls(ask: Ask, script: Script) -> tuple[ToolCall, ...]:
    if script.turn:
        calls = enumerate(script.turn.calls)
        return tuple(ToolCall(f"fc{len(ask.messages)}_{i}", call.name, call.arguments_json) for i, call in calls)
    call = _sample_call(ask, script)
    return (call,) if call else ()


def _sample_call(ask: Ask, script: Script) -> ToolCall | None:
    functions = {tool.function.name: tool.function for tool in ask.tools or () if tool.function}
    choice = ask.tool_choice
    if script.calls_tool:
        function = next(iter(functions.values()), Function("standin_tool"))
    elif not functions or choice in (None, "none", "auto"):
        return None
    elif isinstance(choice, str) or choice.function is None:
        function = next(iter(functions.values()))
    else:
        function = functions.get(choice.function.name, choice.function)
    if script.unclean and script.unclean.where == "arguments":
        return ToolCall("fcstandin", function.name, _compact({"text": "".join(unclean_pieces(script.unclean.text))}))
    return ToolCall("fcstandin", function.name, _compact(sample(function.parameters)))


def _compact(value: object) -> str:
    return msgspec.json.encode(value).decode()
