"""A client that auth has refused is refused at the gateway until its window ends."""

import pytest

from services.common.errors import ErrorDetails, Throttled
from services.gateway.console.security.refused_clients import RefusedClients
from tests.unit.gateway.auth_client import ManualClock

CLIENT = "192.0.2.1"


def _refusal(*, is_client_limit: bool = True) -> Throttled:
    details = ErrorDetails(retry_after_seconds=900, is_client_limit=is_client_limit)
    return Throttled("Too many attempts.", details=details)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def refused(clock: ManualClock) -> RefusedClients:
    return RefusedClients(clock)


def test_a_refused_client_is_refused_until_its_window_ends_and_receives_the_remaining_time(
    refused: RefusedClients, clock: ManualClock
) -> None:
    refused.note("log-in", CLIENT, _refusal())
    clock.seconds += 600
    with pytest.raises(Throttled, match="in 6 minutes") as raised:
        refused.check("log-in", CLIENT)
    assert raised.value.details == ErrorDetails(retry_after_seconds=301)
    clock.seconds += 301
    refused.check("log-in", CLIENT)


def test_another_client_and_another_action_are_not_refused_with_it(refused: RefusedClients) -> None:
    refused.note("log-in", CLIENT, _refusal())
    refused.check("sign-up", CLIENT)
    refused.check("log-in", "192.0.2.2")


@pytest.mark.parametrize("error", [_refusal(is_client_limit=False), Throttled("Busy.", reason="busy")])
def test_refusals_that_do_not_concern_the_client_alone_are_not_remembered(
    refused: RefusedClients, error: Throttled
) -> None:
    """A limit on one account does not affect other accounts that log in from the same address."""
    refused.note("log-in", CLIENT, error)
    refused.check("log-in", CLIENT)


def test_an_unidentified_client_is_not_remembered_and_the_memory_is_bounded(
    refused: RefusedClients,
) -> None:
    refused.note("log-in", "", _refusal())
    refused.check("log-in", "")
    for number in range(10_001):
        refused.note("log-in", str(number), _refusal())
    assert len(refused._until) == 10_000
    refused.check("log-in", "0")
    with pytest.raises(Throttled):
        refused.check("log-in", "10000")
