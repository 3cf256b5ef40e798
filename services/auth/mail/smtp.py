"""Mail over SMTP: one connection for each e-mail, and what is wrong with it in words."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

import aiosmtplib

from services.auth.accounts.addresses import domain_of, needs_smtputf8, normalised_email
from services.auth.mail.mailer import Capabilities, Undelivered
from services.auth.mail.templates import Email
from services.common.errors import InvalidRequest, StartError
from services.common.url_credentials import with_encoded_credentials

_SECONDS_MAX = 20.0
_UNVERIFIED = "none"
_REMEDY = (
    "set AUTH_SMTP_CA_FILE to a PEM file of the authority that issued its certificate, or to `none` where no password "
    "is to be protected"
)


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


class SMTPTransport:
    """A `Transport` that hands e-mails to an SMTP server."""

    def __init__(self, server: SMTPServer, *, sender: str, ca_file: str = "") -> None:
        """Send as `sender`, an e-mail address.

        Args:
            server: Where to.
            sender: E-mail address that mails come from.
            ca_file: PEM file of the authorities that vouch for the server; empty trusts the system's, and `none` takes
                any certificate.

        Raises:
            StartError: The sender is no e-mail address, the file cannot be used, or a password would be unprotected.
        """
        self._server = server
        self._sender = _checked_sender(sender)
        self._verifies = ca_file != _UNVERIFIED
        self._context = _context(server, ca_file)

    @property
    def name(self) -> str:
        """The server as operators know it."""
        return f"{self._server.host}:{self._server.port}"

    async def check(self) -> Capabilities:
        """Connect as for an e-mail, and return what the server can do.

        Raises:
            Undelivered: No e-mail could be handed in.
        """
        async with self._connected() as client:
            return self._capabilities(client)

    async def send(self, email: Email, *, email_id: str, at: datetime) -> Capabilities:
        """Hand an e-mail in, and return what the server can do; raises as `check`."""
        async with self._connected() as client:
            capabilities = self._capabilities(client)
            if needs_smtputf8(email.to) and not capabilities.smtputf8:
                raise Undelivered("the mail server does not take addresses beyond ASCII (SMTPUTF8)", is_final=True)
            # By name: read from the headers again, one text could become several addresses.
            await client.send_message(self._message(email, email_id, at), sender=self._sender, recipients=[email.to])
            return capabilities

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[aiosmtplib.SMTP]:
        server = self._server
        client = aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            username=server.username,
            password=server.password,
            use_tls=server.is_tls,
            start_tls=None if server.is_tls or not server.username else True,
            tls_context=self._context,
            timeout=_SECONDS_MAX,
        )
        try:
            async with client:
                if client.is_ehlo_or_helo_needed:  # After STARTTLS; what was said before it is forgotten.
                    await client.ehlo()
                yield client
        except (aiosmtplib.SMTPException, OSError, ValueError) as exc:
            raise self._undelivered(exc) from exc

    def _capabilities(self, client: aiosmtplib.SMTP) -> Capabilities:
        is_encrypted = client.get_transport_info("sslcontext") is not None
        return Capabilities(
            server=self.name,
            is_encrypted=is_encrypted,
            is_verified=is_encrypted and self._verifies,
            is_authenticated=self._server.username is not None,
            smtputf8=client.supports_extension("smtputf8"),
        )

    def _undelivered(self, exc: Exception) -> Undelivered:
        """Return what went wrong in words. Never the e-mail: it holds a secret, and an address."""
        cause: BaseException | None = exc
        while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Undelivered(f"the certificate of {self.name} is not trusted ({cause.verify_message}); {_REMEDY}")
        if isinstance(exc, aiosmtplib.SMTPAuthenticationError):
            return Undelivered(f"{self.name} refuses the user name and password of AUTH_SMTP_URL ({exc.code})")
        if isinstance(exc, aiosmtplib.SMTPNotSupported):
            return Undelivered(f"{self.name} lacks what is needed: {exc}; it may need smtps:// in AUTH_SMTP_URL")
        if isinstance(exc, aiosmtplib.SMTPRecipientsRefused):
            codes = [refused.code for refused in exc.recipients]
            return Undelivered(
                f"{self.name} refuses the address ({codes})", is_final=all(code >= 500 for code in codes)
            )
        if isinstance(exc, aiosmtplib.SMTPResponseException):
            return Undelivered(f"{self.name} refuses it ({exc.code})", is_final=_is_of_the_email(exc))
        return Undelivered(f"{self.name} cannot be reached ({type(exc).__name__}); check AUTH_SMTP_URL")

    def _message(self, email: Email, email_id: str, at: datetime) -> EmailMessage:
        message = EmailMessage(policy=SMTPUTF8 if needs_smtputf8(email.to) else SMTP)
        message["From"] = self._sender
        message["To"] = email.to
        message["Subject"] = email.subject
        message["Date"] = format_datetime(at)
        # The same for every try, so that one that arrives twice is known as one.
        message["Message-ID"] = f"<{email_id}@{domain_of(self._sender)}>"
        # So that no holiday answer and no mailing list replies to it (RFC 3834).
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(email.text)
        return message


def _is_of_the_email(exc: aiosmtplib.SMTPResponseException) -> bool:
    """Whether a refusal is of this e-mail for good, and not of the connection or for now."""
    return exc.code >= 500 and isinstance(exc, aiosmtplib.SMTPDataError | aiosmtplib.SMTPRecipientRefused)


def _context(server: SMTPServer, ca_file: str) -> ssl.SSLContext:
    if ca_file == _UNVERIFIED:
        if server.password is not None:
            raise StartError(
                "AUTH_SMTP_CA_FILE=none would show the password of AUTH_SMTP_URL to anybody who answers in the mail "
                "server's place; name a PEM file of its authority"
            )
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        return ssl.create_default_context(cafile=str(Path(ca_file)) if ca_file else None)
    except (OSError, ssl.SSLError) as exc:
        raise StartError(f"AUTH_SMTP_CA_FILE={ca_file} cannot be used: {exc}; name a PEM file, or `none`") from exc


def _checked_sender(sender: str) -> str:
    try:
        address = normalised_email(sender)
    except InvalidRequest as exc:
        raise StartError("AUTH_MAIL_FROM is no e-mail address; write one such as stack@example.com, no name") from exc
    if needs_smtputf8(address):
        raise StartError("AUTH_MAIL_FROM has characters beyond ASCII before the @, which many mail servers do not take")
    return address


def _unreadable() -> StartError:
    return StartError("AUTH_SMTP_URL cannot be read; write smtp://user:password@host:587 or smtps://…")
