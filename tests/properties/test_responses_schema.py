"""The schema of a Responses request accepts what the code accepts."""

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, example, given, settings

from services.common.errors import InvalidRequest, NotFound
from services.gateway.apis import responses
from services.gateway.apis.responses.parameters import STORED_PARAMETERS, check_parameters
from services.gateway.apis.responses.request import read_members
from services.gateway.apis.surface import Context
from tests.properties.response_bodies import GOOD_BODIES, broken_bodies

# OpenAI and the code reject `1.0` where they expect an integer. JSON Schema cannot express that.
_TYPES = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
_VALIDATOR = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=_TYPES)(  # type: ignore[no-untyped-call]
    responses.schema()
)
_WHOLE = (
    "No tool call found for function call output",
    "Tool choice '",
    "Invalid 'input': no messages.",
    "only text files are supported",
    "expected UTF-8 text in base64",
)
"""Errors about the request as a whole, or about the content of strings, which a schema cannot express."""


_STORED_VALIDATOR = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=_TYPES)(  # type: ignore[no-untyped-call]
    responses.documented_schema()
)


def _stored_refusal(body: Any) -> str:
    """Return the error of a body while responses are stored, without looking up what it refers to."""
    try:
        check_parameters(read_members(json.dumps(body).encode(), Context()), STORED_PARAMETERS)
    except (InvalidRequest, NotFound) as exc:
        return exc.message
    return ""


def _refusal(body: Any) -> str:
    """Return the error of a body; empty if it is accepted."""
    try:
        responses.parse(json.dumps(body).encode(), Context())
    except (InvalidRequest, NotFound) as exc:
        return exc.message
    return ""


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(GOOD_BODIES)
def test_what_is_acceptable_is_taken_by_code_and_schema(body: Any) -> None:
    assert _refusal(body) == ""
    _VALIDATOR.validate(body)
    _STORED_VALIDATOR.validate(body)


@pytest.mark.long
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(broken_bodies())
@example({"input": None, "instructions": "a"})
@example({"input": None})
@example({"instructions": "a"})
@example({"input": "a", "unheard_of": None})
@example({"input": "a", "unheard_of": 1})
@example({"input": [{"type": None, "role": "user", "content": "a"}]})
@example({"input": [{"id": "msg_1"}]})
@example({"input": [{"id": "rs_1", "role": "user"}]})
@example({"input": [{"id": "rs_1", "type": "item_reference", "role": "user"}]})
@example({"input": "a", "tools": [{"type": "web_search\n"}]})
@example({"input": "a", "tools": [{"type": "mcp\n"}]})
@example({"input": "a", "tools": [{"type": "namespace", "name": "n", "tools": None}]})
@example({"input": "a", "previous_response_id": None})
@example({"input": "a", "previous_response_id": "resp_1"})
@example({"input": "a", "previous_response_id": 1})
@example({"input": [{"id": "msg_1", "type": "item_reference"}]})
@example({"input": "a", "store": True})
@example({"input": "a", "store": "yes"})
@example({"input": "a", "max_output_tokens": 1.0})
@example({"input": "a", "top_logprobs": 0.0})
def test_code_and_schema_refuse_the_same(body: Any) -> None:
    refusal = _refusal(body)
    if not any(text in refusal for text in _WHOLE):
        assert (refusal == "") == _VALIDATOR.is_valid(body), refusal
    stored_refusal = _stored_refusal(body)
    assert refusal or not stored_refusal, "what is valid while nothing is stored is valid while responses are stored"
    if not any(text in stored_refusal for text in _WHOLE):
        assert (stored_refusal == "") == _STORED_VALIDATOR.is_valid(body), stored_refusal


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(responses.schema())
    jsonschema.Draft202012Validator.check_schema(responses.documented_schema())


def test_the_documented_schema_describes_both_cases_of_storage() -> None:
    documented, without = responses.documented_schema()["properties"], responses.schema()["properties"]
    differing = {name for name in documented if documented[name] != without[name]}
    assert differing == {"input", "previous_response_id", "store"}
    assert documented["previous_response_id"] == {
        "anyOf": [{"type": "string"}, {"type": "null"}],
        "description": "If responses are stored, translated: the input and output of that response precede `input`. "
        "Otherwise refused: responses are not stored, unless the operator switches it on.",
    }
