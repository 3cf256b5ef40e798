"""Any body at all is either translated or refused by a `ServiceError`, and quickly."""

import json
import os
import random
import time
from itertools import islice
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from services.common.errors import InvalidRequest, ServiceError
from services.gateway.apis.messages.errors import error
from services.gateway.apis.messages.request import parse
from services.gateway.apis.messages.token_counts import count_tokens
from services.gateway.apis.surface import Context, ModelFacts
from services.gateway.clients.translate import chat_request
from services.gateway.http.errors import http_error
from tests.properties.chat_bodies import JSON_VALUES
from tests.properties.message_bodies import GOOD_MESSAGE_BODIES, broken_message_bodies, changed, mutations

_BODIES = int(os.environ.get("MUTATED_BODIES") or 2_000)
_MUTATIONS = 50
_CPU_SECONDS_MAX = 0.5
_CONTEXT = Context(models={"openai/gpt-oss-20b": ModelFacts(max_output_tokens=65_536, reasons=True)})
_ODD: tuple[Any, ...] = (None, True, 0, -1, 1.5, 10**30, "", "user", [], {}, ["a"], {"a": None}, "\0", "x" * 1_000)


def _bodies(count: int) -> list[bytes]:
    """Return requests that hypothesis made, and mutations of their text and of their values."""
    made: list[Any] = []

    @settings(
        max_examples=max(10, count // _MUTATIONS), deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(GOOD_MESSAGE_BODIES | broken_message_bodies() | JSON_VALUES)
    def collect(body: Any) -> None:
        made.append(body)

    collect()
    chance = random.Random(20_261_129)
    bodies = []
    for body in made:
        text = json.dumps(body).encode()
        bodies += [text, *islice(mutations(chance, text), _MUTATIONS // 2)]
        bodies += [json.dumps(changed(chance, body, chance.choice(_ODD))).encode() for _ in range(_MUTATIONS // 2)]
    return bodies


@pytest.mark.timeout(3_600)
def test_mutated_bodies_are_only_ever_refused_by_service_errors() -> None:
    taken = refused = 0
    for body in _bodies(_BODIES):
        started = time.process_time()
        if _is_taken(body):
            taken += 1
        else:
            refused += 1
        assert time.process_time() - started < _CPU_SECONDS_MAX, body
    # The bodies reach both sides.
    assert taken > _BODIES // 20
    assert refused > _BODIES // 20


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
