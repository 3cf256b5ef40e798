"""The mail server's URL."""

from pathlib import Path

import pytest

from services.auth.mail.smtp import SMTPServer, SMTPTransport, parse_smtp_url
from services.common.errors import StartError


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://mail.example.com", SMTPServer("mail.example.com", 587, False, None, None)),
        ("smtps://mail.example.com", SMTPServer("mail.example.com", 465, True, None, None)),
        ("smtp://ada:p%40ss%3Aword@[::1]:2525", SMTPServer("::1", 2525, False, "ada", "p@ss:word")),
    ],
)
def test_a_url_names_the_mail_server_and_its_credentials(url: str, server: SMTPServer) -> None:
    assert parse_smtp_url(url) == server


@pytest.mark.parametrize(
    "url", ["", "mail.example.com", "http://mail.example.com", "smtp://", "smtp://host:port", "smtp://[::1"]
)
def test_an_incomplete_url_stops_the_start_with_a_remedy(url: str) -> None:
    with pytest.raises(StartError, match="Set it to smtp://user:password@host:587"):
        parse_smtp_url(url)


@pytest.mark.parametrize("sender", ["", "stack", "Stack <stack@example.com>", "a@example.com\r\nBcc: b@example.com"])
def test_an_invalid_sender_address_stops_the_start_instead_of_the_first_email(sender: str) -> None:
    with pytest.raises(StartError, match="AUTH_MAIL_FROM is not an e-mail address"):
        SMTPTransport(parse_smtp_url("smtp://mail.example.com"), sender=sender)


def test_the_repr_does_not_contain_the_password() -> None:
    assert "secret" not in repr(parse_smtp_url("smtp://ada:secret@mail.example.com"))


def test_a_password_is_never_sent_to_a_server_with_an_unverified_certificate() -> None:
    with pytest.raises(StartError, match="Set it to a PEM file"):
        SMTPTransport(parse_smtp_url("smtp://ada:pw@mail.example.com"), sender="a@example.com", ca_file="none")


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_an_unreadable_ca_file_stops_the_start_with_a_remedy(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    with pytest.raises(StartError, match=r"AUTH_SMTP_CA_FILE=.* cannot be read"):
        SMTPTransport(
            parse_smtp_url("smtp://mail.example.com"), sender="a@example.com", ca_file=str(tmp_path / "ca.pem")
        )
