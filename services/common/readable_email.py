"""Display form of e-mail addresses."""

import idna


def readable_email(email: str) -> str:
    """Return an address with its domain decoded from Punycode, or unchanged if the domain cannot be decoded."""
    local, _, domain = email.rpartition("@")
    try:
        return f"{local}@{idna.decode(domain)}" if "xn--" in domain else email
    except idna.IDNAError:
        return email
