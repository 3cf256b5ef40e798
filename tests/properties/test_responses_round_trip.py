"""Streams fold to bodies, and chats survive the way through items and back."""

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from services.gateway.requests.types import JSONObject
from tests.unit.gateway.apis.responses.answers import (
    begun,
    call,
    chunk,
    completion,
    events_of,
    fold,
    parse,
    streamed,
    usage,
)

_SETTINGS = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
_EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
_TEXT = st.text(min_size=1, max_size=10)
_OBJECT = st.dictionaries(_TEXT, _TEXT | st.integers(), max_size=2).map(json.dumps)
_CALLS = st.lists(
    st.tuples(st.sampled_from(["f", "ns__child", "patch", "odd"]), _OBJECT | _TEXT | st.just("")), max_size=3
)
_TOOLS = [
    {"type": "function", "name": "f"},
    {"type": "namespace", "name": "ns", "description": "d", "tools": [{"type": "function", "name": "child"}]},
    {"type": "custom", "name": "patch"},
]
_REQUEST: JSONObject = {"tools": _TOOLS, "include": ["reasoning.encrypted_content"]}


def _chunked(data: st.DataObject, text: str) -> list[str]:
    """Return `text` in pieces, some of which may be empty."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def _batched(data: st.DataObject, chunks: list[bytes]) -> list[list[bytes]]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(chunks)), max_size=4)))
    return [chunks[start:end] for start, end in zip([0, *cuts], [*cuts, len(chunks)], strict=True)]


def _call_chunks(data: st.DataObject, calls: list[JSONObject]) -> list[bytes]:
    """Return calls as whole calls, or in pieces that alternate."""
    if data.draw(st.booleans()):
        return [chunk(tool_calls=[one]) for one in calls]
    pieces: list[list[JSONObject]] = []
    for index, one in enumerate(calls):
        first = call(index, one["id"], one["function"]["name"], "")
        rest = _chunked(data, one["function"]["arguments"])
        pieces.append([first, *(call(index, None, None, piece) for piece in rest)])
    order = data.draw(st.permutations([index for index, one in enumerate(pieces) for _ in one[1:]]))
    firsts = [one.pop(0) for one in pieces]
    return [chunk(tool_calls=[piece]) for piece in [*firsts, *(pieces[index].pop(0) for index in order)]]


@_SETTINGS
@given(st.data(), st.text(max_size=20), st.text(max_size=20), _CALLS, st.sampled_from(["stop", "length", "tool_calls"]))
def test_a_stream_folds_to_the_body(
    data: st.DataObject, reasoning: str, content: str, given_calls: list[tuple[str, str]], finish: str
) -> None:
    calls = [call(index, f"c{index}", name, arguments) for index, (name, arguments) in enumerate(given_calls)]
    counts = usage(3, 4, reasoning=1)
    body = begun(**_REQUEST).completion(
        completion(finish=finish, usage=counts, reasoning=reasoning, content=content, tool_calls=calls)
    )
    chunks = [chunk(role="assistant", content="")]
    chunks += [chunk(reasoning=piece) for piece in _chunked(data, reasoning)]
    chunks += [chunk(content=piece) for piece in _chunked(data, content)]
    chunks += [*_call_chunks(data, calls), chunk(finish=finish, usage=counts)]
    stream = streamed(begun(stream=True, **_REQUEST), _batched(data, chunks))
    response = fold(stream)
    assert response == json.loads(body)
    Response.model_validate(response)
    for event in events_of(stream):
        _EVENT.validate_python(event)


_PIECES = st.lists(
    st.one_of(
        st.tuples(st.just("reasoning"), _TEXT),
        st.tuples(st.just("content"), _TEXT),
        st.tuples(st.just("tool_calls"), _OBJECT),
    ),
    max_size=8,
)


@_SETTINGS
@given(st.data(), _PIECES)
def test_interleaved_pieces_keep_their_order(data: st.DataObject, pieces: list[tuple[str, str]]) -> None:
    chunks = [_piece_chunk(number, kind, text) for number, (kind, text) in enumerate(pieces)]
    output = fold(streamed(begun(), [*_batched(data, chunks), [chunk(finish="stop")]]))["output"]
    merged: list[tuple[str, str]] = []
    for kind, text in pieces:
        if merged and merged[-1][0] == kind != "tool_calls":
            merged[-1] = (kind, merged[-1][1] + text)
        else:
            merged.append((kind, text))
    assert [_kind_and_text(item) for item in output] == (merged or [("content", "")])


def _piece_chunk(number: int, kind: str, text: str) -> bytes:
    delta: dict[str, Any] = {kind: [call(number, f"c{number}", "f", text)] if kind == "tool_calls" else text}
    return chunk(**delta)


def _kind_and_text(item: JSONObject) -> tuple[str, str]:
    if item["type"] == "reasoning":
        return "reasoning", item["summary"][0]["text"]
    if item["type"] == "message":
        return "content", item["content"][0]["text"]
    return "tool_calls", item["arguments"]


_IMAGE = st.builds(lambda url: {"type": "image_url", "image_url": {"url": url}}, _TEXT)
_PARTS = st.lists(st.builds(lambda text: {"type": "text", "text": text}, _TEXT) | _IMAGE, min_size=2, max_size=3)


@st.composite
def _chats(draw: st.DrawFn) -> list[JSONObject]:
    """Return messages in the form in which this surface sends them."""
    messages: list[JSONObject] = []
    for turn in range(draw(st.integers(1, 3))):
        role = draw(st.sampled_from(["user", "system", "developer"]))
        messages.append({"role": role, "content": draw(_TEXT | _PARTS) if role == "user" else draw(_TEXT)})
        texts, calls = draw(st.lists(_TEXT, max_size=1)), draw(_CALLS)
        if not texts and not calls:
            continue
        message: JSONObject = {"role": "assistant"} | ({"content": texts[0]} if texts else {})
        message |= {"reasoning": reasoning} if (reasoning := draw(st.text(max_size=5))) else {}
        ids = [f"c{turn}_{number}" for number in range(len(calls))]
        message |= {"tool_calls": [_chat_call(*one) for one in zip(ids, calls, strict=True)]} if calls else {}
        messages += [
            message,
            *({"role": "tool", "tool_call_id": one, "content": draw(st.text(max_size=5))} for one in ids),
        ]
    return messages


def _chat_call(call_id: str, name_and_arguments: tuple[str, str]) -> JSONObject:
    name, arguments = name_and_arguments
    if name == "patch":
        arguments = json.dumps({"input": arguments}, separators=(",", ":"), ensure_ascii=False)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments or "{}"}}


def _items(message: JSONObject) -> list[JSONObject]:
    """Return the items of a chat message, as a client keeps them: the assistant's are those of the response."""
    if message["role"] == "assistant":
        body = begun(**_REQUEST).completion(completion(**{"content": None} | message))
        items: list[JSONObject] = json.loads(body)["output"]
        return items
    if message["role"] == "tool":
        return [{"type": "function_call_output", "call_id": message["tool_call_id"], "output": message["content"]}]
    content = message["content"]
    return [{**message, "content": content if isinstance(content, str) else [_input_part(part) for part in content]}]


def _input_part(part: Any) -> JSONObject:
    if part["type"] == "text":
        return {"type": "input_text", "text": part["text"]}
    return {"type": "input_image", "image_url": part["image_url"]["url"]}


def _normal(messages: list[JSONObject]) -> list[JSONObject]:
    """Return messages with the arguments of calls as values, if they are JSON."""
    copy: list[JSONObject] = json.loads(json.dumps(messages))
    for message in copy:
        for one in message.get("tool_calls", ()):
            if one["function"]["name"] == "patch":
                one["function"]["arguments"] = json.loads(one["function"]["arguments"])
    return copy


@_SETTINGS
@given(_chats())
def test_chats_survive_the_way_through_items(messages: list[JSONObject]) -> None:
    items = [item for message in messages for item in _items(message)]
    back = parse(**_REQUEST, input=[{"role": "user", "content": "hi"}, *items]).chat.members["messages"][1:]
    assert _normal(back) == _normal(messages)
