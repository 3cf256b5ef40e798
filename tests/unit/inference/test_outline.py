"""What Groq sends is looked at once, where it enters: an odd form is an upstream failure, never a defect of ours."""

import json
from typing import Any

import pytest

from services.common.errors import InvalidRequest, Unavailable
from services.inference import provider
from services.inference.refusals import from_status


@pytest.mark.parametrize(
    "members",
    [
        {"choices": ["odd"]},
        {"choices": [None]},
        {"choices": {}},
        {"choices": [{"delta": "text"}]},
        {"choices": [{"message": []}]},
        {"usage": 5},
        {"x_groq": "text"},
    ],
)
def test_an_answer_of_another_form_is_an_upstream_failure(members: dict[str, Any]) -> None:
    with pytest.raises(Unavailable) as failed:
        provider._chat_object(json.dumps(members).encode())
    assert failed.value.reason == "upstream_invalid"


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"choices": [], "usage": None, "x_groq": None},
        {"choices": [{"delta": {}, "message": None}], "usage": {}, "x_groq": {"id": "req_1"}},
    ],
)
def test_an_answer_as_documented_is_taken(members: dict[str, Any]) -> None:
    assert provider._chat_object(json.dumps(members).encode()) == members


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("too large in organization `org_01abc` service tier `on_demand` on tokens", "too large on tokens"),
        ("bad (request req_01k) project_01abc", "bad (request)"),
        ("see https://console.groq.com/docs/deprecations for more", "see for more"),
        ("'temperature' : value must be a number", "'temperature' : value must be a number"),
    ],
)
def test_what_names_the_operators_account_is_left_out_of_messages(message: str, shown: str) -> None:
    error = from_status(400, {}, {"error": {"message": message, "type": "invalid_request_error"}})
    assert isinstance(error, InvalidRequest)
    assert error.message == shown


def test_terms_that_the_operator_has_not_accepted_are_no_fault_of_the_caller() -> None:
    body = {"error": {"message": "accept the terms", "type": "x", "code": "model_terms_required"}}
    error = from_status(400, {}, body)
    assert isinstance(error, Unavailable)
    assert error.reason == "upstream_misconfigured"
