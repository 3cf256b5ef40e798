"""Outcomes, refunds and changes have labels, and new ones have a fallback."""

import re
from pathlib import Path

import pytest

from services.common.web.times import ago
from services.gateway.console.labels import OUTCOMES, countdown, explain_outcome, explain_refund, label
from services.inference.chat import Outcome

SERVICES = Path(__file__).parents[4] / "services"


def test_every_outcome_of_inference_has_a_label_and_a_description() -> None:
    outcomes = {outcome.value for outcome in Outcome}
    assert set(OUTCOMES) == outcomes
    sentences = {explain_outcome(outcome) for outcome in outcomes}
    assert len(sentences) == len(outcomes)
    assert explain_outcome("vanished") not in sentences
    assert {label(outcome) for outcome in outcomes}.isdisjoint(outcomes)


def _written(service: str, pattern: str) -> set[str]:
    """Return the matches of a pattern in a service's sources; services share no list, as none imports another."""
    sources = (SERVICES / service).rglob("*.py")
    return {found for path in sources for found in re.findall(pattern, path.read_text())}


def test_every_change_that_auth_records_has_a_label() -> None:
    written = _written("auth", r'"((?:account|key|session|token|plan)\.[a-z_]+)"')
    written -= {"account.plan_changed"}  # The type of a plan event, which is recorded as `account.plan_set`.

    assert "key.created" in written
    assert [action for action in sorted(written) if label(action) == action.replace("_", " ").replace(".", ": ")] == []


def test_every_reason_why_inference_does_not_charge_has_a_label() -> None:
    written = _written("inference", r'(?:reason=|_reason = )"([a-z_]+)"') | {"upstream_unavailable", "internal_error"}

    # Before the hold, or after the row.
    written -= {"response_storage_unavailable", "too_many_idempotency_keys"}
    assert "upstream_timeout" in written
    assert [reason for reason in sorted(written) if explain_refund(reason) == reason.replace("_", " ")] == []


def test_a_value_without_a_label_is_shown_unchanged() -> None:
    assert label("key.painted_blue") == "key: painted blue"
    assert explain_refund("moon_eclipsed") == "moon eclipsed"
    assert explain_outcome("vanished") == "No further details are available."


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "00:00:00"), (-5, "00:00:00"), (59.9, "00:00:59"), (86_399, "23:59:59"), (3_661, "01:01:01")],
)
def test_a_countdown_is_hours_minutes_and_seconds(seconds: float, expected: str) -> None:
    assert countdown(seconds) == expected


@pytest.mark.parametrize(
    ("passed", "expected"),
    [(0, "just now"), (-3, "just now"), (60, "1 minute ago"), (7_200, "2 hours ago"), (86_400, "1 day ago")],
)
def test_a_duration_is_shown_in_its_largest_unit(passed: float, expected: str) -> None:
    assert ago(1_000_000 - passed, now=1_000_000) == expected
    assert ago(None, now=0) == "never"
