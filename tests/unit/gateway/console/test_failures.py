"""The receipt of a failed request says what its client received."""

import re
from pathlib import Path

import pytest

from services.common.receipts import Receipt, ReceiptUsage
from services.gateway.console.failures import FAILURES, failure_of
from services.inference.chat import Outcome

_INFERENCE = Path(__file__).parents[4] / "services" / "inference"


def _receipt(outcome: str, reason: str | None = None, *, stream: bool = False, first: int | None = None) -> Receipt:
    return Receipt(
        id="req_1",
        key_id="key_1",
        day="2026-11-01",
        created_at="2026-11-01T00:00:00Z",
        model="openai/gpt-oss-20b",
        upstream_model=None,
        surface=None,
        stream=stream,
        outcome=outcome,
        charged=reason is None,
        refund_reason=reason,
        usage=ReceiptUsage(0, 0, 0, 0, 0, "none"),
        cost_microdollars=None,
        cost_usd=None,
        attempts=1,
        time_to_first_token_ms=first,
        duration_ms=1,
    )


def test_an_answered_request_has_no_failure() -> None:
    assert failure_of(_receipt("answered"), None) is None


def test_a_conversation_that_is_too_long_is_explained_with_the_models_context() -> None:
    failure = failure_of(_receipt("refused", "context_length_exceeded"), 131_072)

    assert failure is not None
    assert (failure.status, failure.code) == (400, "context_length_exceeded")
    assert failure.reason.startswith("The conversation is longer than the model's context of 131,072 tokens.")
    unknown = failure_of(_receipt("refused", "request_too_large"), None)
    assert unknown is not None
    assert unknown.reason.startswith("The conversation is longer than the model's context. ")


def test_a_stream_that_failed_after_its_first_output_had_status_200() -> None:
    failure = failure_of(_receipt("cut", stream=True, first=12), None)

    assert failure is not None
    assert (failure.status, failure.had_output) == (200, True)


def test_a_client_that_left_received_nothing() -> None:
    failure = failure_of(_receipt("client_left", "client_left"), None)

    assert failure is not None
    assert failure.status is None


@pytest.mark.parametrize("outcome", [outcome.value for outcome in Outcome if outcome is not Outcome.ANSWERED])
def test_every_outcome_without_a_known_reason_is_explained(outcome: str) -> None:
    failure = failure_of(_receipt(outcome, "moon_eclipsed"), None)

    assert failure is not None
    assert len(failure.reason) > 20
    assert failure.code == "moon_eclipsed"


def test_every_reason_that_inference_records_has_a_status_and_an_explanation() -> None:
    pattern = r'(?:reason=|_reason = )"([a-z_]+)"'
    written = {found for path in _INFERENCE.rglob("*.py") for found in re.findall(pattern, path.read_text())}

    # Before the hold, after the row, or without an answer.
    written -= {"response_storage_unavailable", "too_many_idempotency_keys", "no_verdict", "client_left"}
    assert "upstream_timeout" in written
    assert written - FAILURES.keys() == set()
