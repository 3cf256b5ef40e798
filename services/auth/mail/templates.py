"""Templates of e-mails to users."""

from dataclasses import dataclass, field
from urllib.parse import urlencode


@dataclass(frozen=True, slots=True)
class Email:
    """An e-mail in plain text."""

    to: str
    subject: str
    text: str = field(repr=False)
    """May contain a secret."""


class EmailTemplates:
    """Renders e-mails with links to the console."""

    def __init__(self, console_url: str) -> None:
        """Link to the console at `console_url`."""
        self._console_url = console_url.rstrip("/")

    def url(self, page: str, token: str) -> str:
        """Return the URL of a console page with a token as its query parameter."""
        return f"{self._console_url}/{page}?{urlencode({'token': token})}"

    def verification(self, to: str, token: str) -> Email:
        """Return the verification e-mail of a sign-up."""
        return _email(
            to,
            "Confirm your e-mail address",
            "An account was created with this e-mail address. To confirm the address, open this link within two days:",
            self.url("verify", token),
            "If you did not sign up, ignore this e-mail. The account cannot be used until the address is confirmed.",
        )

    def first_password(self, to: str, token: str) -> Email:
        """Return the verification e-mail of a repeated sign-up or request, with a link to choose the password."""
        return _email(
            to,
            "Confirm your e-mail address and choose a password",
            "An account was created with this e-mail address, and another confirmation was requested. To confirm the "
            "address and choose the password of your account, open this link within an hour:",
            self.url("reset", token),
            "If you did not sign up, ignore this e-mail. The account cannot be used until the address is confirmed.",
        )

    def already_registered(self, to: str) -> Email:
        """Return the e-mail to an account owner after a sign-up with the same address."""
        return _email(
            to,
            "You already have an account",
            "This e-mail address was used to sign up, but it already has an account. Log in here:",
            f"{self._console_url}/login",
            f"If you forgot your password, choose a new one at {self._console_url}/forgot . "
            "If you did not sign up, ignore this e-mail. Your account has not changed.",
        )

    def password_reset(self, to: str, token: str) -> Email:
        """Return the e-mail with a link to choose a new password."""
        return _email(
            to,
            "Choose a new password",
            "A new password was requested for your account. To choose one, open this link within an hour:",
            self.url("reset", token),
            "If you did not request this, ignore this e-mail. Your password has not changed.",
        )

    def failed_log_ins(self, to: str) -> Email:
        """Return the warning to an account owner about many failed log-ins."""
        return _email(
            to,
            "Failed log-in attempts on your account",
            "There were many failed log-in attempts on your account within a day. None of them succeeded. See your "
            "account page for details:",
            f"{self._console_url}/account",
            "If this was you, you can ignore this e-mail. If not, make sure that your password is long and not used "
            "anywhere else. You can still log in from browsers that you have used before.",
        )

    def alert(self, to: str, subject: str, text: str) -> Email:
        """Return the e-mail of an alert."""
        return _email(
            to,
            subject,
            f"{text} See your keys and limits:",
            f"{self._console_url}/keys",
            f"To choose which alerts you get, open {self._console_url}/account#alerts .",
        )

    def test(self, to: str) -> Email:
        """Return the e-mail of `stackctl mail test`."""
        return _email(
            to,
            "Mail server test",
            "An operator sent this e-mail with `stackctl mail test`. E-mails from this console can reach you:",
            self._console_url,
            "No action is needed.",
        )


def _email(to: str, subject: str, introduction: str, url: str, closing: str) -> Email:
    return Email(to, subject, f"{introduction}\n\n{url}\n\n{closing}\n")
