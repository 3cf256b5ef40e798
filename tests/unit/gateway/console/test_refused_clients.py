"""A client that auth refused is refused at the gateway until its window is over."""

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


def test_a_refused_client_is_refused_until_its_window_is_over_and_told_how_long_that_is(
    refused: RefusedClients, clock: ManualClock
) -> None:
    refused.note("log-in", CLIENT, _refusal())
    clock.seconds += 600
    with pytest.raises(Throttled, match="in 6 minutes") as raised:
        refused.check("log-in", CLIENT)
    assert raised.value.details == ErrorDetails(retry_after_seconds=301)
    clock.seconds += 301
    refused.check("log-in", CLIENT)


def test_another_client_and_another_kind_of_try_are_not_refused_with_it(refused: RefusedClients) -> None:
    refused.note("log-in", CLIENT, _refusal())
    refused.check("sign-up", CLIENT)
    refused.check("log-in", "192.0.2.2")


@pytest.mark.parametrize("error", [_refusal(is_client_limit=False), Throttled("Busy.", reason="busy")])
def test_what_is_no_refusal_of_the_client_alone_is_not_remembered(refused: RefusedClients, error: Throttled) -> None:
    """Guesses at one account say nothing of the others that the address logs in to."""
    refused.note("log-in", CLIENT, error)
    refused.check("log-in", CLIENT)


def test_a_client_that_is_not_known_is_not_remembered_and_no_flood_of_clients_fills_the_memory(
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
