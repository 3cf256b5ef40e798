"""E-mail addresses: one form in which they are kept, and what is none."""

from datetime import UTC, datetime
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.auth.accounts import normalised_email, open_account
from services.common.errors import InvalidRequest


@pytest.mark.parametrize("written", ["Ada@Example.COM", " ada@example.com\n"])
def test_an_address_is_compared_without_regard_to_case_and_space(written: str) -> None:
    assert normalised_email(written) == "ada@example.com"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ada",
        "@example.com",
        "ada@",
        "ada@example",
        "ada@example.",
        "ada@.com",
        "a@b@c.com",
        "a da@example.com",
        "ada\0@example.com",
        "x" * 65 + "@example.com",
        "ada@" + "x" * 250 + ".com",
        "ada@" + "x." * 500_000 + "com",
        ".ada@example.com",
        "a..b@example.com",
        "ada@-example.com",
        "ada@example_.com",
    ],
)
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidRequest, match="such as ada@example"):
        normalised_email(text)


@pytest.mark.parametrize(
    "text",
    [
        "1,ada@example.com",
        "1;ada@example.com",
        "x<ada@example.com",
        "x<ada@example.com>",
        "<ada@example.com>",
        "group:ada@example.com",
        "(1)ada@example.com",
        '"1"ada@example.com',
        "ada@example.com,x.y",
        "ada@example.com;x.y",
        "ada@example.com>x.y",
        "1\\ada@example.com",
        "ada@[192.0.2.1]",
    ],
)
def test_no_text_is_an_account_of_its_own_and_a_letter_to_somebody_else(text: str) -> None:
    """Otherwise a stranger fills a mailbox with letters, five an hour to each of as many spellings as it takes."""
    with pytest.raises(InvalidRequest):
        normalised_email(text)


@pytest.mark.parametrize(
    "email",
    ["ada+tag@example.com", "o'hara@example.co.uk", "a.b-c_d@x1-y.example", "жанна@пример.рф", "1@2.example"],
)
def test_an_address_that_people_have_is_taken(email: str) -> None:
    assert normalised_email(email) == email
    message = EmailMessage()
    message["To"] = email
    assert [address.addr_spec for address in message["To"].addresses] == [email]


@given(st.emails(domains=st.just("example.com")))
def test_an_address_once_normalised_stays_as_it_is(email: str) -> None:
    try:
        once = normalised_email(email)
    except InvalidRequest:
        return
    assert normalised_email(once) == once


def test_a_new_account_is_on_the_free_plan() -> None:
    account = open_account("Ada@example.com", now=datetime(2026, 8, 1, tzinfo=UTC))

    assert account.id.startswith("acc_")
    assert (account.email, account.plan) == ("ada@example.com", "free")
