"""SMTP transport: one connection per e-mail, with readable errors."""

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

from services.auth.accounts.addresses import domain_of, needs_smtputf8, normalized_email
from services.auth.mail.mailer import Capabilities, DeliveryFailed
from services.auth.mail.templates import Email
from services.common.errors import InvalidRequest, StartError
from services.common.url_credentials import with_encoded_credentials

_TIMEOUT_SECONDS = 20.0
_UNVERIFIED = "none"
_REMEDY = (
    "set AUTH_SMTP_CA_FILE to a PEM file of the CA that issued the certificate, or to `none` if AUTH_SMTP_URL has no "
    "password"
)


@dataclass(frozen=True, slots=True)
class SMTPServer:
    """Address and credentials of a mail server."""

    host: str
    port: int
    is_tls: bool
    """Whether to use implicit TLS (`smtps`). Otherwise STARTTLS is used, and required if there is a username."""
    username: str | None
    password: str | None = field(repr=False)


def parse_smtp_url(url: str) -> SMTPServer:
    """Parse `smtp://user:password@host:587` or `smtps://user:password@host:465`.

    The port defaults to 587 for `smtp` and 465 for `smtps`.

    Raises:
        StartError: The URL is invalid.
    """
    try:
        parts = urlsplit(with_encoded_credentials(url))
        port = parts.port
    except ValueError as exc:
        raise _invalid_url() from exc
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
        raise _invalid_url()
    is_tls = parts.scheme == "smtps"
    return SMTPServer(
        host=parts.hostname,
        port=port or (465 if is_tls else 587),
        is_tls=is_tls,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
    )


class SMTPTransport:
    """A `Transport` that sends e-mails to an SMTP server."""

    def __init__(self, server: SMTPServer, *, sender: str, ca_file: str = "") -> None:
        """Initialize the transport without connecting.

        Args:
            server: The mail server.
            sender: Sender address of e-mails.
            ca_file: PEM file of the CA certificates for the server; empty uses the system's, and `none` disables
                verification.

        Raises:
            StartError: The sender is no e-mail address, the file cannot be used, or a password would be unprotected.
        """
        self._server = server
        self._sender = _checked_sender(sender)
        self._verifies = ca_file != _UNVERIFIED
        self._context = _context(server, ca_file)

    @property
    def name(self) -> str:
        """Host and port of the server."""
        return f"{self._server.host}:{self._server.port}"

    async def check(self) -> Capabilities:
        """Connect the same way as for sending, and return the server's capabilities.

        Raises:
            Undelivered: The connection or the log-in failed.
        """
        async with self._connected() as client:
            return self._capabilities(client)

    async def send(self, email: Email, *, email_id: str, at: datetime) -> Capabilities:
        """Send an e-mail, and return the server's capabilities.

        Raises:
            Undelivered: The connection or the log-in failed, or the server rejected the e-mail.
        """
        async with self._connected() as client:
            capabilities = self._capabilities(client)
            if needs_smtputf8(email.to) and not capabilities.smtputf8:
                raise DeliveryFailed("the mail server does not support non-ASCII addresses (SMTPUTF8)", is_final=True)
            # Explicit recipients: parsed from the headers, one value could become several addresses.
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
            timeout=_TIMEOUT_SECONDS,
        )
        try:
            async with client:
                if client.is_ehlo_or_helo_needed:  # STARTTLS resets the session (RFC 3207).
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

    def _undelivered(self, exc: Exception) -> DeliveryFailed:
        """Describe a failure. The text never contains the e-mail, which has a secret and an address."""
        cause: BaseException | None = exc
        while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, ssl.SSLCertVerificationError):
            return DeliveryFailed(f"the certificate of {self.name} is not trusted ({cause.verify_message}); {_REMEDY}")
        if isinstance(exc, aiosmtplib.SMTPAuthenticationError):
            return DeliveryFailed(f"{self.name} rejected the user name and password of AUTH_SMTP_URL ({exc.code})")
        if isinstance(exc, aiosmtplib.SMTPNotSupported):
            return DeliveryFailed(f"{self.name} lacks a required feature: {exc}; try smtps:// in AUTH_SMTP_URL")
        if isinstance(exc, aiosmtplib.SMTPRecipientsRefused):
            codes = [refused.code for refused in exc.recipients]
            return DeliveryFailed(
                f"{self.name} rejected the address ({codes})", is_final=all(code >= 500 for code in codes)
            )
        if isinstance(exc, aiosmtplib.SMTPResponseException):
            return DeliveryFailed(
                f"{self.name} rejected the e-mail ({exc.code})", is_final=_is_permanent_rejection(exc)
            )
        return DeliveryFailed(f"{self.name} cannot be reached ({type(exc).__name__}); check AUTH_SMTP_URL")

    def _message(self, email: Email, email_id: str, at: datetime) -> EmailMessage:
        message = EmailMessage(policy=SMTPUTF8 if needs_smtputf8(email.to) else SMTP)
        message["From"] = self._sender
        message["To"] = email.to
        message["Subject"] = email.subject
        message["Date"] = format_datetime(at)
        # The same for every attempt, so that clients can recognize duplicates.
        message["Message-ID"] = f"<{email_id}@{domain_of(self._sender)}>"
        # Prevents automatic replies (RFC 3834).
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(email.text)
        return message


def _is_permanent_rejection(exc: aiosmtplib.SMTPResponseException) -> bool:
    """Return whether a rejection is permanent and concerns the e-mail, not the connection."""
    return exc.code >= 500 and isinstance(exc, aiosmtplib.SMTPDataError | aiosmtplib.SMTPRecipientRefused)


def _context(server: SMTPServer, ca_file: str) -> ssl.SSLContext:
    if ca_file == _UNVERIFIED:
        if server.password is not None:
            raise StartError(
                "AUTH_SMTP_CA_FILE=none cannot be combined with a password in AUTH_SMTP_URL, because anyone who "
                "impersonates the mail server would get the password. Set it to a PEM file of the server's CA."
            )
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        return ssl.create_default_context(cafile=str(Path(ca_file)) if ca_file else None)
    except (OSError, ssl.SSLError) as exc:
        raise StartError(
            f"AUTH_SMTP_CA_FILE={ca_file} cannot be read: {exc}. Set it to a PEM file, or to `none`."
        ) from exc


def _checked_sender(sender: str) -> str:
    try:
        address = normalized_email(sender)
    except InvalidRequest as exc:
        raise StartError(
            "AUTH_MAIL_FROM is not an e-mail address. Set it to one such as stack@example.com, without a display name."
        ) from exc
    if needs_smtputf8(address):
        raise StartError(
            "AUTH_MAIL_FROM has non-ASCII characters before the @, which many mail servers do not support. Set it to "
            "an ASCII address."
        )
    return address


def _invalid_url() -> StartError:
    return StartError("AUTH_SMTP_URL is not a valid URL. Set it to smtp://user:password@host:587 or smtps://….")
