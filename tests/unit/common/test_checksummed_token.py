"""Tokens that contain their own checksum."""

import string

from hypothesis import given, settings
from hypothesis import strategies as st

from services.common import checksummed_token

ALPHABET = string.digits + string.ascii_letters
prefixes = st.sampled_from(["sk_stk_", "adm_", ""])


@settings(max_examples=60, deadline=None, database=None)
@given(prefix=prefixes, characters=st.integers(26, 200))
def test_every_generated_token_is_well_formed(prefix: str, characters: int) -> None:
    token = checksummed_token.mint(prefix, random_characters=characters)

    assert checksummed_token.is_well_formed(token, prefix)
    assert len(token) == len(prefix) + characters + 6


@settings(max_examples=200, deadline=None, database=None)
@given(position=st.integers(0, 46), typed=st.sampled_from(ALPHABET + " _é\0"))
def test_any_single_mistyped_character_is_detected(position: int, typed: str) -> None:
    token = checksummed_token.mint("sk_stk_")
    mistyped = token[:position] + typed + token[position + 1 :]

    assert checksummed_token.is_well_formed(mistyped, "sk_stk_") == (mistyped == token)


@settings(max_examples=100, deadline=None, database=None)
@given(position=st.integers(7, 45))
def test_two_swapped_neighbours_are_detected(position: int) -> None:
    token = checksummed_token.mint("sk_stk_")
    swapped = token[:position] + token[position + 1] + token[position] + token[position + 2 :]

    assert checksummed_token.is_well_formed(swapped, "sk_stk_") == (swapped == token)


@settings(max_examples=200, deadline=None, database=None)
@given(st.text(max_size=300))
def test_arbitrary_text_is_at_most_ill_formed(text: str) -> None:
    assert not checksummed_token.is_well_formed(text, "sk_stk_")
    assert not checksummed_token.is_well_formed("sk_stk_" + text, "sk_stk_")


def test_a_token_of_another_prefix_is_ill_formed() -> None:
    assert not checksummed_token.is_well_formed(checksummed_token.mint("adm_"), "sk_stk_")


def test_tokens_do_not_repeat() -> None:
    assert len({checksummed_token.mint("") for _ in range(1_000)}) == 1_000


def test_a_token_of_the_wrong_length_is_ill_formed_even_with_a_matching_checksum() -> None:
    for characters in (25, 251):
        assert not checksummed_token.is_well_formed(checksummed_token.mint("x_", random_characters=characters), "x_")
    assert checksummed_token.is_well_formed(checksummed_token.mint("x_", random_characters=250), "x_")
