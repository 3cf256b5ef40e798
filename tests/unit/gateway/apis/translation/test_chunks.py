"""Groq's completions and chunks are read whatever types their members have."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.common.errors import Unavailable
from services.gateway.apis.translation.chunks import Choice, Chunk, ChunkUsage, Function, Message, ToolCall, read_chunk
from tests.properties.chat_bodies import JSON_VALUES

_CHUNK = {
    "model": "m",
    "choices": [
        {
            "index": 0,
            "delta": {
                "content": "a",
                "reasoning": "b",
                "tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}],
            },
            "finish_reason": "stop",
        }
    ],
    "x_groq": {"usage": {"prompt_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 2}}},
}


def test_members_are_read() -> None:
    chunk = read_chunk(json.dumps(_CHUNK).encode())
    assert chunk.choice == Choice(0, Message("a", "b", [ToolCall(0, "c", Function("f", "{}"))]), finish_reason="stop")
    usage = chunk.reported_usage
    assert usage is not None
    assert (usage.input, usage.output, usage.cached, usage.reasoning) == (1, 0, 0, 2)


@pytest.mark.parametrize(
    ("text", "chunk"),
    [
        (b"{}", Chunk()),
        (b'{"choices":null,"usage":3}', Chunk()),
        (b'{"choices":[null,1,{"delta":null}],"model":1}', Chunk(choices=[Choice()])),
        (
            b'{"usage":{"prompt_tokens":true,"completion_tokens":2,"prompt_tokens_details":[]}}',
            Chunk(usage=ChunkUsage(None, 2)),
        ),
        (
            b'{"choices":[{"delta":{"content":[],"tool_calls":[7,{"index":"0","id":"a","function":"f"}]}}]}',
            Chunk(choices=[Choice(delta=Message(tool_calls=[ToolCall(id="a")]))]),
        ),
    ],
)
def test_members_of_wrong_types_count_as_absent(text: bytes, chunk: Chunk) -> None:
    assert read_chunk(text) == chunk


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b'"a"', b'{"model":"\xff"}', b"[" * 100_000, b'{"model":1,']
)
def test_what_is_no_object_is_a_service_error(text: bytes) -> None:
    with pytest.raises(Unavailable) as raised:
        read_chunk(text)
    assert raised.value.reason == "upstream_invalid"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(["model", "choices", "usage", "x_groq"], JSON_VALUES)))
def test_any_object_is_read(value: dict[str, object]) -> None:
    assert isinstance(read_chunk(json.dumps(value).encode()), Chunk)
