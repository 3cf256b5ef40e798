"""A conversation that goes to the client as messages comes back as the same conversation."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.json import Encoder

from services.gateway.apis.messages.renderer import MessagesRenderer
from services.gateway.apis.messages.request import parse
from services.gateway.apis.messages.thinking import Thinking
from services.gateway.apis.surface import Context
from services.gateway.apis.translation.tool_names import ToolNames
from tests.properties.chat_bodies import JSON_VALUES

_encode = Encoder().encode
_TEXT = st.text(min_size=1, max_size=20)
_NAME = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
_ARGUMENTS = st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=3).map(lambda value: _encode(value).decode())
_PART = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": _TEXT}),
    st.fixed_dictionaries({"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": _TEXT})}),
)


@st.composite
def _conversations(draw: st.DrawFn) -> list[Any]:
    messages: list[Any] = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(_TEXT)})
    for _ in range(draw(st.integers(1, 4))):
        messages += draw(st.sampled_from([_user, _user_of_parts, _system, _assistant]))(draw, len(messages))
    return messages


def _user(draw: st.DrawFn, _: int) -> list[Any]:
    return [{"role": "user", "content": draw(_TEXT)}]


def _user_of_parts(draw: st.DrawFn, _: int) -> list[Any]:
    return [{"role": "user", "content": draw(st.lists(_PART, min_size=2, max_size=3))}]


def _system(draw: st.DrawFn, _: int) -> list[Any]:
    return [{"role": "user", "content": draw(_TEXT)}, {"role": "system", "content": draw(_TEXT)}]


def _assistant(draw: st.DrawFn, number: int) -> list[Any]:
    calls = [
        {"id": f"call_{number}_{index}", "type": "function", "function": {"name": name, "arguments": draw(_ARGUMENTS)}}
        for index, name in enumerate(draw(st.lists(_NAME, max_size=3)))
    ]
    content, reasoning = draw(st.none() | _TEXT), draw(st.none() | _TEXT)
    if not calls and content is None:
        content = "" if reasoning else "a"
    message = {"role": "assistant", "content": content, "reasoning": reasoning, "tool_calls": calls or None}
    results = [{"role": "tool", "tool_call_id": call["id"], "content": draw(st.text(max_size=9))} for call in calls]
    return [{name: value for name, value in message.items() if value is not None}, *results]


def _client_messages(draw: st.DataObject, chat: list[Any], thinking: Thinking) -> list[Any]:
    """Return what a client sends for a conversation: our own answers, and results in the order of finishing."""
    messages: list[Any] = []
    results: list[Any] = []
    for message in chat:
        if message["role"] != "tool" and results:
            messages.append({"role": "user", "content": draw.draw(st.permutations(results))})
            results = []
        if message["role"] == "tool":
            results.append(
                {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": message["content"]}
            )
        elif message["role"] == "assistant":
            messages.append({"role": "assistant", "content": _answer(message, thinking)})
        else:
            messages.append({**message, "content": _blocks(message["content"])})
    return [*messages, {"role": "user", "content": results}] if results else messages


def _answer(message: Any, thinking: Thinking) -> Any:
    renderer = MessagesRenderer("m", ToolNames(), thinking)
    renderer.begin("req_A", 0)
    return json.loads(renderer.completion(_encode({"choices": [{"message": message}]})))["content"]


def _blocks(content: Any) -> Any:
    if isinstance(content, str):
        return content
    return [
        part if part["type"] == "text" else {"type": "image", "source": {"type": "url", **part["image_url"]}}
        for part in content
    ]


@settings(max_examples=300, deadline=None)
@given(_conversations(), st.sampled_from([Thinking.SHOWN, Thinking.OMITTED]), st.data())
def test_chat_to_messages_to_chat_is_the_identity(chat: list[Any], thinking: Thinking, data: st.DataObject) -> None:
    system = [one["content"] for one in chat[:1] if one["role"] == "system"]
    rest = chat[1:] if system else chat
    body = {
        "model": "m",
        "max_tokens": 1,
        "system": "".join(system),
        "messages": _client_messages(data, rest, thinking),
    }
    assert parse(_encode(body), Context()).chat.members["messages"] == chat
