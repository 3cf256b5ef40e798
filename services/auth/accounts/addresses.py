"""Normalise e-mail addresses, and find those that reach the same mailbox."""

import re
import unicodedata

import idna

from services.common.errors import InvalidRequest

_CHARACTERS_MAX = 254  # RFC 5321: a path of 256 characters with its two brackets.
_LOCAL_CHARACTERS_MAX = 64
_TYPED_CHARACTERS_MAX = 1_000
"""Longer text is refused before anything else looks at it: decomposed characters are a few times as many."""
# What RFC 5322 writes without quotes. Commas, semicolons, colons, brackets and comments would make a mail program see
# other addresses in it: a sign-up could then send mail to any number of people.
_SPECIAL = frozenset("!#$%&'*+/=?^_`{|}~-")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_IGNORES_DOTS = {"gmail.com": "gmail.com", "googlemail.com": "gmail.com"}
"""Providers that deliver an address whatever dots are in it, and the one name under which theirs are compared."""


def normalised_email(text: str) -> str:
    """Return an e-mail address in the one form in which it is kept and compared.

    Characters are composed (NFC) and in lower case, and the domain is in punycode (IDNA 2008). The check is of shape
    only: whether mail arrives there, only mail can tell.

    Raises:
        InvalidRequest: The text is no e-mail address.
    """
    # The length first, so that no pattern is tried on a text of megabytes.
    if len(text) > _TYPED_CHARACTERS_MAX or not text.strip().isprintable():
        raise _no_email()
    local, _, domain = _composed(_composed(text.strip()).lower()).rpartition("@")
    email = f"{local}@{_in_punycode(domain)}"
    if len(email) > _CHARACTERS_MAX or len(local) > _LOCAL_CHARACTERS_MAX:
        raise _no_email()
    if not all(_is_atom(part) for part in local.split(".")):
        raise _no_email()
    return email


def identity_of(email: str) -> str:
    """Return what a normalised address has in common with the others that reach the same person.

    Mail servers deliver `ada+tag@…` to `ada@…`, and some providers ignore dots; one mailbox would otherwise open as
    many accounts as its owner likes.
    """
    local, _, domain = email.rpartition("@")
    name = local.partition("+")[0] or local
    if domain in _IGNORES_DOTS:
        name, domain = name.replace(".", ""), _IGNORES_DOTS[domain]
    return f"{name}@{domain}"


def domain_of(email: str) -> str:
    """Return the domain of a normalised address, in punycode."""
    return email.rpartition("@")[2]


def needs_smtputf8(email: str) -> bool:
    """Whether only mail servers with SMTPUTF8 (RFC 6531) take mail to a normalised address."""
    return not email.isascii()


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _in_punycode(domain: str) -> str:
    try:
        name = domain if domain.isascii() else idna.encode(domain, uts46=True).decode()
        labels = name.split(".")
        # A label that says that it is punycode must be.
        shown = [idna.decode(label) for label in labels if label.startswith("xn--")]
    except (idna.IDNAError, UnicodeError) as exc:
        raise _no_email() from exc
    if len(labels) < 2 or not all(_LABEL.fullmatch(label) for label in labels) or "" in shown:
        raise _no_email()
    return name


def _is_atom(text: str) -> bool:
    """Whether a text has only letters, marks, digits and specials, and does not begin with a mark."""
    return bool(text) and unicodedata.category(text[0])[0] != "M" and all(map(_is_of_an_atom, text))


def _is_of_an_atom(character: str) -> bool:
    return character in _SPECIAL or unicodedata.category(character)[0] in "LMN"


def _no_email() -> InvalidRequest:
    return InvalidRequest("That is no e-mail address. Write one such as ada@example.com.", reason="invalid_email")
