"""What one request may contain is bounded, and refusing it is cheap."""

import json
import time
from typing import Any

import pytest

from services.common.errors import ErrorDetails, InvalidRequest
from services.gateway.apis import responses
from services.gateway.apis.chat_completions.limits import ChatLimits
from services.gateway.apis.surface import Context
from services.gateway.apis.translation.reasoning import encode_reasoning

_BYTES = 4 * 1024 * 1024
_TEXT = {"type": "input_text", "text": "a"}
_CALL = {"type": "function_call", "call_id": "a", "name": "f"}


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("members", "param", "code"),
    [
        ({"input": [{"role": "user", "content": "a"}] * 2049}, "input", "array_above_max_length"),
        ({"input": [{"type": "mcp_call"}] * 6145}, "input", "array_above_max_length"),
        ({"input": [{"role": "user", "content": [_TEXT] * 2049}] * 2}, "input", "array_above_max_length"),
        ({"input": [_CALL, *[{**_CALL, "type": "custom_tool_call"}] * 4096]}, "input", "array_above_max_length"),
        ({"input": "a", "tools": [{"type": "web_search"}] * 129}, "tools", "array_above_max_length"),
        ({"input": [{"type": "additional_tools", "tools": [{}] * 257}]}, "input", "array_above_max_length"),
        ({"input": "a", "include": ["reasoning.encrypted_content"] * 65}, "include", "array_above_max_length"),
        ({"input": "a", "metadata": {"a": _nested(101)}}, "metadata", "nesting_too_deep"),
        ({"input": [{"role": "user", "content": "a", "x": _nested(101)}]}, "input", "nesting_too_deep"),
    ],
)
def test_what_is_over_a_limit_is_refused_by_its_name(members: Any, param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        responses.parse(json.dumps(members).encode(), Context())
    assert raised.value.details == ErrorDetails(param=param, code=code)


def test_limits_are_those_of_the_context() -> None:
    body = json.dumps({"input": [{"role": "user", "content": "a"}] * 3}).encode()
    responses.parse(body, Context(limits=ChatLimits(messages_max=3)))
    with pytest.raises(InvalidRequest):
        responses.parse(body, Context(limits=ChatLimits(messages_max=2)))


def _filled(before: bytes, unit: bytes, after: bytes, most: int = 10**9) -> bytes:
    count = min((_BYTES - len(before)) // (len(unit) + 1), most)
    return before + b",".join([unit] * count) + after


_BOMB = b'{"type":"reasoning","encrypted_content":"%b"}' % encode_reasoning("\0" * 3_000_000).encode()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(_filled(b'{"input":[', b'{"role":"user","content":"a"}', b"]}"), id="messages"),
        pytest.param(_filled(b'{"input":[', b"{}", b"]}"), id="empty items"),
        pytest.param(_filled(b'{"input":[{"role":"user","content":[', b"{}", b"]}]}"), id="parts"),
        pytest.param(_filled(b'{"tools":[', b"{}", b'],"input":"a"}'), id="tools"),
        pytest.param(_filled(b'{"input":[', b'"\\""', b"]}"), id="escapes"),
        pytest.param(_filled(b'{"input":[', b'{"type":"mcp_call"}', b"]}", 6_000), id="receipts"),
        pytest.param(_filled(b'{"input":[', _BOMB, b"]}", 900), id="compressed reasoning"),
        pytest.param(_filled(b'{"input":"a","metadata":{', b'"a":1', b"}}", 90_000), id="metadata"),
    ],
)
def test_refusals_are_cheap(body: bytes) -> None:
    taken = []
    for _ in range(5):
        began = time.process_time()
        with pytest.raises(InvalidRequest):
            responses.parse(body, Context())
        taken.append(time.process_time() - began)
    assert min(taken) < 0.04
