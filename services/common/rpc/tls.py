"""Mutual TLS between the services, with certificates that are renewed while the process runs.

Whoever renews the files (cert-manager, an operator) tells nobody; they are looked at again, at most once a second, when
a connection is accepted or a call is made. What is found is used only when key and certificate belong together, so
files that are being replaced one after the other never end the service: it goes on with what it has, and says so once.
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
_LOOK_SECONDS = 1.0

_log = logging.getLogger(__name__)
_Stamp = tuple[tuple[int, int, int], ...]


def identity(name: str) -> str:
    """Return the DNS name that the certificate of a service bears, whichever way it is dialled."""
    return f"{name}.{_DOMAIN}"


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """Where the PEM files are."""

    certificate: Path
    """The process' own certificate, the chain behind it included."""
    key: Path
    """The certificate's private key."""
    authorities: Path
    """The authorities whose certificates are believed; two of them while one gives way to the other."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the files held at one moment, key and certificate belonging together."""

    certificate: bytes
    key: bytes
    authorities: bytes


class Certificates:
    """The credentials that are good now. Safe to use from any thread."""

    def __init__(self, files: TLSFiles) -> None:
        """Read the files.

        Raises:
            StartError: One cannot be read, or they do not belong together.
        """
        self._files = files
        self._lock = threading.Lock()
        try:
            self._seen = _stamp(files)
            self._credentials = _read(files)
        except (OSError, ValueError) as exc:
            raise StartError(
                f"cannot use the TLS files: {exc}; check TLS_CERTIFICATE_FILE, TLS_KEY_FILE and TLS_CA_FILE"
            ) from exc
        self._look_at = time.monotonic() + _LOOK_SECONDS
        self._trouble = ""

    def current(self) -> Credentials:
        """Return what the files hold, or the last good content while they make no sense; the same object while so."""
        if time.monotonic() >= self._look_at:
            with self._lock:
                self._look()
        return self._credentials

    def _look(self) -> None:
        self._look_at = time.monotonic() + _LOOK_SECONDS
        try:
            seen = _stamp(self._files)
            if seen == self._seen:
                self._trouble = ""
                return
            credentials = _read(self._files)
            if _stamp(self._files) != seen:
                return  # They are being replaced this moment; the next look will find them whole.
        except (OSError, ValueError) as exc:
            if str(exc) != self._trouble:
                self._trouble = str(exc)
                _log.warning("the TLS files cannot be used; going on with the old ones", extra={"error": str(exc)})
            return
        self._seen, self._credentials, self._trouble = seen, credentials, ""
        _log.info("the TLS certificate was renewed", extra={"file": str(self._files.certificate)})


def server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Return credentials of one port that demands its callers' certificates and uses renewed files at once."""
    given = certificates.current()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        now = certificates.current()
        if now is given:
            # A configuration, even an equal one, replaces what handshakes of other threads are using at this moment,
            # without their knowing: two callers that connected together could end the process (seen with gRPC 1.85).
            return None
        given = now
        return _configuration(now)

    # gRPC asks before each handshake, in a thread of its own, one at a time for each port.
    fetch: Any = renewed  # The stubs do not know of None, which grpc documents as "no change".
    return grpc.dynamic_ssl_server_credentials(_configuration(given), fetch, require_client_authentication=True)


def _configuration(now: Credentials) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(now.key, now.certificate)], root_certificates=now.authorities)


def channel_credentials(credentials: Credentials) -> grpc.ChannelCredentials:
    """Return credentials of a channel; gRPC cannot change them later (channel.py makes a new channel)."""
    return grpc.ssl_channel_credentials(
        root_certificates=credentials.authorities,
        private_key=credentials.key,
        certificate_chain=credentials.certificate,
    )


def _stamp(files: TLSFiles) -> _Stamp:
    """Return what changes when a file does; Kubernetes swaps a link, so the inode tells as well as the time."""
    found = (path.stat() for path in (files.certificate, files.key, files.authorities))
    return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in found)


def _read(files: TLSFiles) -> Credentials:
    """Read all three, checked as OpenSSL would use them.

    Raises:
        OSError: One cannot be read. `ssl.SSLError`, of which this is the base, tells what does not fit.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    context.load_verify_locations(files.authorities)
    return Credentials(files.certificate.read_bytes(), files.key.read_bytes(), files.authorities.read_bytes())
