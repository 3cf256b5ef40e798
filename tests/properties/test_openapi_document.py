"""The OpenAPI document matches the code: its schema accepts what the code accepts."""

import json
import re
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import example, given, settings

from services.common.errors import InvalidRequest
from services.common.surface import Surface
from services.gateway.apis.chat_completions.request import parse_chat
from services.gateway.clients.ledger import receipt_of
from services.gateway.http.openapi import chat_request, document
from stack.inference.v1 import usage_pb2
from tests.properties.chat_bodies import GOOD_BODIES, broken_bodies

# OpenAI and the code reject `1.0` where they expect an integer. JSON Schema cannot express that.
_TYPES = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
_VALIDATOR = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=_TYPES)(  # type: ignore[no-untyped-call]
    chat_request()
)


def _is_taken(body: Any) -> bool:
    try:
        parse_chat(json.dumps(body).encode())
    except InvalidRequest:
        return False
    return True


@settings(max_examples=150, deadline=None)
@given(GOOD_BODIES)
def test_a_valid_body_is_accepted_by_code_and_schema(body: Any) -> None:
    assert _is_taken(body)
    _VALIDATOR.validate(body)


@settings(max_examples=400, deadline=None)
@given(broken_bodies())
@example({"messages": [{"role": "user", "content": "hi"}], "unheard_of": None})
@example({"messages": [{"role": "user", "content": "hi"}], "unheard_of": 1})
@example({"messages": [{"role": "user", "content": "hi"}], "stream_options": {"unheard_of": None}})
@example({"messages": [{"role": "user", "content": "hi"}], "stream_options": {"unheard_of": 1}})
@example({"messages": [{"role": "user", "content": "hi"}], "seed": 1.0})
def test_code_and_schema_refuse_the_same_bodies(body: Any) -> None:
    assert _is_taken(body) == _VALIDATOR.is_valid(body)


def test_the_document_is_openapi_3_1_with_every_path() -> None:
    reported = json.loads(document())
    assert reported["openapi"] == "3.1.0"
    assert set(reported["paths"]) == {
        "/api/v1/chat",
        "/api/v1/chat/completions",
        "/api/v1/completions",
        "/api/v1/messages",
        "/api/v1/messages/count_tokens",
        "/api/v1/responses",
        "/api/v1/responses/{id}",
        "/api/v1/responses/{id}/input_items",
        "/api/v1/models",
        "/api/v1/models/{id}",
        "/api/v1/key",
        "/api/v1/limits",
        "/api/v1/webhooks/plan",
        "/api/v1/usage",
        "/api/v1/usage/{request_id}",
        "/api/v1/usage/export",
        "/api/v1/usage/webhook",
        "/api/v1/usage/{request_id}/jws",
        "/.well-known/jwks.json",
    }
    jsonschema.Draft202012Validator.check_schema(chat_request())


def test_every_reference_in_the_document_resolves() -> None:
    text = document().decode()
    references = set(re.findall(r'"\$ref":"#/components/schemas/(\w+)"', text))
    assert {"ChatRequest", "ChatCompletion", "ResponseRequest", "Error", "Receipt", "Surface"} <= references
    assert references <= set(json.loads(text)["components"]["schemas"])


@pytest.mark.parametrize(
    ("surface", "is_valid"), [*((surface.value, True) for surface in Surface), (None, True), ("playground", False)]
)
def test_a_receipt_is_documented_as_it_is_encoded(surface: str | None, is_valid: bool) -> None:
    receipt = receipt_of(usage_pb2.UsageRecord(request_id="req_1", model="m", outcome="unknown"))
    encoded = json.loads(msgspec.json.encode(receipt)) | {"surface": surface}
    reported = json.loads(document())

    validator = jsonschema.Draft202012Validator({"$ref": "#/components/schemas/Receipt", **reported})

    assert validator.is_valid(encoded) is is_valid
    assert set(reported["components"]["schemas"]["Receipt"]["properties"]) == set(encoded)


def test_create_response_is_documented_with_and_without_storage() -> None:
    reported = json.loads(document())
    operation = reported["paths"]["/api/v1/responses"]["post"]
    assert "By default responses are not stored" in operation["description"]
    assert "If the operator stores responses" in operation["description"]
    request = reported["components"]["schemas"]["ResponseRequest"]
    validator = jsonschema.Draft202012Validator(request)
    assert validator.is_valid({"input": "a", "previous_response_id": "resp_1"})
    assert validator.is_valid({"input": [{"type": "item_reference", "id": "msg_1"}]})
    assert not validator.is_valid({"input": [{"type": "item_reference", "id": 1}]})
