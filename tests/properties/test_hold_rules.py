"""The accounting rules keep their guarantees in every interleaving of small worlds, and the check can fail.

docs/accounting.md has the rules, and the table of the guarantees that break without them.
"""

import re
from pathlib import Path

import pytest

from tools.hold_machine import LARGE_WORLDS, WORLDS, Rule, explore, find_violation

ACCOUNTING = Path(__file__).parents[2] / "docs" / "accounting.md"
ROW = re.compile(r"^\| `([a-z-]+)` \| ([^|]+) \| (\d+) \| ([a-z-]+) \|$", re.MULTILINE)
TABLE = {rule: (guarantee, int(steps), world) for rule, guarantee, steps, world in ROW.findall(ACCOUNTING.read_text())}


@pytest.mark.parametrize(
    "name", [*(name for name in WORLDS if name != "losses"), pytest.param("losses", marks=pytest.mark.long)]
)
def test_every_interleaving_keeps_the_guarantees(name: str) -> None:
    states, broken, path = explore(WORLDS[name])

    assert (broken, path) == ("", [])
    assert states > 4_000


# `python -m tools.hold_machine --world losses-of-three` explores the largest one. It takes minutes and gigabytes.
@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in LARGE_WORLDS if name != "losses-of-three"])
def test_every_interleaving_of_a_large_world_keeps_the_guarantees(name: str) -> None:
    states, broken, path = explore(LARGE_WORLDS[name])

    assert (broken, path) == ("", [])
    assert states > 20_000


@pytest.mark.parametrize("rule", list(Rule))
def test_without_a_rule_the_documented_guarantee_is_broken(rule: Rule) -> None:
    guarantee, steps, world = TABLE[rule]

    _, broken, path = explore(WORLDS[world], without=rule)

    assert (broken, len(path)) == (guarantee, steps)


def test_the_document_has_a_row_for_each_rule() -> None:
    assert list(TABLE) == list(Rule)


@pytest.mark.long
@pytest.mark.parametrize("rule", list(Rule))
def test_the_documented_world_is_the_first_that_finds_the_violation(rule: Rule) -> None:
    world, _ = find_violation(rule)

    assert world == TABLE[rule][2]
