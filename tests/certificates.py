"""Certificates for tests: an authority, and the files that a service is configured with."""

from pathlib import Path

import trustme

from services.common.rpc.tls import Certificates, TLSFiles, identity


class Issued:
    """The three files of one identity, which can be reissued."""

    def __init__(self, folder: Path, name: str) -> None:
        """Store the files of `name` in a separate folder."""
        self.name = name
        self.files = TLSFiles(*(folder / name / file for file in ("tls.crt", "tls.key", "ca.crt")))

    @property
    def environment(self) -> dict[str, str]:
        """The settings that name the files."""
        names = ("TLS_CERTIFICATE_FILE", "TLS_KEY_FILE", "TLS_CA_FILE")
        files = (self.files.certificate, self.files.key, self.files.authorities)
        return {name: str(file) for name, file in zip(names, files, strict=True)}

    @property
    def certificates(self) -> Certificates:
        """The client credentials of this identity."""
        return Certificates(self.files)

    def issue(self, authority: trustme.CA, *trusted: trustme.CA) -> "Issued":
        """Write a new certificate and key, and the trusted authorities: the issuing one, or those given."""
        leaf = authority.issue_cert(identity(self.name))
        self.files.certificate.parent.mkdir(parents=True, exist_ok=True)
        self.files.key.write_bytes(leaf.private_key_pem.bytes())
        self.files.certificate.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
        self.trust(*(trusted or (authority,)))
        return self

    def trust(self, *authorities: trustme.CA) -> None:
        """Trust these authorities from now on, and no others."""
        self.files.authorities.write_bytes(b"".join(one.cert_pem.bytes() for one in authorities))
