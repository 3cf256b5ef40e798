"""The worked examples of the reference, byte for byte."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.gateway.apis.responses.answers import begun, call, chunk, completion, fold, streamed, usage

_EXAMPLES = Path(__file__).parent / "examples"
_WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
_CALLS = [
    call(0, "call_1", "get_weather", '{"city":"Paris"}'),
    call(1, "call_2", "get_weather", '{"city":"Rome"}'),
]
_REQUESTS: dict[str, dict[str, Any]] = {"A": {}, "B": {}, "C": {"tools": [_WEATHER]}}
_START = [chunk(role="assistant", content="")]
_CHUNKS = {
    "A": [
        _START,
        [chunk(content="Hello")],
        [chunk(content=" there.")],
        [chunk(finish="stop", usage=usage(11, 5))],
    ],
    "B": [
        _START,
        [chunk(reasoning="User", channel="analysis")],
        [chunk(reasoning=" greets.")],
        [chunk(content="Hi!")],
        [chunk(finish="stop"), b'{"choices":[],"usage":%b}' % json.dumps(usage(11, 9, reasoning=4)).encode()],
    ],
    "C": [
        _START,
        [chunk(tool_calls=_CALLS[:1])],
        [chunk(tool_calls=_CALLS[1:])],
        [chunk(finish="tool_calls", usage=usage(60, 40))],
    ],
}
_COMPLETIONS = {
    "A": completion(content="Hello there.", usage=usage(11, 5)),
    "B": completion(content="Hi!", reasoning="User greets.", usage=usage(11, 9, reasoning=4)),
    "C": completion(content=None, tool_calls=_CALLS, finish="tool_calls", usage=usage(60, 40)),
}


def _example(name: str) -> bytes:
    return (_EXAMPLES / name).read_bytes()


@pytest.mark.parametrize("name", "ABC")
def test_streams(name: str) -> None:
    stream = streamed(begun(name, stream=True, **_REQUESTS[name]), _CHUNKS[name])
    assert stream == _example(f"responses-{name}.sse")
    assert fold(stream) == json.loads(_example(f"responses-{name}.json"))


@pytest.mark.parametrize("name", "ABC")
def test_bodies(name: str) -> None:
    body = begun(name, **_REQUESTS[name]).completion(_COMPLETIONS[name])
    assert json.dumps(json.loads(body), indent=1).encode() + b"\n" == _example(f"responses-{name}.json")
