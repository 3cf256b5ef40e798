"""Mail over SMTP, sent in the background and tried again while the server is away."""

import asyncio
import logging
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import make_msgid
from urllib.parse import unquote, urlsplit

import aiosmtplib

from services.auth.accounts import normalised_email
from services.auth.letters import Letter
from services.common.errors import InvalidRequest, StartError
from services.common.url_credentials import with_encoded_credentials

_log = logging.getLogger(__name__)
_WAITS_SECONDS = (0.0, 2.0, 10.0, 60.0)
_SEND_SECONDS_MAX = 20.0
_PENDING_MAX = 1_000


@dataclass(frozen=True, slots=True)
class SMTPServer:
    """Where mail is handed in."""

    host: str
    port: int
    is_tls: bool
    """TLS from the first byte (`smtps`); otherwise STARTTLS, demanded when there is a password to protect."""
    username: str | None
    password: str | None = field(repr=False)


def parse_smtp_url(url: str) -> SMTPServer:
    """Read `smtp://user:password@host:587` or `smtps://user:password@host:465`.

    Raises:
        StartError: The URL cannot be read.
    """
    try:
        parts = urlsplit(with_encoded_credentials(url))
        port = parts.port
    except ValueError as exc:
        raise _unreadable() from exc
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
        raise _unreadable()
    is_tls = parts.scheme == "smtps"
    return SMTPServer(
        host=parts.hostname,
        port=port or (465 if is_tls else 587),
        is_tls=is_tls,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
    )


class SMTPPost:
    """A `Post` that hands letters to an SMTP server."""

    def __init__(self, server: SMTPServer, *, sender: str) -> None:
        """Send as `sender`, an e-mail address.

        Raises:
            StartError: The sender is no e-mail address.
        """
        self._server = server
        self._sender = _checked_sender(sender)
        self._sending: set[asyncio.Task[None]] = set()

    def post(self, letter: Letter) -> None:
        """Send a letter in the background."""
        if len(self._sending) >= _PENDING_MAX:
            _log.error("a letter is dropped: too many wait for the mail server")
            return
        task = asyncio.get_running_loop().create_task(self._send_until_taken(letter))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def close(self, *, timeout_seconds: float = 2.0) -> None:
        """Let letters on their way arrive; who waits for the others asks for another."""
        if self._sending:
            _, late = await asyncio.wait(self._sending, timeout=timeout_seconds)
            for task in late:
                task.cancel()

    async def _send_until_taken(self, letter: Letter) -> None:
        for wait_seconds in _WAITS_SECONDS:
            await asyncio.sleep(wait_seconds)
            try:
                await self._send(letter)
            except (aiosmtplib.SMTPException, OSError) as exc:
                # Not the letter: it holds a secret, and an address.
                _log.warning("the mail server did not take a letter", extra={"error": type(exc).__name__})
                if isinstance(exc, aiosmtplib.SMTPNotSupported):
                    break  # It does not know addresses beyond ASCII, and will not learn them in a minute.
            else:
                return
        _log.error("a letter is given up; its receiver can ask for another")

    async def _send(self, letter: Letter) -> None:
        server = self._server
        await aiosmtplib.send(
            self._message(letter),
            # By name: read from the headers again, one text could become several addresses.
            sender=self._sender,
            recipients=[letter.to],
            hostname=server.host,
            port=server.port,
            username=server.username,
            password=server.password,
            use_tls=server.is_tls,
            start_tls=None if server.is_tls or not server.username else True,
            timeout=_SEND_SECONDS_MAX,
        )

    def _message(self, letter: Letter) -> EmailMessage:
        message = EmailMessage()
        message["From"] = self._sender
        message["To"] = letter.to
        message["Subject"] = letter.subject
        message["Message-ID"] = make_msgid(domain=self._sender.rpartition("@")[2] or None)
        # So that no holiday answer and no mailing list replies to it (RFC 3834).
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(letter.text)
        return message


def _checked_sender(sender: str) -> str:
    try:
        return normalised_email(sender)
    except InvalidRequest as exc:
        raise StartError("AUTH_MAIL_FROM is no e-mail address; write one such as stack@example.com, no name") from exc


def _unreadable() -> StartError:
    return StartError("AUTH_SMTP_URL cannot be read; write smtp://user:password@host:587 or smtps://…")
