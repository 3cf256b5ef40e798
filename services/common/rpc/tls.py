"""Mutual TLS between the services, with certificates that can be renewed while a process runs.

cert-manager or an operator renews the files. They are checked for changes, at most once per second, when a connection
is accepted or a call is made. New files are used only if key and certificate match. While the files are being replaced,
the service keeps its current credentials and logs one warning.
"""

import logging
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from services.common.errors import StartError

_DOMAIN = "stack.internal"
_CHECK_SECONDS = 1.0

_log = logging.getLogger(__name__)
_Stamp = tuple[tuple[int, int, int], ...]


def identity(name: str) -> str:
    """Return the DNS name in the certificate of a service, which does not depend on its address."""
    return f"{name}.{_DOMAIN}"


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """Paths of the PEM files."""

    certificate: Path
    """The certificate of this process, with its chain."""
    key: Path
    """The private key of the certificate."""
    authorities: Path
    """The trusted certificate authorities. Contains two during a rotation."""


@dataclass(frozen=True, slots=True)
class TLSCredentials:
    """Contents of the PEM files, with matching key and certificate."""

    certificate: bytes
    key: bytes
    authorities: bytes


class Certificates:
    """The current credentials. Thread-safe."""

    def __init__(self, files: TLSFiles) -> None:
        """Read the files.

        Raises:
            StartError: A file cannot be read, or key and certificate do not match.
        """
        self._files = files
        self._lock = threading.Lock()
        try:
            self._stamp = _stamp(files)
            self._credentials = _read(files)
        except (OSError, ValueError) as exc:
            raise StartError(
                f"Cannot use the TLS files: {exc}. Check TLS_CERTIFICATE_FILE, TLS_KEY_FILE and TLS_CA_FILE."
            ) from exc
        self._next_check_at = time.monotonic() + _CHECK_SECONDS
        self._last_error = ""

    def current(self) -> TLSCredentials:
        """Return the current credentials, or the last valid ones while the files are invalid.

        Returns the same object until the credentials change.
        """
        if time.monotonic() >= self._next_check_at:
            with self._lock:
                self._check()
        return self._credentials

    def _check(self) -> None:
        self._next_check_at = time.monotonic() + _CHECK_SECONDS
        try:
            stamp = _stamp(self._files)
            if stamp == self._stamp:
                self._last_error = ""
                return
            credentials = _read(self._files)
            if _stamp(self._files) != stamp:
                return  # The files are being replaced. The next check will find them complete.
        except (OSError, ValueError) as exc:
            if str(exc) != self._last_error:
                self._last_error = str(exc)
                _log.warning("Cannot use the TLS files; keeping the current ones", extra={"error": str(exc)})
            return
        self._stamp, self._credentials, self._last_error = stamp, credentials, ""
        _log.info("TLS certificate renewed", extra={"file": str(self._files.certificate)})


def server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Return the credentials of a port that requires client certificates and uses renewed files immediately."""
    current = certificates.current()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal current
        now = certificates.current()
        if now is current:
            # Returning a configuration, even an equal one, replaces the one that handshakes in other threads are using.
            # Two clients that connected at the same time could crash the process (seen with gRPC 1.85).
            return None
        current = now
        return _configuration(now)

    # gRPC calls this before each handshake, in a separate thread, one call at a time per port.
    fetch: Any = renewed  # The stubs omit None, which gRPC documents as "no change".
    return grpc.dynamic_ssl_server_credentials(_configuration(current), fetch, require_client_authentication=True)


def _configuration(now: TLSCredentials) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(now.key, now.certificate)], root_certificates=now.authorities)


def channel_credentials(credentials: TLSCredentials) -> grpc.ChannelCredentials:
    """Return credentials of a channel. gRPC cannot change them later, so channel.py opens a new channel."""
    return grpc.ssl_channel_credentials(
        root_certificates=credentials.authorities,
        private_key=credentials.key,
        certificate_chain=credentials.certificate,
    )


def _stamp(files: TLSFiles) -> _Stamp:
    """Return a value that changes whenever a file does. Kubernetes replaces a symlink, so it includes the inode."""
    stats = (path.stat() for path in (files.certificate, files.key, files.authorities))
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)


def _read(files: TLSFiles) -> TLSCredentials:
    """Read the three files and check them with OpenSSL.

    Raises:
        OSError: A file cannot be read, or is invalid (`ssl.SSLError`, a subclass).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    context.load_verify_locations(files.authorities)
    return TLSCredentials(files.certificate.read_bytes(), files.key.read_bytes(), files.authorities.read_bytes())
