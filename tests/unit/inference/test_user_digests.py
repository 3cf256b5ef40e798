"""Digests of users tell nothing about the name, and differ between accounts."""

import pytest

from services.inference.ledger.users import UserDigests

SECRET = "a-secret-of-the-digests"


def test_a_digest_depends_on_the_user_the_account_and_the_secret() -> None:
    digests = UserDigests(SECRET)
    first = digests.digest("acc_1", "ada@example.com")

    assert first == digests.digest("acc_1", "ada@example.com")
    assert first is not None
    assert len(first) == 32
    others = {
        digests.digest("acc_2", "ada@example.com"),
        digests.digest("acc_1", "bob@example.com"),
        UserDigests(SECRET + "2").digest("acc_1", "ada@example.com"),
    }
    assert len(others - {first}) == 3


@pytest.mark.parametrize("user", [None, "", 7, ["ada"], {"id": "ada"}, b"ada"])
def test_what_is_no_text_is_no_user(user: object) -> None:
    assert UserDigests(SECRET).digest("acc_1", user) is None


@pytest.mark.parametrize("user", ["a\0b", "\ud800", "ü" * 1_000_000])
def test_any_text_has_a_digest(user: str) -> None:
    assert UserDigests(SECRET).digest("acc_1", user)


def test_without_a_secret_no_user_is_recorded() -> None:
    assert UserDigests("").digest("acc_1", "ada") is None
