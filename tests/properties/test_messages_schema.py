"""The schema of message requests is true to the code: what it takes is what the code takes."""

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given, settings

from services.common.errors import ServiceError
from services.gateway.apis.messages.request import parse
from services.gateway.apis.messages.schema import count_schema, schema
from services.gateway.apis.surface import Context
from tests.properties.message_bodies import GOOD_MESSAGE_BODIES, NAMES, SEEDS, broken_message_bodies
from tests.properties.mutated_bodies import mutated_bodies

# OpenAI and the code reject `1.0` where they expect an integer. JSON Schema cannot express that.
_TYPES = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
_VALIDATOR = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=_TYPES)(  # type: ignore[no-untyped-call]
    schema()
)
_NOT_IN_SCHEMA = frozenset({"tool_use_not_found", "tool_not_found", "empty_array"})
"""Codes of errors about the conversation as a whole."""


def _agree(body: Any) -> bool:
    refusal = _refusal(body)
    if refusal is not None and refusal.details.code in _NOT_IN_SCHEMA:
        return True
    return (refusal is None) == bool(_VALIDATOR.is_valid(body))


def _refusal(body: Any) -> ServiceError | None:
    try:
        parse(json.dumps(body).encode(), Context())
    except ServiceError as exc:
        return exc
    return None


@settings(max_examples=150, deadline=None)
@given(GOOD_MESSAGE_BODIES)
def test_what_is_acceptable_is_taken_by_code_and_schema(body: Any) -> None:
    assert _refusal(body) is None
    _VALIDATOR.validate(body)


@pytest.mark.long
@settings(max_examples=400, deadline=None)
@given(broken_message_bodies())
@example({"model": "m", "max_tokens": 1.0, "messages": [{"role": "user", "content": "a"}]})
@example({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": None}]})
@example(
    {"model": "m", "max_tokens": 1, "messages": [{"role": "system", "content": None}, {"role": "user", "content": ""}]}
)
@example({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "file_tool_result"}]}]})
@example({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "mcp_tool_result"}]}]})
def test_code_and_schema_refuse_the_same(body: Any) -> None:
    assert _agree(body)


@pytest.mark.long
def test_they_refuse_the_same_of_mutated_bodies() -> None:
    for text in mutated_bodies(SEEDS, NAMES, count=1_000):
        try:
            body = json.loads(text, parse_constant=float)
            json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
        except ValueError:
            continue
        assert _agree(body), text


def test_the_schemas_are_schemas() -> None:
    for one in (schema(), count_schema()):
        jsonschema.Draft202012Validator.check_schema(one)
    assert "max_tokens" not in count_schema()["required"]
