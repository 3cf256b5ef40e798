"""Credentials in URLs in the spellings that people use."""

from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.url_credentials import with_credentials, with_encoded_credentials

# `%` starts an escape sequence, and `?a=` after an `@` reads like the query of a host.
_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="%=", exclude_categories=["Cs", "Cc"]), max_size=20)


@pytest.mark.parametrize(
    ("url", "encoded"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:a/b#c@host:6379/0", "redis://:a%2Fb%23c@host:6379/0"),
        ("postgresql://ada:p@ss@host/auth", "postgresql://ada:p%40ss@host/auth"),
        (
            "postgresql://ada:p?x@host:5432/auth?sslmode=require",
            "postgresql://ada:p%3Fx@host:5432/auth?sslmode=require",
        ),
        ("postgresql://ada:a%2Fb@host/auth", "postgresql://ada:a%2Fb@host/auth"),
        ("postgresql://ada:100%@host/auth", "postgresql://ada:100%25@host/auth"),
        ("postgresql://ada@host/auth", "postgresql://ada@host/auth"),
        ("postgresql://host:5432/auth?application_name=a@b", "postgresql://host:5432/auth?application_name=a@b"),
        ("postgresql://ada:x@host/auth?application_name=a@b", "postgresql://ada:x@host/auth?application_name=a@b"),
        ("redis://:x@[::1]:6379/0", "redis://:x@[::1]:6379/0"),
        ("rediss://u:a:b@host", "rediss://u:a%3Ab@host"),
        ("unix:///run/a@b/valkey.sock", "unix:///run/a@b/valkey.sock"),
        ("sqlite:////srv/a@b/auth.db", "sqlite:////srv/a@b/auth.db"),
        ("postgresql://ada:p/x@one:5432,two:5432/auth", "postgresql://ada:p%2Fx@one:5432,two:5432/auth"),
        ("not a url", "not a url"),
    ],
)
def test_a_url_keeps_its_meaning_and_its_credentials_are_encoded(url: str, encoded: str) -> None:
    assert with_encoded_credentials(url) == encoded


@pytest.mark.parametrize(
    ("url", "user", "password", "changed"),
    [
        ("redis://host:6379/0", "", "", "redis://host:6379/0"),
        ("redis://host:6379/0", "", "a/b", "redis://:a%2Fb@host:6379/0"),
        ("redis://host:6379/0?health=a@b", "ada", "", "redis://ada@host:6379/0?health=a@b"),
        ("redis://bob:x@host:6379/0", "ada", "p@ss", "redis://ada:p%40ss@host:6379/0"),
        ("redis://bob:x@host:6379/0", "", "y", "redis://bob:y@host:6379/0"),
        ("redis://bob:x@y@host:6379/0", "ada", "", "redis://ada:x%40y@host:6379/0"),
        ("unix:///run/a@b.sock", "", "x", "unix://:x@/run/a@b.sock"),
    ],
)
def test_given_credentials_replace_those_of_the_url(url: str, user: str, password: str, changed: str) -> None:
    assert with_credentials(url, user=user, password=password) == changed


# A URL whose authority is empty has no credentials: `sqlite:////srv/a@b`.
_USERS = _TEXTS.filter(lambda text: ":" not in text and not text.startswith("/"))


@given(_USERS, _TEXTS.filter(bool))
def test_any_user_and_password_can_be_written_unencoded(user: str, password: str) -> None:
    parts = urlsplit(with_encoded_credentials(f"redis://{user}:{password}@host:6379/0"))
    assert (unquote(parts.username or ""), unquote(parts.password or "")) == (user, password)
    assert (parts.hostname, parts.port, parts.path) == ("host", 6379, "/0")


@given(_TEXTS.filter(bool))
def test_encoded_credentials_stay_encoded(password: str) -> None:
    url = f"redis://ada:{quote(password, safe='')}@host:6379/0"
    assert unquote(urlsplit(with_encoded_credentials(url)).password or "") == password
