"""A streamed message, folded by Anthropic's own client, is the message that is not streamed."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import anthropic.types
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from services.gateway.apis.messages.renderer import MessagesRenderer
from services.gateway.apis.messages.thinking import Thinking
from services.gateway.apis.translation.reasoning import ReasoningDecoder
from services.gateway.apis.translation.tool_names import ToolNames
from tests.properties.chat_bodies import JSON_VALUES

_EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
_FINISH = st.sampled_from(["stop", "tool_calls", "length", "content_filter", "unheard of"])
_COUNT = st.integers(0, 10_000)
_USAGE = st.none() | st.fixed_dictionaries(
    {"prompt_tokens": _COUNT, "completion_tokens": _COUNT},
    optional={
        "prompt_tokens_details": st.none() | st.fixed_dictionaries({"cached_tokens": _COUNT}),
        "completion_tokens_details": st.none() | st.fixed_dictionaries({"reasoning_tokens": _COUNT}),
    },
)
_ARGUMENTS = st.one_of(
    st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=3).map(json.dumps),
    st.just(""),
    st.sampled_from(["[1]", "no JSON", " null"]),
)


@dataclass
class _Answer:
    """An answer of the model: its message, and the deltas in which it arrives."""

    message: Any
    deltas: list[Any]
    is_in_order: bool
    """Whether reasoning comes before text, text before calls, and one call before the next."""


def _pieces(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@st.composite
def _answers(draw: st.DrawFn) -> _Answer:
    reasoning, content = draw(st.text(max_size=30)), draw(st.text(max_size=30))
    arguments = draw(st.lists(_ARGUMENTS, max_size=3))
    sources: list[list[Any]] = [
        [{"reasoning": piece} for piece in _pieces(draw, reasoning)],
        [{"content": piece} for piece in _pieces(draw, content)],
        *(
            [{"tool_calls": [_call_piece(index, piece, is_first=number == 0)]} for number, piece in enumerate(pieces)]
            for index, pieces in enumerate(_pieces(draw, one) for one in arguments)
        ),
    ]
    order = [index for index, source in enumerate(sources) for _ in source]
    is_in_order = draw(st.booleans())
    if not is_in_order:
        order = draw(st.permutations(order))
    rest = [iter(source) for source in sources]
    deltas = [next(rest[index]) for index in order]
    appeared = [index for index in dict.fromkeys(order) if index >= 2]
    calls = [
        {"id": f"c{index - 2}", "type": "function", "function": {"name": "f", "arguments": arguments[index - 2]}}
        for index in appeared
    ]
    message = {"content": content or None, "reasoning": reasoning or None, "tool_calls": calls or None}
    return _Answer(message, _joined(draw, deltas), is_in_order)


def _call_piece(index: int, piece: str, *, is_first: bool) -> Any:
    if is_first:
        return {"index": index, "id": f"c{index}", "type": "function", "function": {"name": "f", "arguments": piece}}
    return {"index": index, "function": {"arguments": piece}}


def _joined(draw: st.DrawFn, deltas: list[Any]) -> list[Any]:
    """Return deltas of which some neighbours are one delta, if each comes later in a delta than the one before."""
    ranks = ("reasoning", "content", "tool_calls")
    joined: list[Any] = []
    for delta in deltas:
        (name,) = delta
        last = joined[-1] if joined else {}
        if last and all(ranks.index(one) < ranks.index(name) for one in last) and draw(st.booleans()):
            last.update(delta)
        else:
            joined.append(dict(delta))
    return joined


def _texts(deltas: list[Any], finish: str | None, usage: Any) -> list[bytes]:
    chunks: list[Any] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    chunks.append({"choices": [], "usage": usage})
    return [json.dumps(chunk).encode() for chunk in chunks]


def _folded(stream: bytes) -> Any:
    """Return the message that Anthropic's client makes of a stream. Each event has exactly the form of its type."""
    message: Any = None
    buffers: dict[int, bytes] = {}
    for block in stream.decode().removesuffix("\n\n").split("\n\n"):
        kind, data = block.split("\n")
        members = json.loads(data.removeprefix("data: "))
        assert kind == f"event: {members['type']}"
        message = accumulate_event(event=_EVENT.validate_python(members), current_snapshot=message, json_bufs=buffers)
    return json.loads(message.to_json(exclude_unset=True))


def _renderer(thinking: Thinking) -> MessagesRenderer:
    renderer = MessagesRenderer("m", ToolNames(), thinking)
    renderer.begin("req_A", 0)
    return renderer


def _grouped(message: Any) -> Any:
    """Return a message with one thinking and one text block at most, before the calls."""
    decoder = ReasoningDecoder()
    blocks = message["content"]
    thinking = [
        one["thinking"] or decoder.decode(one["signature"]) or "" for one in blocks if one["type"] == "thinking"
    ]
    texts = [one["text"] for one in blocks if one["type"] == "text"]
    calls = [one for one in blocks if one["type"] == "tool_use"]
    return {**message, "content": ["".join(thinking), "".join(texts), calls]}


def _clean(message: Any) -> Any:
    """Return a message without the members that Anthropic's client adds."""
    added = ("stop_details", "container", "diagnostics")
    return {name: value for name, value in message.items() if name not in added}


@settings(max_examples=300, deadline=None)
@given(_answers(), _FINISH, _USAGE, st.sampled_from(Thinking), st.data())
def test_fold_of_the_stream_is_the_body(
    answer: _Answer, finish: str | None, usage: Any, thinking: Thinking, data: st.DataObject
) -> None:
    choice = {"index": 0, "message": answer.message, "finish_reason": finish}
    body = json.loads(_renderer(thinking).completion(json.dumps({"choices": [choice], "usage": usage}).encode()))
    anthropic.types.Message.model_validate(body)
    renderer = _renderer(thinking)
    texts = _texts(answer.deltas, finish, usage)
    stream = b"".join(renderer.events(batch) for batch in _batches(data, texts)) + renderer.end()
    folded = _clean(_folded(stream))
    if answer.is_in_order:
        assert folded == body
    assert _grouped(folded) == _grouped(body)


def _batches(data: st.DataObject, texts: list[bytes]) -> Iterable[list[bytes]]:
    start = 0
    while start < len(texts):
        end = start + data.draw(st.integers(1, 5))
        yield texts[start:end]
        start = end


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.fixed_dictionaries({"choices": JSON_VALUES | st.lists(JSON_VALUES), "usage": JSON_VALUES}), max_size=4)
)
def test_whatever_arrives_is_a_well_formed_stream(chunks: list[Any]) -> None:
    renderer = _renderer(Thinking.SHOWN)
    texts = [json.dumps(chunk).encode() for chunk in chunks]
    finish = b'{"choices":[{"finish_reason":"stop"}]}'
    _folded(renderer.events([*texts, finish]) + renderer.end())
