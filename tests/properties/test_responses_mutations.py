"""Whatever a body contains, it is parsed or refused, and quickly. `make test-mutations` tries more bodies."""

import json
import time

from services.common.errors import InvalidRequest, NotFound
from services.gateway.apis import responses
from services.gateway.apis.surface import Context
from services.gateway.clients.translate import chat_request
from tests.properties.mutated_bodies import mutated_bodies
from tests.properties.response_bodies import NAMES
from tests.unit.gateway.apis.responses.answers import chunk, completion, fold, streamed

_SECONDS_MAX = 0.1
_TEXT_FILE = {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,YQ=="}
_IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"}
_SEEDS = [
    {"model": "openai/gpt-oss-20b", "input": "hi", "stream": True},
    {
        "model": "openai/gpt-oss-20b",
        "instructions": "Be brief.",
        "input": [
            {"role": "developer", "content": [{"type": "input_text", "text": "d"}]},
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}, _IMAGE, _TEXT_FILE]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"text": "r"}], "encrypted_content": "stkReas1AAAA"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": []}]},
            {"type": "function_call", "call_id": "1", "name": "f", "namespace": "ns", "arguments": "{}"},
            {"type": "custom_tool_call", "call_id": "2", "name": "patch", "input": "x"},
            {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "o"}, _IMAGE]},
            {"type": "custom_tool_call_output", "call_id": "2", "output": "done"},
            {"type": "additional_tools", "tools": [{"type": "function", "name": "g"}]},
            {"type": "item_reference", "id": "rs_2"},
            {"type": "web_search_call", "id": "ws_1"},
        ],
        "tools": [
            {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True},
            {"type": "namespace", "name": "ns", "tools": [{"type": "function", "name": "f"}]},
            {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "s"}},
            {"type": "web_search"},
        ],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
        "parallel_tool_calls": True,
        "text": {"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}}, "verbosity": "low"},
        "reasoning": {"effort": "high", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "store": False,
        "metadata": {"a": "b"},
        "max_output_tokens": 100,
        "temperature": 1,
        "client_metadata": {"x": 1},
    },
]


def _answer(body: bytes) -> bool:
    """Parse a body and render an answer to it. Return whether the body was accepted."""
    try:
        request = responses.parse(body, Context())
    except (InvalidRequest, NotFound):
        return False
    chat_request(request.chat)
    request.renderer.begin("req_1", 0.0)
    if request.chat.stream:
        fold(streamed(request.renderer, [[chunk(content="a", finish="stop")]]))
    else:
        json.loads(request.renderer.completion(completion(content="a")))
    return True


def test_bodies_are_parsed_or_refused() -> None:
    accepted = 0
    for body in mutated_bodies(_SEEDS, NAMES):
        began = time.process_time()
        accepted += _answer(body)
        assert time.process_time() - began < _SECONDS_MAX, body[:1_000]
    assert accepted > 20
