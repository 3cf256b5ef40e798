"""E-mail addresses as people write them."""

import idna


def readable_email(email: str) -> str:
    """Return an address as its owner writes it, the domain in its own script."""
    local, _, domain = email.rpartition("@")
    try:
        return f"{local}@{idna.decode(domain)}" if "xn--" in domain else email
    except idna.IDNAError:
        return email
