"""Passwords: what is accepted, what is stored, and how overload is refused."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import VerifyMismatchError

from services.auth.accounts.passwords import Passwords, random_hash
from services.common.errors import InvalidRequest, Throttled


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords(calls_max=3)
    yield made
    made.close()


async def test_a_password_matches_only_its_own_hash_and_hashes_are_salted(passwords: Passwords) -> None:
    first, second = await passwords.hash("correct horse", client=""), await passwords.hash("correct horse", client="")

    assert first.startswith("$argon2id$")
    assert first != second
    assert await passwords.matches("correct horse", first, client="")
    assert not await passwords.matches("correct hors", first, client="")
    assert not await passwords.matches("correct horse", None, client=""), "an unknown user would be logged in"
    assert not await passwords.matches("", None, client="")


async def test_checking_the_password_of_an_unknown_user_takes_a_whole_hash_as_for_a_known_one(
    passwords: Passwords,
) -> None:
    known = await passwords.hash("correct horse", client="")
    assert extract_parameters(random_hash()) == extract_parameters(known)
    with pytest.raises(VerifyMismatchError):  # Not `InvalidHashError`, which is raised at once.
        PasswordHasher().verify(random_hash(), "correct horse")


async def test_an_overlong_password_costs_as_much_as_any_other_and_never_matches(passwords: Passwords) -> None:
    assert not await passwords.matches("a" * 10_000_000, await passwords.hash("a" * 256, client=""), client="")


@pytest.mark.parametrize("password", ["", "ninechars", "a" * 257])
async def test_a_password_that_is_too_short_or_too_long_is_refused(passwords: Passwords, password: str) -> None:
    with pytest.raises(InvalidRequest, match="10 to 256 characters"):
        await passwords.hash(password, client="")


async def test_requests_beyond_the_queue_are_told_to_retry_and_two_threads_hash(passwords: Passwords) -> None:
    answers = await asyncio.gather(
        *(passwords.hash("correct horse", client="") for _ in range(8)), return_exceptions=True
    )

    assert [isinstance(answer, str) for answer in answers] == [True] * 3 + [False] * 5
    assert all(isinstance(answer, Throttled) for answer in answers[3:])
    assert sum(thread.name.startswith("argon2") for thread in threading.enumerate()) <= 2
    assert await passwords.hash("correct horse", client=""), "requests after the overload are accepted"


async def test_one_client_takes_at_most_a_quarter_of_the_slots_and_others_are_served() -> None:
    passwords = Passwords(calls_max=8)
    try:
        queued = [passwords.hash("correct horse", client="192.0.2.1") for _ in range(8)]
        other = passwords.hash("correct horse", client="192.0.2.2")
        answers = await asyncio.gather(*queued, other, return_exceptions=True)
    finally:
        passwords.close()
    assert [isinstance(answer, str) for answer in answers] == [True] * 2 + [False] * 6 + [True]


async def test_the_event_loop_is_not_blocked_by_hashing(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise each log-in would block all key look-ups for the duration of a hash."""
    threads: list[str] = []
    for name in ("hash", "verify"):
        _record_threads(monkeypatch, name, threads)

    hashed = await passwords.hash("correct horse", client="")

    assert await passwords.matches("correct horse", hashed, client="")
    assert [name.partition("_")[0] for name in threads] == ["argon2", "argon2"]


def _record_threads(monkeypatch: pytest.MonkeyPatch, name: str, threads: list[str]) -> None:
    """Append the name of the thread to `threads` at each call of a method of argon2's hasher."""
    method = getattr(PasswordHasher, name)

    def recording(*args: Any, **kwargs: Any) -> Any:
        threads.append(threading.current_thread().name)
        return method(*args, **kwargs)

    monkeypatch.setattr(PasswordHasher, name, recording)


@pytest.mark.parametrize(
    ("typed", "again"), [("caf\u00e9 au lait", "cafe\u0301 au lait"), ("नमस्ते दुनिया", "नमस्ते दुनिया")]
)
async def test_composed_and_decomposed_characters_are_the_same_password(
    passwords: Passwords, typed: str, again: str
) -> None:
    for one, other in ((typed, again), (again, typed)):
        assert await passwords.matches(other, await passwords.hash(one, client=""), client="")


async def test_password_length_is_counted_in_composed_characters(passwords: Passwords) -> None:
    decomposed = "e\u0301" * 9
    with pytest.raises(InvalidRequest, match="10 to 256"):
        await passwords.hash(decomposed, client="")
    await passwords.hash("e\u0301" * 256, client="")


async def test_a_password_hashed_without_normalisation_by_an_earlier_version_still_works(passwords: Passwords) -> None:
    hashed = PasswordHasher().hash("cafe\u0301 au lait")
    assert await passwords.matches("cafe\u0301 au lait", hashed, client="")


async def test_an_invalid_hash_matches_nothing(passwords: Passwords) -> None:
    assert not await passwords.matches("correct horse", "not a hash", client="")
