"""What is mailed to people, and who carries it."""

from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlencode

from services.common.errors import FailedPrecondition


@dataclass(frozen=True, slots=True)
class Letter:
    """A mail in plain text."""

    to: str
    subject: str
    text: str = field(repr=False)
    """It may hold a secret."""


class Post(Protocol):
    """Who carries letters."""

    def post(self, letter: Letter) -> None:
        """Take a letter and return at once, so that nobody can tell from the time whether there was one."""


class Letters:
    """Writes the letters; knows the pages of the console that they point to."""

    def __init__(self, post: Post | None, *, console_url: str) -> None:
        """Send through `post`; None means that mail is not configured."""
        self._post = post
        self._console_url = console_url.rstrip("/")

    @property
    def has_mail(self) -> bool:
        """Whether letters can be sent."""
        return self._post is not None

    def demand_mail(self) -> None:
        """Return when letters can be sent.

        Raises:
            FailedPrecondition: Mail is not configured.
        """
        if self._post is None:
            raise FailedPrecondition(
                "mail is not configured here (AUTH_SMTP_URL); ask the operator to reset your password",
                reason="mail_not_configured",
            )

    def url(self, page: str, token: str) -> str:
        """Return the address of a page that takes a token."""
        return f"{self._console_url}/{page}?{urlencode({'token': token})}"

    def verification(self, email: str, token: str) -> None:
        """Ask somebody who signed up to prove the e-mail."""
        self._send(
            email,
            "Confirm your e-mail address",
            "Somebody, we hope you, signed up with this e-mail address. To confirm it, open this page within two days:",
            self.url("verify", token),
            "If that was not you, do nothing: without this page the account cannot be used.",
        )

    def first_password(self, email: str, token: str) -> None:
        """Ask for proof of an e-mail that was signed up with more than once, and let its reader choose the password."""
        self._send(
            email,
            "Confirm your e-mail address and choose a password",
            "Somebody, we hope you, signed up with this e-mail address, and asked again. To confirm it and choose the "
            "password of your account, open this page within an hour:",
            self.url("reset", token),
            "If that was not you, do nothing: without this page the account cannot be used.",
        )

    def already_registered(self, email: str) -> None:
        """Tell the owner of an account that somebody signed up with its e-mail."""
        self._send(
            email,
            "You have an account already",
            "Somebody, we hope you, signed up with this e-mail address, which has an account. Log in here:",
            f"{self._console_url}/login",
            f"If you forgot your password, choose a new one at {self._console_url}/forgot . "
            "If it was not you, do nothing: your account is as it was.",
        )

    def failed_log_ins(self, email: str, count: int) -> None:
        """Tell the owner of an account that many wrong passwords were tried."""
        self._send(
            email,
            "Wrong passwords were tried on your account",
            f"Within a day, {count} wrong passwords were tried on this account. None of them opened it. Your account's "
            "audit log has more:",
            f"{self._console_url}/account",
            "If that was you, do nothing. If it was not, a long password that you use nowhere else keeps them out; "
            "browsers in which you logged in before can still log in.",
        )

    def password_reset(self, email: str, token: str) -> None:
        """Let somebody choose a new password."""
        self._send(
            email,
            "Choose a new password",
            "Somebody, we hope you, forgot the password of this account. To choose a new one, open this page within an "
            "hour:",
            self.url("reset", token),
            "If that was not you, do nothing: your password is as it was.",
        )

    def _send(self, to: str, subject: str, why: str, url: str, otherwise: str) -> None:
        if self._post is not None:
            self._post.post(Letter(to, subject, f"{why}\n\n{url}\n\n{otherwise}\n"))
