"""Wildcard patterns."""

import time

import pytest

from services.common.wildcards import permits


@pytest.mark.parametrize(
    ("patterns", "name", "is_permitted"),
    [
        ([], "anything", True),
        (["llama"], "llama", True),
        (["llama"], "llama-3", False),
        (["llama"], "a-llama", False),
        (["llama*"], "llama", True),
        (["llama*"], "llama-3", True),
        (["*llama"], "a-llama", True),
        (["*"], "", True),
        (["openai/*", "x"], "openai/gpt", True),
        (["openai/*", "x"], "x", True),
        (["openai/*", "x"], "openai", False),
        (["a*b*c"], "a-b-c", True),
        (["a*b*c"], "abc", True),
        (["a*b*c"], "acb", False),
        (["ab*ba"], "aba", False),
        (["a*a"], "a", False),
        (["a**b"], "ab", True),
        (["[a-z]?."], "b?.", False),
        (["[a-z]?."], "[a-z]?.", True),
    ],
)
def test_a_star_matches_anything_and_no_other_character_is_special(
    patterns: list[str], name: str, is_permitted: bool
) -> None:
    assert permits(patterns, name) is is_permitted


def test_a_pattern_of_many_stars_is_matched_quickly() -> None:
    """A backtracking regular expression would never finish."""
    started = time.perf_counter()
    assert not permits(["a*" * 100 + "b"], "a" * 1_000_000)
    assert time.perf_counter() - started < 1


def test_patterns_that_were_never_seen_before_cost_no_time() -> None:
    """`fnmatch` compiles a regular expression for each, 1 to 3 ms of the event loop, and keeps 32,768 of them."""
    patterns = ["*".join(f"{number:03}" for number in range(first, first + 60)) for first in range(2_000)]
    started = time.perf_counter()
    assert not permits(patterns, "llama-3.3-70b-versatile")
    assert time.perf_counter() - started < 0.5


def test_a_model_with_two_names_may_be_requested_by_either() -> None:
    assert permits(["new"], "alias", "new")
    assert permits(["alias"], "alias", "new")
    assert not permits(["other"], "alias", "new")
