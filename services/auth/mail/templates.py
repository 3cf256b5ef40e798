"""E-mails to people: what they say."""

from dataclasses import dataclass, field
from urllib.parse import urlencode


@dataclass(frozen=True, slots=True)
class Email:
    """An e-mail in plain text."""

    to: str
    subject: str
    text: str = field(repr=False)
    """It may hold a secret."""


class EmailTemplates:
    """Writes e-mails; knows the pages of the console that they point to."""

    def __init__(self, console_url: str) -> None:
        """Point to the console at `console_url`."""
        self._console_url = console_url.rstrip("/")

    def url(self, page: str, token: str) -> str:
        """Return the address of a page that takes a token."""
        return f"{self._console_url}/{page}?{urlencode({'token': token})}"

    def verification(self, to: str, token: str) -> Email:
        """Ask somebody who signed up to prove the e-mail."""
        return _email(
            to,
            "Confirm your e-mail address",
            "Somebody, we hope you, signed up with this e-mail address. To confirm it, open this page within two days:",
            self.url("verify", token),
            "If that was not you, do nothing: without this page the account cannot be used.",
        )

    def first_password(self, to: str, token: str) -> Email:
        """Ask for proof of an e-mail that was signed up with more than once, and let its reader choose the password."""
        return _email(
            to,
            "Confirm your e-mail address and choose a password",
            "Somebody, we hope you, signed up with this e-mail address, and asked again. To confirm it and choose the "
            "password of your account, open this page within an hour:",
            self.url("reset", token),
            "If that was not you, do nothing: without this page the account cannot be used.",
        )

    def already_registered(self, to: str) -> Email:
        """Tell the owner of an account that somebody signed up with its e-mail."""
        return _email(
            to,
            "You have an account already",
            "Somebody, we hope you, signed up with this e-mail address, which has an account. Log in here:",
            f"{self._console_url}/login",
            f"If you forgot your password, choose a new one at {self._console_url}/forgot . "
            "If it was not you, do nothing: your account is as it was.",
        )

    def password_reset(self, to: str, token: str) -> Email:
        """Let somebody choose a new password."""
        return _email(
            to,
            "Choose a new password",
            "Somebody, we hope you, forgot the password of this account. To choose a new one, open this page within an "
            "hour:",
            self.url("reset", token),
            "If that was not you, do nothing: your password is as it was.",
        )

    def failed_log_ins(self, to: str) -> Email:
        """Tell the owner of an account that many wrong passwords were tried."""
        return _email(
            to,
            "Wrong passwords were tried on your account",
            "Within a day, many wrong passwords were tried on this account. None of them opened it. Your account's "
            "page has more:",
            f"{self._console_url}/account",
            "If that was you, do nothing. If it was not, a long password that you use nowhere else keeps them out; "
            "browsers in which you logged in before can still log in.",
        )

    def test(self, to: str) -> Email:
        """Show an operator that mail arrives."""
        return _email(
            to,
            "Test of the mail server",
            "An operator sent this e-mail with `stackctl mail test`. Mail from this console arrives:",
            self._console_url,
            "There is nothing to do.",
        )


def _email(to: str, subject: str, why: str, url: str, otherwise: str) -> Email:
    return Email(to, subject, f"{why}\n\n{url}\n\n{otherwise}\n")
