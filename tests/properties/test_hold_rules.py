"""The accounting rules keep their guarantees in every interleaving of two requests, and the check can fail."""

import pytest

from tools.hold_machine import Rule, explore


def test_every_interleaving_keeps_the_guarantees() -> None:
    states, broken, path = explore(2)

    assert (broken, path) == ("", [])
    assert states > 100_000


@pytest.mark.parametrize("rule", list(Rule))
def test_without_a_rule_a_guarantee_is_broken(rule: Rule) -> None:
    _, broken, path = explore(2, without=rule)

    assert broken
    assert path
