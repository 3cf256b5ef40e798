"""A request too large for a key's remaining tokens of the minute does not block the key for smaller ones."""

from services.inference.groq.errors import TokenShortfall
from services.inference.key_pool.token_limits import TokenLimits

NOW = 1_000.0
LARGE = TokenShortfall(left=5_000, requested=5_900)


def refused(limits: TokenLimits, account: str, tokens: int, *, shortfall: TokenShortfall = LARGE) -> None:
    """Record the refusal of a request that may be retried in 20 seconds."""
    limits.record_refusal(account, tokens, seconds=20, now=NOW)
    limits.record(shortfall, seconds=20, now=NOW)


def test_requests_that_fit_into_the_remaining_tokens_do_not_wait() -> None:
    limits = TokenLimits()
    refused(limits, "large", 5_900)

    assert limits.seconds_until_allowed("small", 5_000, NOW) == 0
    assert limits.seconds_until_allowed("small", 5_900, NOW) == 20
    assert not limits.is_idle(NOW)


def test_a_request_waits_until_its_tokens_are_replenished_and_at_most_as_long_as_the_refused_one() -> None:
    limits = TokenLimits()
    refused(limits, "large", 5_900)

    assert limits.seconds_until_allowed("other", 5_450, NOW) == 10
    assert limits.seconds_until_allowed("other", 9_000, NOW) == 20
    assert limits.seconds_until_allowed("other", 9_000, NOW + 20) == 0
    assert limits.is_idle(NOW + 20)


def test_a_key_with_no_tokens_left_is_blocked_for_every_size() -> None:
    limits = TokenLimits()
    refused(limits, "a", 12, shortfall=TokenShortfall(left=0, requested=12))

    assert limits.seconds_until_allowed("b", 1, NOW) > 0
    assert limits.seconds_until_allowed("b", 12, NOW) == 20


def test_an_account_with_underestimated_requests_causes_only_a_few_refusals() -> None:
    """An image is a hundred bytes and thousands of tokens."""
    limits, refusals = TokenLimits(), 0
    for tokens in range(100, 0, -1):
        if not limits.seconds_until_allowed("images", tokens, NOW):
            refused(limits, "images", tokens)
            refusals += 1

    assert 1 < refusals <= 7
    assert limits.seconds_until_allowed("other", 100, NOW) == 0


def test_smaller_requests_of_the_same_account_continue() -> None:
    limits = TokenLimits()
    refused(limits, "a", 5_900)

    assert limits.seconds_until_allowed("a", 1_000, NOW) == 0
    assert limits.seconds_until_allowed("a", 3_000, NOW) == 20


def test_refusals_of_requests_that_were_in_flight_together_count_once() -> None:
    limits = TokenLimits()
    for _ in range(12):
        refused(limits, "a", 5_900)

    assert limits.seconds_until_allowed("a", 1_000, NOW) == 0
    assert limits.seconds_until_allowed("a", 3_000, NOW) == 20


def test_the_memory_for_accounts_is_bounded() -> None:
    limits = TokenLimits()
    for number in range(5_000):
        refused(limits, f"acc_{number}", 10)

    assert len(limits._accounts) <= 1_000
