"""Whatever a body contains, it is translated or refused, and quickly. `make test-mutations` tries more bodies."""

import json
import time
from typing import Any

import pytest

from services.common.errors import InvalidRequest, ServiceError
from services.gateway.apis import tokenizers
from services.gateway.apis.messages.errors import error
from services.gateway.apis.messages.request import parse
from services.gateway.apis.messages.token_counts import count_tokens
from services.gateway.apis.surface import Context, ModelFacts
from services.gateway.clients.translate import chat_request
from services.gateway.http.errors import http_error
from tests.properties.message_bodies import NAMES, SEEDS
from tests.properties.mutated_bodies import BODIES, mutated_bodies

_CPU_SECONDS_MAX = 0.5
_CONTEXT = Context(models={"openai/gpt-oss-20b": ModelFacts(max_output_tokens=65_536, reasons=True)})


def test_bodies_are_translated_or_refused() -> None:
    tokenizers.load(tokenizers.FAMILIES)
    taken = 0
    for body in mutated_bodies(SEEDS, NAMES):
        started = time.process_time()
        taken += _is_taken(body)
        assert time.process_time() - started < _CPU_SECONDS_MAX, body[:1_000]
    assert BODIES // 20 < taken < BODIES


def _is_taken(body: bytes) -> bool:
    try:
        chat_request(parse(body, _CONTEXT).chat)
    except ServiceError as exc:
        refusal = http_error(exc, now=0)
        assert refusal.status in (400, 404, 413), body
        json.loads(error(refusal, request_id="req_A").body)
        return False
    assert json.loads(count_tokens(body, _CONTEXT))["input_tokens"] > 0
    return True


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


_LARGE: dict[str, Any] = {
    "messages": {"messages": [{"role": "user", "content": "a"}] * 2_049},
    "many messages": {"messages": [{"role": "user", "content": ""}] * 33_000},
    "blocks": {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 4_097}]},
    "values": {"messages": [{"role": "user", "content": [[]] * 1_000_000}]},
    "calls": {
        "messages": [
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}] * 4_097}
        ]
    },
    "tools": {"tools": [{"name": f"f{number}", "input_schema": {}} for number in range(129)]},
    "nesting": {"tools": [{"name": "f", "input_schema": _nested(200)}]},
    "deep nesting": {"metadata": "DEEP"},
    "model": {"model": "m" * 4_000_000},
    "type": {"messages": [{"role": "user", "content": [{"type": "t" * 4_000_000}]}]},
    "role": {"messages": [{"role": "r" * 4_000_000, "content": ""}]},
    "tool type": {"tools": [{"type": "t" * 4_000_000, "name": "f", "input_schema": {}}]},
    "orphan": {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "i" * 4_000_000}]}]},
}


def test_the_number_of_messages_is_checked_before_the_messages() -> None:
    messages = [{"role": "user", "content": ""}] * 20_000 + [{"role": "nobody"}]
    with pytest.raises(InvalidRequest, match="array too long"):
        parse(json.dumps({"model": "m", "max_tokens": 1, "messages": messages}).encode(), _CONTEXT)


@pytest.mark.parametrize("name", _LARGE)
def test_what_is_too_large_is_refused_quickly_and_in_few_words(name: str) -> None:
    members = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "a"}], **_LARGE[name]}
    body = json.dumps(members).encode().replace(b'"DEEP"', b"[" * 90_000 + b"]" * 90_000)
    started = time.process_time()
    with pytest.raises(InvalidRequest) as raised:
        parse(body, _CONTEXT)
    assert time.process_time() - started < _CPU_SECONDS_MAX
    assert len(raised.value.message) < 500
