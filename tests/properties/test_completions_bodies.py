"""Completion requests are parsed or refused as their schema says. `make test-mutations` tries more bodies."""

import json
import time

import jsonschema

from services.common.errors import InvalidRequest
from services.gateway.apis import completions
from services.gateway.apis.surface import Context
from services.gateway.clients.translate import chat_request
from tests.properties.completion_bodies import NAMES, SEEDS
from tests.properties.mutated_bodies import mutated_bodies
from tests.unit.gateway.apis.responses.answers import completion

# OpenAI and the code reject `1.0` where they expect an integer. JSON Schema cannot express that.
_TYPES = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
_VALIDATOR = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=_TYPES)(  # type: ignore[no-untyped-call]
    completions.schema()
)
_SECONDS_MAX = 0.1


def _is_accepted(body: bytes) -> bool:
    """Parse a body and render an answer to it. Return whether the body was accepted."""
    try:
        request = completions.parse(body, Context())
    except InvalidRequest:
        return False
    chat_request(request.chat)
    request.renderer.begin("req_1", 0.0)
    json.loads(request.renderer.completion(completion(content="a")))
    return True


def _is_valid(body: bytes) -> bool | None:
    """Return whether the schema accepts a body; None if Python and the API read it differently."""
    try:
        value = json.loads(body.decode())
    except ValueError:
        return False
    return _VALIDATOR.is_valid(value) if b"\\ud800" not in body and b"1e999" not in body else None


def test_mutations_are_parsed_or_refused() -> None:
    accepted = 0
    for body in mutated_bodies(SEEDS, NAMES):
        began = time.process_time()
        is_accepted = _is_accepted(body)
        assert time.process_time() - began < _SECONDS_MAX, body[:1_000]
        assert _is_valid(body) in (None, is_accepted), body[:1_000]
        accepted += is_accepted
    assert accepted > 20


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(completions.schema())
