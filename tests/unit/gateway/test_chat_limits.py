"""The size of one request is bounded; an excess is refused with the limit's name before it costs anything."""

import json
import time
from typing import Any

import pytest

from services.common.errors import ErrorDetails, InvalidRequest, TooLarge
from services.common.surface import Surface
from services.gateway.apis.chat_completions.limits import ChatLimits
from services.gateway.apis.chat_completions.request import parse_chat
from services.gateway.clients.translate import chat_request
from services.gateway.requests.types import Chat
from services.gateway.settings import GatewaySettings

_USER = {"role": "user", "content": "hi"}
_PART = {"type": "text", "text": "a"}
_CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
_BYTES = 4 * 1024 * 1024


def _refusal(body: Any, limits: ChatLimits | None = None) -> InvalidRequest:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(InvalidRequest) as raised:
        parse_chat(raw, limits or ChatLimits())
    return raised.value


def _nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        pytest.param({"messages": [_USER] * 2049}, "messages", "array_above_max_length", id="messages"),
        pytest.param(
            {"messages": [{"role": "user", "content": [_PART] * 2049}] * 2},
            "messages",
            "array_above_max_length",
            id="content parts",
        ),
        pytest.param(
            {"messages": [{"role": "assistant", "tool_calls": [_CALL] * 2049}] * 2},
            "messages",
            "array_above_max_length",
            id="tool calls",
        ),
        pytest.param(
            {"messages": [_USER], "tools": [{"type": "x"}] * 129}, "tools", "array_above_max_length", id="tools"
        ),
        pytest.param(
            {"messages": [_USER], "functions": [{"name": "x"}] * 129},
            "functions",
            "array_above_max_length",
            id="functions",
        ),
        pytest.param({"messages": [_USER], "model": "m" * 257}, "model", "string_above_max_length", id="model"),
        pytest.param(
            {"messages": [{**_USER, "name": "m" * 257}]}, "messages[0].name", "string_above_max_length", id="name"
        ),
        pytest.param(
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "m" * 257}}]}]},
            "messages[0].tool_calls[0].function.name",
            "string_above_max_length",
            id="called function",
        ),
        pytest.param(
            {"messages": [_USER], "tool_choice": {"type": "function", "function": {"name": "m" * 257}}},
            "tool_choice.function.name",
            "string_above_max_length",
            id="chosen function",
        ),
        pytest.param(
            {"messages": [_USER], "response_format": {"type": "json_schema", "json_schema": {"name": "m" * 257}}},
            "response_format.json_schema.name",
            "string_above_max_length",
            id="schema",
        ),
    ],
)
def test_a_request_over_a_limit_is_refused_with_the_limits_name(body: Any, param: str, code: str) -> None:
    assert _refusal(body).details == ErrorDetails(param=param, code=code)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [_USER] * 2048},
        {"messages": [{"role": "user", "content": [_PART] * 2048}] * 2},
        {"messages": [{"role": "assistant", "tool_calls": [_CALL] * 2048}] * 2},
        {"messages": [_USER], "model": "m" * 256},
        {"messages": [_USER], "documents": _nested(100)},
        {"messages": [_USER], "documents": [[]] * 49_990},
        {"messages": [{"role": "user", "content": '[{"a": "\\\\", "b": [1, 2]}, "\\"], ' * 100_000}]},
    ],
    ids=["messages", "parts", "calls", "model", "nesting", "values", "text that looks like values"],
)
def test_a_request_within_the_limits_is_accepted_and_can_be_encoded(body: Any) -> None:
    chat_request(parse_chat(json.dumps(body).encode()))


@pytest.mark.parametrize("levels", [101, 300, 900, 955, 970, 5_000, 200_000])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"messages":[{"role":"user","content":"a"}],"documents":', "}"),
        ('{"messages":[{"role":"user","content":"a"}],"function_call":', "}"),
        ('{"messages":[{"role":"user","content":"a"}],"metadata":{"a":', "}}"),
        (
            '{"messages":[{"role":"user","content":"a"}],"tools":[{"type":"function","function":{"name":"a",'
            '"parameters":{"a":',
            "}}}]}",
        ),
        ('{"messages":[{"role":"user","content":"a","x":', "}]}"),
        ('{"messages":[{"role":"user","content":[{"type":"document","document":{"a":', "}}]}]}"),
        ('{"unheard_of":', "}"),
    ],
    ids=["documents", "function_call", "metadata", "tools", "unknown in a message", "document", "unknown"],
)
def test_every_body_that_is_nested_too_deeply_is_the_same_400(levels: int, before: str, after: str) -> None:
    refusal = _refusal((before + "[" * levels + "]" * levels + after).encode())
    if levels < 900:
        assert refusal.details.code == "nesting_too_deep"
        assert refusal.details.param in before


def _filled(before: bytes, unit: bytes, after: bytes) -> bytes:
    return before + b",".join([unit] * ((_BYTES - len(before)) // (len(unit) + 1))) + after


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(_filled(b'{"messages":[', b'{"role":"user","content":"a"}', b"]}"), id="messages"),
        pytest.param(_filled(b'{"messages":[', b"{}", b"]}"), id="empty messages"),
        pytest.param(
            _filled(b'{"messages":[{"role":"user","content":[', b'{"type":"text","text":"a"}', b"]}]}"), id="parts"
        ),
        pytest.param(
            _filled(
                b'{"messages":[{"role":"assistant","tool_calls":[',
                b'{"id":"a","function":{"name":"a","arguments":""}}',
                b"]}]}",
            ),
            id="calls",
        ),
        pytest.param(_filled(b'{"documents":[', b"[" * 900 + b"]" * 900, b"]}"), id="deep arrays"),
        pytest.param(_filled(b'{"documents":[', b'"\\""', b"]}"), id="escapes"),
        pytest.param(_filled(b'{"metadata":{', b'"a":1', b"}}"), id="members"),
        pytest.param(_filled(b"[", b"1", b"]"), id="numbers"),
    ],
)
def test_four_megabytes_of_small_values_are_refused_by_the_c_scanner(body: bytes) -> None:
    """Parsing them takes 13 to 290 ms, and checking them one by one more."""
    taken = []
    for _ in range(5):
        began = time.process_time()
        _refusal(body)
        taken.append(time.process_time() - began)
    assert min(taken) < 0.04


def test_limits_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_MESSAGES_MAX", "2")
    limits = GatewaySettings().chat_limits
    assert _refusal({"messages": [_USER] * 3}, limits).details.code == "array_above_max_length"
    assert ChatLimits(**{name: getattr(limits, name) for name in ChatLimits.__slots__} | {"messages_max": 2048}) == (
        ChatLimits()
    )


def test_a_request_that_cannot_be_encoded_releases_its_hold() -> None:
    for members, kind in (
        ({"messages": [{"role": "user", "content": "\ud800"}]}, InvalidRequest),
        ({"messages": [_USER], "documents": _nested(20_000)}, InvalidRequest),
        ({"messages": [{"role": "user", "content": "a" * 17_000_000}]}, TooLarge),
    ):
        with pytest.raises(kind) as raised:
            chat_request(Chat(members, stream=False, surface=Surface.CHAT))
        assert raised.value.details.verdict == "released"
