"""Passwords: what is accepted, what is kept, and that a crowd is told to wait."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher

from services.auth.accounts.passwords import Passwords
from services.common.errors import InvalidRequest, Throttled


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords(places=3)
    yield made
    made.close()


async def test_a_password_matches_its_hash_alone_and_no_two_hashes_are_alike(passwords: Passwords) -> None:
    first, second = await passwords.hash("correct horse", client=""), await passwords.hash("correct horse", client="")

    assert first.startswith("$argon2id$")
    assert first != second
    assert await passwords.matches("correct horse", first, client="")
    assert not await passwords.matches("correct hors", first, client="")
    assert not await passwords.matches("correct horse", None, client=""), "somebody unknown would get in"
    assert not await passwords.matches("", None, client="")


async def test_an_overlong_guess_costs_what_any_other_does_and_never_matches(passwords: Passwords) -> None:
    assert not await passwords.matches("a" * 10_000_000, await passwords.hash("a" * 256, client=""), client="")


@pytest.mark.parametrize("password", ["", "ninechars", "a" * 257])
async def test_a_password_that_is_too_short_or_too_long_is_refused(passwords: Passwords, password: str) -> None:
    with pytest.raises(InvalidRequest, match="10 to 256 characters"):
        await passwords.hash(password, client="")


async def test_a_crowd_beyond_the_queue_is_told_to_try_again_and_two_threads_do_the_work(passwords: Passwords) -> None:
    answers = await asyncio.gather(
        *(passwords.hash("correct horse", client="") for _ in range(8)), return_exceptions=True
    )

    assert [isinstance(answer, str) for answer in answers] == [True] * 3 + [False] * 5
    assert all(isinstance(answer, Throttled) for answer in answers[3:])
    assert sum(thread.name.startswith("argon2") for thread in threading.enumerate()) <= 2
    assert await passwords.hash("correct horse", client=""), "who comes when the crowd is gone is let in"


async def test_one_client_takes_a_quarter_of_the_places_and_another_comes_in_beside_it() -> None:
    passwords = Passwords(places=8)
    try:
        crowd = [passwords.hash("correct horse", client="192.0.2.1") for _ in range(8)]
        other = passwords.hash("correct horse", client="192.0.2.2")
        answers = await asyncio.gather(*crowd, other, return_exceptions=True)
    finally:
        passwords.close()
    assert [isinstance(answer, str) for answer in answers] == [True] * 2 + [False] * 6 + [True]


async def test_the_event_loop_goes_on_while_passwords_are_hashed(passwords: Passwords) -> None:
    """Otherwise each log-in would stop every key look-up for as long as a hash takes."""
    hashed = await passwords.hash("correct horse", client="")
    works = [
        asyncio.ensure_future(work)
        for work in (passwords.hash("a long one", client=""), passwords.matches("no", hashed, client=""))
    ]
    for _ in range(3):
        await asyncio.sleep(0)  # A task that does the work itself has ended after the first of these.

    assert not any(work.done() for work in works)
    assert [type(answer) for answer in await asyncio.gather(*works)] == [str, bool]


@pytest.mark.parametrize(
    ("typed", "again"), [("caf\u00e9 au lait", "cafe\u0301 au lait"), ("नमस्ते दुनिया", "नमस्ते दुनिया")]
)
async def test_a_password_is_the_same_however_its_characters_are_composed(
    passwords: Passwords, typed: str, again: str
) -> None:
    for one, other in ((typed, again), (again, typed)):
        assert await passwords.matches(other, await passwords.hash(one, client=""), client="")


async def test_a_password_is_counted_in_composed_characters(passwords: Passwords) -> None:
    decomposed = "e\u0301" * 9
    with pytest.raises(InvalidRequest, match="10 to 256"):
        await passwords.hash(decomposed, client="")
    await passwords.hash("e\u0301" * 256, client="")


async def test_a_password_that_an_earlier_version_hashed_as_it_was_typed_still_opens(passwords: Passwords) -> None:
    hashed = PasswordHasher().hash("cafe\u0301 au lait")
    assert await passwords.matches("cafe\u0301 au lait", hashed, client="")


async def test_text_that_is_no_hash_matches_nothing(passwords: Passwords) -> None:
    assert not await passwords.matches("correct horse", "not a hash", client="")
